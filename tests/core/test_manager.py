"""The manager beside HTTP: lists, hooks, events, upkeep, and what happens around live connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from coatcheck import SessionEvent, SessionInfo, Sessions, StoreUnavailable, UsageError
from coatcheck.connections import UNCONFIRMED, Interruption
from coatcheck.session import Session
from coatcheck.stores.memory import MemoryStore
from coatcheck.testing import GatedStore, ManualClock


class Node:
    def __init__(self, clock: ManualClock, memory: MemoryStore) -> None:
        self.clock = clock
        self.store = GatedStore(memory)
        self.sessions = Sessions(self.store, clock=clock, idle_timeout=1000.0, touch_interval=10.0, lifetime=5000.0)

    async def log_in(self, user_id: str = "user") -> tuple[Session, bytes]:
        session = await self.sessions.load(None)
        await session.log_in(user_id, about={"user_agent": "test"})
        assert session.cookie_change is not None
        return session, (session.cookie_change.token or "").encode()


@asynccontextmanager
async def node() -> AsyncIterator[Node]:
    clock = ManualClock()
    made = Node(clock, MemoryStore(clock=clock))
    async with made.sessions:
        yield made


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def test_a_users_sessions_are_listed_with_what_was_seen_of_the_client() -> None:
    async with node() as here:
        first, token = await here.log_in()
        here.clock.advance(5)
        await here.log_in()
        await here.log_in("other")
        here.clock.advance(5)
        await here.sessions.load(token)
        listed = await here.sessions.list_user("user")
        assert listed[0].id == first.id
        assert len(listed) == 2
        assert isinstance(listed[0], SessionInfo)
        assert listed[0].about == {"user_agent": "test"}
        assert listed[0].last_seen_at == here.clock.time(), "what this node knows counts before it is written"
        here.clock.advance(5000)
        assert await here.sessions.list_user("user") == []


async def test_hooks_are_told_and_their_failures_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with node() as here:
        told: list[Any] = []

        async def on_login(info: SessionInfo) -> None:
            told.append(("login", info.user_id))
            raise ZeroDivisionError

        here.sessions.on_login.append(on_login)
        here.sessions.on_end.append(lambda session_id, reason: told.append((session_id, reason)))
        session, token = await here.log_in()
        session_id = session.id
        assert await here.sessions.end(session_id or "", "because")
        assert told == [("login", "user"), (session_id, "because")]
        assert "ZeroDivisionError" in caplog.text
        assert token.decode() not in caplog.text


async def test_after_an_end_no_copy_is_believed_of_what_the_store_had_lost_without_a_word() -> None:
    """As when it has come back from a crash without it, or another node was quicker and the feed has not told yet."""
    async with node() as here:
        for end in ("end", "log_out"):
            session, token = await here.log_in()
            closed: list[str] = []
            assert session.record is not None
            here.sessions.watch(session.record, kind="test", close=closed.append)
            store = here.store.inner
            del store._records[session.id or ""]
            assert here.sessions.load_cached(token) is not None
            if end == "end":
                assert not await here.sessions.end(session.id or "")
            else:
                await session.log_out()
            assert here.sessions.load_cached(token) is None
            assert not (await here.sessions.load(token)).is_authenticated
            await until(lambda closed=closed: closed)
            assert closed == ["the session has ended"]


async def test_events_tell_what_happens_on_another_node() -> None:
    async with node() as here:
        other = Node(here.clock, here.store.inner)  # type: ignore[arg-type]
        async with other.sessions:
            events = other.sessions.events()
            first = asyncio.ensure_future(anext(events))
            await until(lambda: other.sessions._feed and other.sessions._feed.listeners)
            session, _ = await here.log_in()
            session_id = session.id
            await session.log_out()
            assert await first == SessionEvent(kind="ended", id=session_id or "", reason="logout")
            await events.aclose()
            assert other.sessions._feed is not None
            assert other.sessions._feed.listeners == []


async def test_an_id_that_is_none_ends_nothing() -> None:
    async with node() as here:
        here.store.calls.clear()
        for bad in ("", "x", "../../etc/passwd", "A" * 23, "é" * 22):
            assert not await here.sessions.end(bad)
        assert here.store.calls == {}


async def test_last_seen_times_are_written_in_batches_and_never_lost() -> None:
    async with node() as here:
        tokens = [(await here.log_in())[1] for _ in range(3)]
        here.clock.advance(1)
        for _ in range(5):
            for token in tokens:
                await here.sessions.load(token)
        assert here.store.calls["touch"] == 0
        here.store.down = True
        with pytest.raises(StoreUnavailable):
            await here.sessions._flush()
        here.store.down = False
        await here.sessions._flush()
        assert here.store.calls["touch"] == 1
        listed = await here.sessions.list_user("user")
        assert {info.last_seen_at for info in listed} == {here.clock.time()}


async def test_what_expired_is_swept_by_itself() -> None:
    async with node() as here:
        await here.log_in()
        await asyncio.sleep(0)  # upkeep begins
        here.clock.advance(5000 + 3601)
        await until(lambda: here.store.calls["sweep"])
        assert here.store.inner._records == {}  # type: ignore[attr-defined]


class Connection:
    def __init__(self, here: Node, session: Session) -> None:
        self.reasons: list[str] = []
        assert session.record is not None
        self.live = here.sessions.watch(session.record, kind="test", close=self.reasons.append)


async def test_live_connections_close_with_their_session_here_and_on_other_nodes() -> None:
    async with node() as here:
        other = Node(here.clock, here.store.inner)  # type: ignore[arg-type]
        async with other.sessions:
            session, token = await here.log_in()
            local, remote = Connection(here, session), Connection(other, await other.sessions.load(token))
            spared, _ = await here.log_in()
            bystander = Connection(here, spared)
            await session.log_out()
            await until(lambda: local.reasons and remote.reasons)
            assert (local.reasons, remote.reasons, bystander.reasons) == (["logout"], ["logout"], [])
            assert len(here.sessions.connections) == 1


async def test_a_new_secret_closes_what_the_old_one_opened() -> None:
    async with node() as here:
        other = Node(here.clock, here.store.inner)  # type: ignore[arg-type]
        async with other.sessions:
            session, token = await here.log_in()
            old = [Connection(here, session), Connection(other, await other.sessions.load(token))]
            await session.regenerate()
            new = Connection(here, session)
            await until(lambda: all(connection.reasons for connection in old))
            assert new.reasons == []


async def test_live_connections_close_when_the_session_expires() -> None:
    async with node() as here:
        session, token = await here.log_in()
        connection = Connection(here, session)
        here.clock.advance(999)
        await here.sessions.load(token)
        here.clock.advance(999)
        await asyncio.sleep(0.6)
        assert connection.reasons == [], "a request on the session keeps its connections open"
        here.clock.advance(17)
        await until(lambda: connection.reasons)
        assert await here.sessions.list_user("user") == []


async def test_after_a_feed_loss_live_connections_are_looked_up_again() -> None:
    async with node() as here:
        gone, _ = await here.log_in()
        stays, _ = await here.log_in()
        closing, staying = Connection(here, gone), Connection(here, stays)
        memory = here.store.inner
        assert isinstance(memory, MemoryStore)
        assert gone.id is not None
        memory._records.pop(gone.id)  # ended, and the feed lost the news
        feed = here.sessions._feed
        assert feed is not None
        from coatcheck.stores.contract import Change

        memory._tell(Change("missed"))
        await until(lambda: closing.reasons)
        assert staying.reasons == []
        assert here.sessions.cache.entries == {}


async def test_while_the_feed_is_silent_what_is_open_is_looked_up_within_the_staleness() -> None:
    async with node() as here:
        session, _ = await here.log_in()
        connection = Connection(here, session)
        here.store.feed_cut = True
        gone = session.id or ""
        await here.store.inner.end([gone], reason="elsewhere", now=here.clock.time())
        await asyncio.sleep(0.1)
        assert connection.reasons == [], "the lease still runs"
        here.clock.advance(2)
        await until(lambda: connection.reasons)
        assert connection.reasons == ["the session has ended"]


async def test_what_cannot_be_confirmed_after_a_loss_is_closed_after_half_a_minute() -> None:
    async with node() as here:
        session, _ = await here.log_in()
        connection = Connection(here, session)
        here.sessions.recheck(session.id or "")
        here.store.down = True
        await asyncio.sleep(0.1)
        assert connection.reasons == []
        here.clock.advance(30)
        await until(lambda: connection.reasons)
        assert connection.reasons == [UNCONFIRMED]
        assert isinstance(connection.reasons[0], Interruption), "no session has ended"


async def test_verbs_on_nothing_say_so() -> None:
    async with node() as here:
        visitor = await here.sessions.load(None)
        for verb in (visitor.regenerate, visitor.reload):
            with pytest.raises(UsageError, match="store something first"):
                await verb()
        with pytest.raises(UsageError, match="id of a user"):
            await visitor.log_in("")
        await visitor.log_out()
        assert visitor.cookie_change is None
        assert await visitor.modify("n", lambda n: (n or 0) + 1) == 1
        assert visitor.cookie_change is not None


async def test_freshness_is_measured_from_the_last_proof() -> None:
    async with node() as here:
        session, token = await here.log_in()
        assert session.is_fresh(10)
        here.clock.advance(11)
        assert not session.is_fresh(10)
        later = await here.sessions.load(token)
        await later.log_in("user")
        assert later.is_fresh(10)
        assert not (await here.sessions.load(None)).is_fresh(1e9)


async def test_a_held_object_that_is_changed_after_a_save_is_noticed() -> None:
    async with node() as here:
        session, token = await here.log_in()
        session["cart"] = cart = ["a"]
        await session.save()
        cart.append("b")
        await session.commit()
        assert (await here.sessions.load(token))["cart"] == ["a", "b"]


async def test_modify_spares_what_else_is_pending_and_what_others_wrote() -> None:
    async with node() as here:
        session, token = await here.log_in()
        session.update(read=[1], mine=[1], counted=0)
        await session.commit()
        one, two = await here.sessions.load(token), await here.sessions.load(token)
        assert one["read"] == [1]
        one["mine"].append(2)
        two["read"].append(2)
        await two.commit()
        assert await one.modify("counted", lambda n: n + 1) == 1
        await one.commit()
        assert dict(await here.sessions.load(token)) == {"read": [1, 2], "mine": [1, 2], "counted": 1}


async def test_no_id_could_be_taken_for_an_option_of_a_command() -> None:
    async with node() as here:
        assert not any(here.sessions.new_id().startswith("-") for _ in range(2000))


async def test_a_session_can_be_described_while_it_lives_and_its_secret_stays() -> None:
    async with node() as made:
        session, token = await made.log_in()
        assert session.id is not None
        assert await made.sessions.describe(session.id, {"name": "my phone"})
        (info,) = await made.sessions.list_user("user")
        assert info.about == {"user_agent": "test", "name": "my phone"}
        assert (await made.sessions.load(token)).about["name"] == "my phone"
        assert await made.sessions.end(session.id)
        assert not await made.sessions.describe(session.id, {"name": "late"})
        assert not await made.sessions.describe("no id", {"name": "nobody"})
        assert await made.sessions.list_user("user") == []
