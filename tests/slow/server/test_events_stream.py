"""`GET /v1/events` as server-sent events: what a reader is told, from where on, and when it ends."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from coatcheck.accounts import AccountsUnavailable
from coatcheck.accounts.activity import WINDOW
from coatcheck.accounts.database import Database
from coatcheck.server.activity import following
from coatcheck.server.events import stream
from coatcheck.tokens.sse import EventParser
from tests.clients.streaming import StreamingTransport
from tests.core.server.house import ORIGIN, PASSWORD, House, bearer, log_in_for_tokens, session_id
from tests.slow.server.test_rest_problems import assert_problem

PATH = "/v1/events"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL", 0.01)


class Reader:
    """One reader of the events."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.raw = b""
        self._parser = EventParser()
        self._pieces = answer.aiter_raw()
        self._events: list[tuple[str, Any, str]] = []

    async def next(self) -> tuple[str, Any, str]:
        """The next event: its name, its data, and the id so far."""
        async with asyncio.timeout(10):
            while not self._events:
                await self.more()
        return self._events.pop(0)

    async def more(self) -> None:
        piece = await anext(self._pieces)
        self.raw += piece
        self._events += [(event, json.loads(data), id) for event, data, id in self._parser.feed(piece)]

    @property
    def place(self) -> str:
        """Where a browser would resume, whether or not the last id came with an event."""
        return self._parser.last_id

    async def kinds(self, number: int) -> list[str]:
        return [(await self.next())[0] for _ in range(number)]

    async def rest(self) -> list[tuple[str, Any, str]]:
        """What comes before the end."""
        found: list[tuple[str, Any, str]] = []
        with contextlib.suppress(StopAsyncIteration):
            while True:
                found.append(await self.next())
        return found


@asynccontextmanager
async def reading(
    house: House, client: httpx.AsyncClient, last_id: str | None = None, network: StreamingTransport | None = None
) -> AsyncIterator[Reader]:
    """Read as a client that is logged in does, with its cookie or its token. What was before is written down by then."""
    await house.activity.flush()
    headers = {"accept": "text/event-stream"} | ({} if last_id is None else {"last-event-id": last_id})
    if "authorization" in client.headers:
        headers["authorization"] = client.headers["authorization"]
    transport = network or StreamingTransport(house.app)
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, cookies=client.cookies) as reader:
        async with reader.stream("GET", PATH, headers=headers) as answer:
            assert answer.status_code == 200, await answer.aread()
            yield Reader(answer)


async def test_only_whoever_is_logged_in_is_told(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        assert_problem(await client.get(PATH), 401)
        ada = await house.log_in("ada")
        await ada.post("/v1/logout")
        assert_problem(await ada.get(PATH), 401)


async def test_a_reader_is_told_what_happens_to_their_own_sessions_and_nothing_of_others(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        ada, bob = await house.log_in("ada"), await house.log_in("bob")
        async with reading(house, ada) as told, reading(house, bob) as his:
            assert told.answer.headers["content-type"] == "text/event-stream"
            assert told.answer.headers["cache-control"] == "no-store"
            assert (await told.next())[:2] == ("begin", {})
            assert (await told.next())[0] == "opened"  # this very connection
            assert await his.kinds(2) == ["begin", "opened"]
            house.clock.advance(5)
            other = await house.log_in("ada", headers={"user-agent": "two"})
            sid = await session_id(other)
            kind, data, _ = await told.next()
            assert (kind, data["session"], data["at"]) == ("created", sid, "2023-11-14T22:13:25Z")
            assert (data["detail"]["address"], data["detail"]["user_agent"]) == ("192.0.2.7", "two")
            await ada.patch(f"/v1/sessions/{sid}", json={"name": "phone"})
            await ada.delete(f"/v1/sessions/{sid}")
            assert [(kind, data["detail"]) for kind, data, _ in [await told.next(), await told.next()]] == [
                ("renamed", {"name": "phone"}),
                ("ended", {"reason": "ended by user"}),
            ]
            await bob.post("/v1/reauthenticate", json={"password": PASSWORD})
            assert sid not in his.raw.decode()
        assert b"retry: 1000\n" in told.raw


async def test_the_end_of_this_very_session_is_said_and_ends_the_answer(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        async with reading(house, client) as told:
            assert (await told.kinds(2)) == ["begin", "opened"]
            await client.post("/v1/logout")
            assert (await told.rest())[-1][:2] == ("session-ended", {"reason": "logout"})
        assert house.activity.followers == 0


async def test_an_access_token_is_as_good_as_a_cookie(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        await house.register("ada")
        login = await log_in_for_tokens(client, "ada")
        client.headers.update(bearer(login["access_token"]))
        async with reading(house, client) as told:
            assert await told.kinds(2) == ["begin", "opened"]
            await client.post("/v1/token/revoke", json={"token": login["refresh_token"]})
            assert (await told.rest())[-1][:2] == ("session-ended", {"reason": "revoked"})


async def test_whoever_resumes_is_told_what_was_missed(tmp_path: Path) -> None:
    async with House(tmp_path) as house, House(tmp_path) as elsewhere:
        client = await house.log_in("ada")
        async with reading(house, client) as told:
            await told.next()
            _, _, last = await told.next()
        other = await house.log_in("ada")
        await house.activity.flush()
        async with reading(elsewhere, client, last) as told:
            assert await told.next() == ("begin", {}, last)
            # The end of the connection before, and all since.
            found = [await told.next() for _ in range(3)]
            assert [kind for kind, _, _ in found] == ["closed", "created", "opened"]
            assert found[1][1]["session"] == await session_id(other)


@pytest.mark.parametrize("last", ["", "x", "x" * 22, "9" * 5000])
async def test_an_id_that_is_none_is_a_reset(tmp_path: Path, last: str) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        async with reading(house, client, last) as told:
            assert (await told.next())[:2] == ("reset", {})
            assert (await told.next())[0] == "opened"


async def test_another_users_id_is_a_reset_and_tells_nothing_of_them(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        ada, bob = await house.log_in("ada"), await house.log_in("bob")
        async with reading(house, bob) as his:
            _, _, last = await his.next()
        stranger = await house.log_in("bob")
        async with reading(house, ada, last) as told:
            assert (await told.next())[:2] == ("reset", {})
            assert (await told.next())[0] == "opened"
        assert (await session_id(stranger)) not in told.raw.decode()


async def test_an_id_from_before_the_window_is_a_reset(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        async with reading(house, client) as told:
            last = (await told.next())[2]
            await told.next()
        await house.activity.flush()
        house.clock.advance(WINDOW + 1)
        assert await house.activity._log.prune(house.clock.time()) == 2
        async with reading(house, client, last) as told:
            assert (await told.next())[:2] == ("reset", {})


async def test_silence_has_heartbeats_that_move_the_place_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT", 0.02)
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        async with reading(house, client) as told:
            await told.next()
            last = (await told.next())[2]
            house.activity.record("renamed", "s" * 22, user_id="B" * 22)  # so that the log goes on without this user
            async with asyncio.timeout(10):
                while told.place == last:
                    await told.more()
            place = told.place
            assert told.raw.endswith(f"\n\n:\nid: {place}\n\n".encode())
        async with reading(house, client, place) as told:
            assert await told.next() == ("begin", {}, place)
            assert (await told.next())[0] == "closed"


async def test_a_reader_that_vanishes_leaves_nothing(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        async with reading(house, client) as told:
            await told.next()
            assert house.activity.followers == 1
            assert len(house.sessions.connections) == 1
        assert house.activity.followers == 0
        assert len(house.sessions.connections) == 0


async def test_a_worker_that_leaves_ends_the_answer_so_that_the_reader_resumes_elsewhere(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        async with reading(house, client) as told:
            _, _, last = await told.next()
            house.worker.leave()
            assert [kind for kind, _, _ in await told.rest()] in ([], ["opened"])
        async with House(tmp_path) as another, reading(another, client, last) as told:
            assert (await told.next())[:2] == ("begin", {})


async def test_where_the_accounts_cannot_be_asked_the_answer_is_503(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(*_: object) -> None:
        raise AccountsUnavailable("The accounts' database cannot be asked: SQLITE_BUSY.")

    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        await house.activity.flush()
        with monkeypatch.context() as away:
            away.setattr(Database, "run", unavailable)
            answer = await client.get(PATH)
            assert_problem(answer, 503)
            assert answer.headers["retry-after"]
        assert house.activity.followers == 0


async def test_head_tells_the_headers_and_does_not_wait_for_the_end(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        async with asyncio.timeout(5):
            answer = await client.head(PATH)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"] == "text/event-stream"
        assert house.activity.followers == 0
        assert len(house.sessions.connections) == 0


async def test_a_page_of_another_site_cannot_read_it(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        house.activity.leave()
        client = await house.log_in("ada")
        answer = await client.get(PATH, headers={"origin": "https://evil.example", "sec-fetch-site": "cross-site"})
        assert not any(name.startswith("access-control-") for name in answer.headers)
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
