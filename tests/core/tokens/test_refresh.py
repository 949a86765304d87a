"""Refresh tokens: two tabs, lost responses and retries log nobody out; a thief does not stay."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coatcheck import Sessions
from coatcheck.record import SessionRecord
from coatcheck.stores.contract import Store
from coatcheck.stores.memory import MemoryStore
from coatcheck.stores.sqlite import SQLiteStore
from coatcheck.testing import GatedStore, ManualClock
from coatcheck.tokens import AccessTokens, KeyRing, RefreshRefused, RefreshTokens, TokenPair
from coatcheck.tokens.refresh import GRACE, MOST_IN_GRACE

OpenStore = Callable[[ManualClock], Store]


class Node:
    def __init__(self, clock: ManualClock, store: Store, keys: KeyRing) -> None:
        self.clock = clock
        self.store = GatedStore(store)
        self.sessions = Sessions(self.store, clock=clock, lifetime=1_000_000.0, idle_timeout=500_000.0)
        self.access = AccessTokens(keys, issuer="https://me", audience="https://me")
        self.refresh = RefreshTokens(self.sessions, self.access)

    async def log_in(self) -> TokenPair:
        session = await self.sessions.load(None)
        await session.log_in("user")
        assert session.record is not None
        return await self.refresh.begin(session.record)

    async def is_alive(self, pair: TokenPair) -> bool:
        return isinstance(await self.store.inner.read(pair.refresh_token[:22]), SessionRecord)

    async def error(self, token: str) -> str:
        with pytest.raises(RefreshRefused) as refused:
            await self.refresh.exchange(token)
        return refused.value.reason


@pytest.fixture(params=["memory", "sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    if request.param == "sqlite":
        return lambda clock: SQLiteStore(tmp_path / "s.sqlite3", clock=clock)
    made: list[MemoryStore] = []

    def one(clock: ManualClock) -> MemoryStore:
        made.extend([] if made else [MemoryStore(clock=clock)])
        return made[0]

    return one


@asynccontextmanager
async def nodes(open_store: OpenStore, count: int = 2) -> AsyncIterator[list[Node]]:
    clock = ManualClock()
    keys = KeyRing(clock=clock)
    made = [Node(clock, open_store(clock), keys) for _ in range(count)]
    try:
        for node in made:
            await node.sessions.start()
        yield made
    finally:
        for node in made:
            await node.sessions.close()


async def test_each_token_gives_the_next_and_the_session_stays(open_store: OpenStore) -> None:
    async with nodes(open_store) as (one, two):
        pair = await one.log_in()
        seen = {pair.refresh_token}
        for node in (one, two, one, two):
            one.clock.advance(60)
            claims = node.access.verify(pair.access_token)
            assert claims.sid == pair.refresh_token[:22]
            pair = await node.refresh.exchange(pair.refresh_token)
            assert pair.refresh_token not in seen
            seen.add(pair.refresh_token)
        assert await one.is_alive(pair)


async def test_two_tabs_at_once_get_one_answer(open_store: OpenStore) -> None:
    """https://github.com/supabase/auth-js/issues/213"""
    async with nodes(open_store) as (one, two):
        pair = await one.log_in()
        answers = await asyncio.gather(
            *((one, two)[number % 2].refresh.exchange(pair.refresh_token) for number in range(8))
        )
        assert len({answer.refresh_token for answer in answers}) == 1
        following = await two.refresh.exchange(answers[0].refresh_token)
        assert await one.is_alive(following)


async def test_two_exchanges_that_meet_in_the_store_are_one(open_store: OpenStore) -> None:
    async with nodes(open_store) as (one, two):
        pair = await one.log_in()
        gates = [node.store.hold("apply", "before") for node in (one, two)]
        both = [asyncio.ensure_future(node.refresh.exchange(pair.refresh_token)) for node in (one, two)]
        for gate in gates:
            await gate.arrived.wait()
        for gate in gates:
            gate.release()
        first, second = await asyncio.gather(*both)
        assert first.refresh_token == second.refresh_token


async def test_a_lost_response_is_given_again_within_the_grace(open_store: OpenStore) -> None:
    async with nodes(open_store) as (one, two):
        pair = await one.log_in()
        lost = await one.refresh.exchange(pair.refresh_token)
        one.clock.advance(GRACE)
        again = await two.refresh.exchange(pair.refresh_token)
        assert again.refresh_token == lost.refresh_token
        assert await one.refresh.exchange(again.refresh_token)


async def test_a_spent_token_whose_successor_was_used_gives_nothing_and_harms_nobody(open_store: OpenStore) -> None:
    async with nodes(open_store) as (one, _):
        first = await one.log_in()
        second = await one.refresh.exchange(first.refresh_token)
        third = await one.refresh.exchange(second.refresh_token)
        assert "successor has been used" in await one.error(first.refresh_token)
        assert await one.is_alive(first)
        assert await one.refresh.exchange(third.refresh_token)


async def test_a_spent_token_after_the_grace_ends_the_session_and_says_why(open_store: OpenStore) -> None:
    async with nodes(open_store) as (one, two):
        ended: list[tuple[str, str]] = []
        one.sessions.on_end.append(lambda session_id, reason: ended.append((session_id, reason)))
        first = await one.log_in()
        second = await two.refresh.exchange(first.refresh_token)
        one.clock.advance(GRACE + 0.1)
        assert "its session was ended" in await one.error(first.refresh_token)
        assert ended == [(first.refresh_token[:22], "refresh token reused")]
        assert "no live session" in await two.error(second.refresh_token)


async def test_a_token_used_long_ago_is_still_known_for_what_it_is(open_store: OpenStore) -> None:
    async with nodes(open_store) as (one, _):
        stolen = pair = await one.log_in()
        for _ in range(60):
            one.clock.advance(200)
            pair = await one.refresh.exchange(pair.refresh_token)
        assert "its session was ended" in await one.error(stolen.refresh_token)
        assert not await one.is_alive(pair)


async def test_a_token_that_was_never_issued_ends_nothing(open_store: OpenStore) -> None:
    async with nodes(open_store) as (one, _):
        pair = await one.log_in()
        other = await one.log_in()
        session_id, rest = pair.refresh_token.split(".")
        guesses = [
            "",
            "x",
            session_id,
            pair.refresh_token[:-1],
            pair.refresh_token + "A",
            "é" * 109,
            f"{session_id}.{'A' * 86}",
            f"{session_id}.{'A' * 43}{rest[43:]}",
            f"{other.refresh_token[:22]}.{rest}",
            pair.access_token,
        ]
        for guess in guesses:
            with pytest.raises(RefreshRefused):
                await one.refresh.exchange(guess)
        assert await one.is_alive(pair)
        assert await one.is_alive(other)
        assert await one.refresh.exchange(pair.refresh_token)


async def test_an_ended_session_gives_nothing_even_to_an_exchange_under_way(open_store: OpenStore) -> None:
    async with nodes(open_store) as (one, two):
        for end in ("end", "end_user"):
            pair = await one.log_in()
            gate = one.store.hold("apply", "before")
            exchanging = asyncio.ensure_future(one.refresh.exchange(pair.refresh_token))
            await gate.arrived.wait()
            await (two.sessions.end(pair.refresh_token[:22]) if end == "end" else two.sessions.end_user("user"))
            gate.release()
            with pytest.raises(RefreshRefused, match="no live session"):
                await exchanging
            assert not await one.is_alive(pair)


async def test_revoking_ends_the_session_and_a_stranger_revokes_nothing(open_store: OpenStore) -> None:
    async with nodes(open_store) as (one, _):
        pair = await one.log_in()
        await one.refresh.revoke(pair.refresh_token[:23] + "A" * 86)
        await one.refresh.revoke("no token")
        assert await one.is_alive(pair)
        await one.refresh.revoke(pair.refresh_token)
        await one.refresh.revoke(pair.refresh_token)
        assert not await one.is_alive(pair)


async def test_a_client_in_a_hurry_is_asked_to_wait_and_stays_logged_in(open_store: OpenStore) -> None:
    async with nodes(open_store) as (one, _):
        pair = await one.log_in()
        for _ in range(MOST_IN_GRACE):
            pair = await one.refresh.exchange(pair.refresh_token)
        with pytest.raises(RefreshRefused, match="too often") as refused:
            await one.refresh.exchange(pair.refresh_token)
        assert refused.value.error == "slow_down"
        one.clock.advance(GRACE + 1)
        assert await one.refresh.exchange(pair.refresh_token)


async def test_nothing_at_rest_gives_a_token(open_store: OpenStore) -> None:
    async with nodes(open_store) as (one, _):
        first = await one.log_in()
        second = await one.refresh.exchange(first.refresh_token)
        record = await one.store.inner.read(first.refresh_token[:22])
        assert isinstance(record, SessionRecord)
        stored = record.system["refresh"]
        for token in (first.refresh_token, second.refresh_token):
            assert token[23:66].encode() not in stored
            assert token[66:].encode() not in stored
        assert "TokenPair for" in repr(first)
        assert first.refresh_token not in repr(first)


async def test_another_users_login_on_the_session_leaves_no_refresh_token_behind(open_store: OpenStore) -> None:
    async with nodes(open_store) as (one, _):
        pair = await one.log_in()
        claims = one.access.verify(pair.access_token)
        session = await one.sessions.load_bearer(claims.sid, claims.gen, claims.sub)
        await session.log_in("somebody else")
        assert "no live session" in await one.error(pair.refresh_token)


async def test_values_written_meanwhile_survive_an_exchange(open_store: OpenStore) -> None:
    async with nodes(open_store) as (one, two):
        pair = await one.log_in()
        claims = one.access.verify(pair.access_token)
        session = await two.sessions.load_bearer(claims.sid, claims.gen, claims.sub)
        gate = one.store.hold("apply", "before")
        exchanging = asyncio.ensure_future(one.refresh.exchange(pair.refresh_token))
        await gate.arrived.wait()
        session["cart"] = ["hat"]
        await session.commit()
        gate.release()
        await exchanging
        await session.reload()
        assert session["cart"] == ["hat"]
