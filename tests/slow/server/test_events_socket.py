"""`GET /v1/events` as a WebSocket: who may open it, what it tells, which commands it obeys, and what ends it."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from coatcheck.accounts import AccountsUnavailable
from coatcheck.accounts.database import Database
from coatcheck.server.activity import following
from coatcheck.server.commands import Commands
from coatcheck.server.events import socket as module
from tests.core.server.house import ORIGIN, PASSWORD, House, bearer, log_in_for_tokens, session_id
from tests.slow.server.test_rest_who_may_what import admin_client, service_client


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL", 0.01)


class Socket:
    """A client's side of one WebSocket, in process."""

    def __init__(
        self, house: House, client: httpx.AsyncClient, *, origin: str | None = ORIGIN, extension: bool = True
    ) -> None:
        request = client.build_request("GET", "/v1/events")
        if isinstance(client.auth, httpx.BasicAuth):
            request = next(client.auth.sync_auth_flow(request))
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        if origin is not None:
            headers.append((b"origin", origin.encode()))
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.outgoing: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})
        self.deaf = False
        """Nothing that is sent is taken any more."""
        self._gone = asyncio.Event()
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "wss",
            "path": "/v1/events",
            "raw_path": b"/v1/events",
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "subprotocols": [],
            "client": ("192.0.2.7", 50000),
            "server": ("localhost", 8443),
            "extensions": {"websocket.http.response": {}} if extension else {},
        }
        self.task = asyncio.ensure_future(house.app(scope, self.incoming.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        if self.deaf:
            await self._gone.wait()
            raise OSError("the client is gone")  # as the server has it
        self.outgoing.put_nowait(message)

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            return await self.outgoing.get()

    def send(self, data: str | bytes) -> None:
        kind = "text" if isinstance(data, str) else "bytes"
        self.incoming.put_nowait({"type": "websocket.receive", kind: data})

    async def told(self, kind: str) -> dict[str, Any]:
        """The next message of this type."""
        while True:
            message = await self.next()
            assert message["type"] == "websocket.send", message
            found: dict[str, Any] = json.loads(message["text"])
            if found["type"] == kind:
                return found

    async def events(self, number: int) -> list[dict[str, Any]]:
        return [await self.told("event") for _ in range(number)]

    async def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command, and give its reply or error."""
        self.send(json.dumps(command))
        while True:
            message = await self.next()
            assert message["type"] == "websocket.send", message
            found: dict[str, Any] = json.loads(message["text"])
            if found["type"] in ("reply", "error"):
                return found

    async def closed(self) -> tuple[int, str]:
        """How it was closed from the other side."""
        while (message := await self.next())["type"] == "websocket.send":
            pass
        assert message["type"] == "websocket.close"
        return message["code"], message.get("reason", "")

    async def leave(self) -> None:
        self._gone.set()
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})
        async with asyncio.timeout(10):
            await asyncio.wait((self.task,))
        self.task.result()


@asynccontextmanager
async def opened(house: House, client: httpx.AsyncClient, **options: Any) -> AsyncIterator[Socket]:
    socket = Socket(house, client, **options)
    assert (await socket.next())["type"] == "websocket.accept"
    yield socket
    await socket.leave()


def without_connections(listed: dict[str, Any]) -> dict[str, Any]:
    """A list as REST gives it, but for what is open with each session, which it alone tells."""
    return {"sessions": [{**each, "connections": []} for each in listed["sessions"]]}


async def test_who_may_open_it(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        ended = await house.log_in("ada")
        token = ended.cookies["__Host-session"]
        await ended.post("/v1/logout")
        ended.cookies.set("__Host-session", token)
        for client in (house.client(), await service_client(house), ended):
            socket = Socket(house, client)
            start, body = await socket.next(), await socket.next()
            assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
            assert (b"www-authenticate", b"Bearer") in start["headers"]
            assert json.loads(body["body"])["detail"] == "Nobody is logged in."
            await asyncio.wait((socket.task,))
            refused = Socket(house, client, extension=False)
            assert (await refused.next())["type"] == "websocket.close"
            await asyncio.wait((refused.task,))
        tokens = house.client(headers=bearer((await log_in_for_tokens(house.client(), "ada"))["access_token"]))
        for client in (await house.log_in("ada"), await admin_client(house), tokens):
            async with opened(house, client) as socket:
                listed = await socket.ask(id=1, type="list")
                assert listed["result"] == without_connections((await client.get("/v1/sessions")).json())
        bad = Socket(house, house.client(headers=bearer("e.e.e")))
        assert (await bad.next())["status"] == 401
        await asyncio.wait((bad.task,))


async def test_a_page_of_another_site_cannot_open_it(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        for origin in ("https://evil.example", "null", "https://localhost:9999", "http://localhost:8443"):
            socket = Socket(house, client, origin=origin)
            assert (await socket.next())["status"] == 403
            await asyncio.wait((socket.task,))
        async with opened(house, client, origin=None):
            pass  # no browser


async def test_commands_are_replied_to_under_the_id_that_they_came_with(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client, other = await house.log_in("ada"), await house.log_in("ada")
        sid = await session_id(other)
        async with opened(house, client) as socket:
            listed = await socket.ask(id="first", type="list")
            assert (listed["type"], listed["id"]) == ("reply", "first")
            assert listed["result"] == without_connections((await client.get("/v1/sessions")).json())
            renamed = await socket.ask(id=2, type="rename", session=sid, name="phone")
            assert (renamed["id"], renamed["result"]["session"]["name"]) == (2, "phone")
            assert renamed["result"]["session"]["id"] == sid
            ended = await socket.ask(id=3, type="end", session=sid)
            assert ended == {"type": "reply", "id": 3, "result": {"ended": 1}}
            assert (await other.get("/v1/me")).status_code == 401
            again = await socket.ask(id=4, type="end", session=sid)
            assert again == {"type": "error", "id": 4, "status": 404, "detail": "You have no session with this id."}
            assert (await socket.ask(type="end_others"))["id"] is None


async def test_nothing_is_told_before_it_is_asked_for_and_then_all(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        async with opened(house, client) as socket:
            await house.activity.flush()
            assert house.activity.followers == 0
            answer = await socket.ask(id=1, type="subscribe")
            assert answer["result"] == {"topics": ["sessions", "connections"]}
            assert (await socket.told("begin")).keys() == {"type", "place"}
            other = await house.log_in("ada")
            (event,) = await socket.events(1)
            assert {**event, "place": "", "detail": {}} == {
                "type": "event",
                "place": "",
                "event": "created",
                "session": await session_id(other),
                "at": "2023-11-14T22:13:20Z",
                "detail": {},
            }
            await socket.ask(id=2, type="end_others")
            # By one of the two tasks before the reply, or after it: each is whole.
        assert house.activity.followers == 0


async def test_topics_can_be_chosen_and_changed_without_missing_anything(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        sid = await session_id(client)
        async with opened(house, client) as socket:
            await house.activity.flush()
            await socket.ask(type="subscribe", topics=["sessions"])
            await socket.told("begin")
            async with opened(house, client):
                pass
            await client.patch(f"/v1/sessions/{sid}", json={"name": "one"})
            assert [each["event"] for each in await socket.events(1)] == ["renamed"]
            await socket.ask(type="subscribe", topics=[])
            assert house.activity.followers == 0
            await client.patch(f"/v1/sessions/{sid}", json={"name": "two"})
            async with opened(house, client):
                pass
            answer = await socket.ask(id=9, type="subscribe", topics=["connections", "sessions", "connections"])
            assert answer["result"] == {"topics": ["connections", "sessions"]}
            found = await socket.events(3)
            assert [each["event"] for each in found] == ["renamed", "opened", "closed"]
            assert [each["detail"].get("transport") for each in found] == [None, "websocket", "websocket"]


async def test_whoever_resumes_elsewhere_is_told_what_was_missed_or_to_look_everything_up(tmp_path: Path) -> None:
    async with House(tmp_path) as house, House(tmp_path) as elsewhere:
        client = await house.log_in("ada")
        async with opened(house, client) as socket:
            await house.activity.flush()
            await socket.ask(type="subscribe", topics=["sessions"])
            place = (await socket.told("begin"))["place"]
        await client.patch(f"/v1/sessions/{await session_id(client)}", json={"name": "phone"})
        await house.activity.flush()
        async with opened(elsewhere, client) as socket:
            await socket.ask(type="subscribe", topics=["sessions"], after=place)
            assert (await socket.told("begin"))["place"] == place
            assert (await socket.events(1))[0]["detail"] == {"name": "phone"}
        stranger = await house.log_in("bob")
        async with opened(elsewhere, stranger) as socket:
            await socket.ask(type="subscribe", after=place)
            assert (await socket.told("reset"))["place"] != place


async def test_silence_has_heartbeats_with_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT", 0.02)
    async with House(tmp_path) as house, opened(house, await house.log_in("ada")) as socket:
        await socket.ask(type="subscribe")
        assert (await socket.told("heartbeat")).keys() == {"type", "place"}
        assert (await socket.told("heartbeat")).keys() == {"type", "place"}


async def test_what_is_no_command_is_said_to_be_none_and_too_much_of_it_closes(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        socket = Socket(house, client)
        assert (await socket.next())["type"] == "websocket.accept"
        for data in ("{", b"\xff", "", "null", '{"type": "hunter2"}', '{"id": 5, "type": "end"}'):
            socket.send(data)
            error = await socket.told("error")
            assert error["status"] == 400
            assert "hunter2" not in error["detail"]
        assert error["id"] == 5
        assert (await socket.ask(id=6, type="list"))["id"] == 6
        for _ in range(module.MOST_MALFORMED):
            socket.send("{")
        assert await socket.closed() == (1008, "too many messages that are no commands")
        await asyncio.wait((socket.task,))
        assert socket.task.result() is None
        assert len(house.sessions.connections) == 0


async def test_its_own_session_ends_it_with_the_reason_whoever_ends_it(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        for how in ("logout", "command", "new secret"):
            client = await house.log_in("ada")
            socket = Socket(house, client)
            assert (await socket.next())["type"] == "websocket.accept"
            await socket.ask(type="subscribe")
            if how == "logout":
                await client.post("/v1/logout")
            elif how == "command":
                socket.send(json.dumps({"type": "end", "session": await session_id(client)}))
            else:
                await client.post("/v1/reauthenticate", json={"password": PASSWORD})
            code, reason = await socket.closed()
            assert code == 4401
            assert ("logout" in reason) is (how != "new secret")
            await asyncio.wait((socket.task,))
            assert socket.task.result() is None
        assert house.activity.followers == 0


async def test_a_client_that_vanishes_or_never_reads_leaves_nothing(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        async with opened(house, client) as socket:
            await socket.ask(type="subscribe")
            socket.deaf = True
            for number in range(300):
                house.activity.record("renamed", await session_id(client), detail={"name": str(number)})
                socket.send('{"type": "list"}')
            await house.activity.flush()
            assert socket.outgoing.qsize() <= 2  # what was sent before it went deaf
            (tail,) = house.activity._following._tails.values()
            assert len(tail.entries) <= following._KEPT
        assert house.activity.followers == 0
        assert len(house.sessions.connections) == 0


async def test_a_worker_that_leaves_says_so(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        socket = Socket(house, await house.log_in("ada"))
        assert (await socket.next())["type"] == "websocket.accept"
        await socket.ask(type="subscribe")
        house.worker.leave()
        assert await socket.closed() == (1012, "service restart")
        await asyncio.wait((socket.task,))
        assert socket.task.result() is None


async def test_what_cannot_be_asked_is_an_error_that_closes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(*_: object) -> None:
        raise AccountsUnavailable("The accounts' database cannot be asked: SQLITE_BUSY.")

    async with House(tmp_path) as house, opened(house, await house.log_in("ada")) as socket:
        await house.activity.flush()
        with monkeypatch.context() as away:
            away.setattr(Database, "run", unavailable)
            assert (await socket.ask(id=1, type="subscribe"))["status"] == 503
        house.store.down = True
        assert (await socket.ask(id=2, type="list"))["status"] == 503
        house.store.down = False
        assert (await socket.ask(id=3, type="list"))["type"] == "reply"


async def test_a_failure_of_ours_is_logged_and_closes_with_1011(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("broken")

    async with House(tmp_path) as house:
        socket = Socket(house, await house.log_in("ada"))
        assert (await socket.next())["type"] == "websocket.accept"
        monkeypatch.setattr(Commands, "run", fail)
        with caplog.at_level(logging.ERROR):
            socket.send('{"type": "list"}')
            assert await socket.closed() == (1011, "the server failed")
        await asyncio.wait((socket.task,))
        assert "broken" in caplog.text
