"""The feed of revocations for services: what it tells, from when on, and when it ends."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from coatcheck import Sessions
from coatcheck.accounts import ServiceAccounts
from coatcheck.record import Changes
from coatcheck.server import revocation_feed
from coatcheck.server.rest import revocations
from coatcheck.server.revocation_feed import Leading, RevocationFeed
from coatcheck.server.revocation_window import RevocationWindow
from coatcheck.stores.contract import Change
from coatcheck.stores.sqlite import SQLiteStore
from coatcheck.tokens.sse import EventParser
from tests.clients.streaming import StreamingTransport
from tests.core.server.house import ORIGIN, House, log_in_for_tokens, session_id
from tests.slow.server.test_rest_problems import assert_problem

PATH = "/v1/revocations"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation_feed, "HEARTBEAT", 0.02)


class Feed:
    """One reader of the feed."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._parser = EventParser()
        self._pieces = answer.aiter_raw()
        self._events: list[tuple[str, Any, str]] = []

    async def next(self) -> tuple[str, Any, str]:
        """The next event: its name, its data, and the id so far."""
        while not self._events:
            piece = await anext(self._pieces)
            self._events += [(event, json.loads(data), id) for event, data, id in self._parser.feed(piece)]
        return self._events.pop(0)

    async def until(self, *kinds: str) -> tuple[str, Any, str]:
        while (event := await self.next())[0] not in kinds:
            pass
        return event

    async def told(self, beats: int = 2) -> list[tuple[str, Any]]:
        """What is told, but for heartbeats, until so many of those have come."""
        found: list[tuple[str, Any]] = []
        while beats:
            kind, data, _ = await self.next()
            if kind == "heartbeat":
                beats -= 1
            else:
                found.append((kind, data))
        return found

    async def rest(self) -> list[str]:
        """What comes before the end."""
        found: list[str] = []
        with contextlib.suppress(StopAsyncIteration):
            while True:
                found.append((await self.next())[0])
        return found


async def credential(house: House) -> tuple[str, str]:
    service, secret = await ServiceAccounts(house.accounts).add("orders", ["https://orders.example.com"])
    return service.id, secret


@asynccontextmanager
async def listening(
    house: House, auth: tuple[str, str], last_id: str | None = None, network: StreamingTransport | None = None
) -> AsyncIterator[Feed]:
    headers = {"accept": "text/event-stream"} | ({} if last_id is None else {"last-event-id": last_id})
    async with httpx.AsyncClient(transport=network or StreamingTransport(house.app), base_url=ORIGIN) as client:
        async with client.stream("GET", PATH, auth=auth, headers=headers) as answer:
            assert answer.status_code == 200, await answer.aread()
            yield Feed(answer)


async def test_only_a_service_is_told(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        assert_problem(await client.get(PATH), 401)
        user = await house.log_in("ada")
        assert_problem(await user.get(PATH), 401)
        assert_problem(await client.get(PATH, auth=("nobody", "nothing")), 401)


async def test_an_ended_session_is_told_with_its_time_and_nothing_else_about_it(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        async with listening(house, await credential(house)) as feed:
            assert feed.answer.headers["content-type"] == "text/event-stream"
            assert feed.answer.headers["cache-control"] == "no-store"
            kind, data, _ = await feed.next()
            assert (kind, data) == ("begin", {"since": house.clock.time(), "token_lifetime": 3600.0})
            client = await house.log_in("ada")
            ended = await session_id(client)
            house.clock.advance(5)
            await client.post("/v1/logout")
            _, data, _ = await feed.until("ended")
            assert data == {"sid": ended, "at": house.clock.time()}


async def test_every_session_of_a_user_is_told_and_the_user(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        clients = [await house.log_in("ada") for _ in range(3)]
        ids = [await session_id(client) for client in clients]
        async with listening(house, await credential(house)) as feed:
            await feed.until("heartbeat")
            assert (await clients[0].delete("/v1/sessions")).json() == {"ended": 2}
            ada = await house.accounts.find("ada")
            assert ada is not None
            told = await feed.told()
        assert {data["sid"] for kind, data in told if kind == "ended"} == set(ids[1:])
        assert [data["sub"] for kind, data in told if kind == "user"] == [ada.id]


async def test_a_new_secret_is_told_with_its_generation_once(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = house.client()
        await house.register("ada")
        login = await log_in_for_tokens(client, "ada")
        async with listening(house, await credential(house)) as feed:
            await feed.until("heartbeat")
            found = await house.sessions.list_user(login["user"]["id"])
            record = await house.sessions.fresh(found[0].id)
            assert record is not None
            for _ in range(3):
                assert (await house.sessions.apply(record, Changes(set={"n": b"\x01"}))) is not None
            _, data, _ = await feed.until("generation")
            assert data["gen"] == record.generation
            assert await feed.told() == []


async def test_what_is_typed_by_hand_is_asked_for_before_anything_later_is_confirmed(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        sid = await session_id(client)
        async with listening(house, await credential(house)) as feed:
            await feed.until("heartbeat")
            tell(house, Change("changed", sid))  # what SQLite's triggers tell where they cannot tell more
            tell(house, Change("changed", "gone"))
            told = await feed.told()
        assert ("ended", "gone") in [(kind, data["sid"]) for kind, data in told]
        assert [data["sid"] for kind, data in told if kind == "generation"] == [sid]


async def test_nothing_is_confirmed_that_cannot_be_told_yet(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        async with listening(house, await credential(house)) as feed:
            _, before, _ = await feed.until("heartbeat")
            gate = house.store.hold("alive", "before")
            tell(house, Change("changed", "gone"))
            house.clock.advance(10)
            for _ in range(3):
                _, data, _ = await feed.until("heartbeat")
                assert data == before
            gate.release()
            await feed.until("ended")
            while data == before:
                _, data, _ = await feed.until("heartbeat")
            assert data["confirmed"] == before["confirmed"] + 10


def tell(house: House, change: Change) -> None:
    """As the store's feed does."""
    feed = house.sessions._feed
    assert feed is not None
    for listener in feed.listeners:
        listener(change)


async def test_a_heartbeat_counts_from_the_requests_arrival_and_its_id_is_when_all_was_told(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        async with listening(house, await credential(house)) as feed:
            _, data, last = await feed.until("heartbeat")
            assert data == {"confirmed": 0.0}
            assert last == str(int(house.clock.time() * 1000))
            house.clock.advance(7.5)
            while data == {"confirmed": 0.0}:
                _, data, last = await feed.until("heartbeat")
            assert data == {"confirmed": 7.5}
            assert last == str(int(house.clock.time() * 1000))


async def test_a_feed_of_the_stores_that_fails_confirms_nothing_more(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        async with listening(house, await credential(house)) as feed:
            _, before, _ = await feed.until("heartbeat")
            house.store.feed_cut = True
            house.clock.advance(5)
            for _ in range(3):
                _, data, _ = await feed.until("heartbeat")
                assert data == before
            house.store.feed_cut = False
            while data == before:
                _, data, _ = await feed.until("heartbeat")


async def test_whoever_resumes_is_told_what_was_missed(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        auth = await credential(house)
        async with listening(house, auth) as feed:
            await feed.until("heartbeat")
        house.clock.advance(60)
        async with listening(house, auth) as feed:
            last = (await feed.until("heartbeat"))[2]
        client = await house.log_in("ada")
        sid = await session_id(client)
        await client.post("/v1/logout")
        house.clock.advance(30)
        async with listening(house, auth, last) as feed:
            kind, data, _ = await feed.next()
            assert (kind, data["since"]) == ("begin", int(last) / 1000)
            assert sid in [data["sid"] for kind, data in await feed.told() if kind == "ended"]


async def test_another_worker_answers_whoever_resumes_as_well(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        auth = await credential(house)
        store = SQLiteStore(tmp_path / "sessions.sqlite3", clock=house.clock)
        async with Sessions(store, clock=house.clock) as sessions:
            other = RevocationFeed(sessions, token_lifetime=3600)
            await other.start()
            house.clock.advance(60)
            async with listening(house, auth) as feed:
                last = (await feed.until("heartbeat"))[2]
                client = await house.log_in("ada")
                sid = await session_id(client)
            await client.post("/v1/logout")
            sessions.confirmed()
            async with contextlib.aclosing(other.read(house.worker, 0.0, last)) as told:
                leading, *rest = await anext(told)
            assert isinstance(leading, Leading)
            assert leading.whole
            assert ("ended", sid) in [each[1:3] for each in rest if each is not None]


@pytest.mark.parametrize("last", ["0", "1", "99999999999999", "", "abc", "1" * 40, "-5", "١٢٣"])
async def test_whoever_comes_with_an_id_that_says_nothing_here_is_told_so(tmp_path: Path, last: str) -> None:
    async with House(tmp_path) as house:
        began = house.clock.time()
        auth = await credential(house)
        async with listening(house, auth) as feed:
            await feed.until("heartbeat")
        house.clock.advance(60)
        async with httpx.AsyncClient(transport=StreamingTransport(house.app), base_url=ORIGIN) as client:
            headers = [(b"accept", b"text/event-stream"), (b"last-event-id", last.encode())]
            async with client.stream("GET", PATH, auth=auth, headers=headers) as answer:
                kind, data, _ = await Feed(answer).next()
        assert (kind, data["since"]) == ("reset", began)


async def test_a_node_that_has_just_started_knows_nothing_of_before(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        last = str(int(house.clock.time() * 1000))
        async with listening(house, await credential(house), last) as feed:
            kind, data, _ = await feed.next()
        assert (kind, data["since"]) == ("reset", house.clock.time())


async def test_a_gap_in_the_stores_feed_is_told_to_all_who_listen_and_all_who_resume(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        auth = await credential(house)
        async with listening(house, auth) as feed:
            await feed.until("heartbeat")
            house.clock.advance(60)
            while int(last := (await feed.until("heartbeat"))[2]) < house.clock.time() * 1000 - 1:
                pass
            tell(house, Change("missed"))
            _, data, _ = await feed.until("reset")
            assert data == {"since": house.clock.time()}
        async with listening(house, auth, last) as feed:
            assert (await feed.next())[:2] == ("reset", {"since": house.clock.time(), "token_lifetime": 3600.0})


async def test_a_worker_that_leaves_ends_its_answers_properly_and_tells_everything_first(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        async with listening(house, await credential(house)) as feed:
            await feed.until("heartbeat")
            await client.post("/v1/logout")
            house.worker.leave()
            rest = await asyncio.wait_for(feed.rest(), 5)
            assert "ended" in rest
            assert rest[-1] == "heartbeat"


async def test_a_worker_that_drains_ends_its_answers_and_gives_short_ones(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        auth = await credential(house)
        async with listening(house, auth) as feed:
            await feed.until("heartbeat")
            house.worker.draining = True
            assert (await asyncio.wait_for(feed.rest(), 5))[-1] == "heartbeat"
        async with listening(house, auth) as feed:
            assert await asyncio.wait_for(feed.rest(), 5) == ["begin", "heartbeat"]


async def test_no_answer_lasts_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation_feed, "STREAM", 0.05)
    async with House(tmp_path) as house:
        async with listening(house, await credential(house)) as feed:
            assert (await asyncio.wait_for(feed.rest(), 5))[-1] == "heartbeat"


async def test_a_reader_that_does_not_read_is_cut_off_and_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocations, "SLOW", 0.05)
    async with House(tmp_path) as house:
        feed = RevocationFeed(house.sessions, token_lifetime=3600)
        await feed.start()
        answer = revocations._Answer(feed.read(house.worker, 0.0, None))
        sent: list[Any] = []

        async def receive() -> Any:
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

        await asyncio.wait_for(answer({"type": "http"}, receive, send), 5)
        assert all(message.get("more_body", True) for message in sent)
        assert (feed.readers, feed.waiting) == (0, set())


async def test_a_reader_that_goes_is_forgotten(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        network = StreamingTransport(house.app)
        async with listening(house, await credential(house), network=network) as feed:
            await feed.until("heartbeat")
            (body,) = network.open
        assert body.task is not None
        assert body.task.done()


def test_a_window_forgets_what_is_old_and_says_from_when_on_it_knows() -> None:
    window = RevocationWindow(now=1000.0, keep=100.0)
    assert window.add(1010.0, "ended", "a")
    assert window.add(1050.0, "ended", "b")
    assert window.since(1060.0) == 1000.0
    assert window.add(1120.0, "ended", "c")
    assert window.since(1120.0) == 1020.0
    assert [told.id for told in window.after(window.position(0), 10) or ()] == ["b", "c"]
    assert window.after(0, 10) is None  # somebody slower than the window is long
    assert [told.id for told in window.after(window.position(1050.0), 1) or ()] == ["b"]


def test_a_window_that_is_full_knows_less_far_back() -> None:
    window = RevocationWindow(now=1000.0, keep=100.0, most=2)
    for second in range(4):
        window.add(1001.0 + second, "ended", str(second))
    assert window.since(1005.0) == 1002.0
    assert [told.id for told in window.after(window.position(0), 10) or ()] == ["2", "3"]


def test_a_windows_entries_stay_in_order_when_the_clock_is_set_back() -> None:
    window = RevocationWindow(now=1000.0, keep=100.0)
    window.add(1010.0, "ended", "a")
    window.add(900.0, "ended", "b")
    assert [told.at for told in window.after(0, 10) or ()] == [1010.0, 1010.0]
