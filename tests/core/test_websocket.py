"""WebSockets through the middleware: who may open one, and that it ends with its session."""

import asyncio
from typing import Any

import pytest

from coatcheck import SessionMiddleware, Sessions, session_of
from coatcheck.testing import ManualClock


class Socket:
    """A client's side of one ASGI WebSocket, in process."""

    def __init__(self, app: Any, *, headers: list[tuple[bytes, bytes]] = (), extension: bool = True) -> None:  # type: ignore[assignment]
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.outgoing: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})
        scope = {
            "type": "websocket",
            "scheme": "wss",
            "path": "/",
            "headers": [(b"host", b"app.example"), *headers],
            "extensions": {"websocket.http.response": {}} if extension else {},
        }
        self.task = asyncio.ensure_future(app(scope, self.incoming.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        self.outgoing.put_nowait(message)

    def text(self, text: str) -> None:
        self.incoming.put_nowait({"type": "websocket.receive", "text": text})

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(5):
            return await self.outgoing.get()


async def echo(scope: Any, receive: Any, send: Any) -> None:
    session = session_of(scope)
    assert (await receive())["type"] == "websocket.connect"
    await scope["proceed"].wait()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        session["last"] = message["text"]
        await session.save()
        await send({"type": "websocket.send", "text": f"{session.user_id}: {message['text']}"})
    scope["told"].append(message)
    with pytest.raises(
        OSError, match=r"this connection was closed: (logged out|service restart|the session has ended)"
    ):
        await send({"type": "websocket.send", "text": "into the void"})


class Site:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.sessions = Sessions("memory://", clock=self.clock, idle_timeout=1000.0, touch_interval=10.0)
        self.told: list[dict[str, Any]] = []
        self.proceed = asyncio.Event()
        self.proceed.set()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await echo({**scope, "told": self.told, "proceed": self.proceed}, receive, send)

        self.app = SessionMiddleware(app, self.sessions, public_origins=["https://app.example"])

    async def cookie(self) -> tuple[str, bytes]:
        session = await self.sessions.load(None)
        await session.log_in("user")
        assert session.id is not None
        assert session.cookie_change is not None
        return session.id, b"__Host-session=" + (session.cookie_change.token or "").encode()


async def test_a_websocket_knows_its_session_and_ends_with_it() -> None:
    site = Site()
    async with site.sessions:
        session_id, cookie = await site.cookie()
        socket = Socket(site.app, headers=[(b"cookie", cookie), (b"origin", b"https://app.example")])
        assert (await socket.next())["type"] == "websocket.accept"
        socket.text("hello")
        assert (await socket.next())["text"] == "user: hello"
        assert (await site.sessions.load(cookie.split(b"=")[1]))["last"] == "hello"
        await site.sessions.end(session_id, "logged out")
        closed = await socket.next()
        assert (closed["type"], closed["code"]) == ("websocket.close", 4401)
        assert closed["reason"] == "session ended: logged out"
        await asyncio.wait_for(socket.task, 5)
        assert site.told == [{"type": "websocket.disconnect", "code": 4401, "reason": "session ended: logged out"}]
        assert len(site.sessions.connections) == 0


async def test_a_session_that_ends_during_the_handshake_leaves_no_websocket_open() -> None:
    site = Site()
    async with site.sessions:
        session_id, cookie = await site.cookie()
        site.proceed.clear()
        socket = Socket(site.app, headers=[(b"cookie", cookie)])
        await asyncio.sleep(0.01)  # the session is looked up, and the application waits
        await site.sessions.store.end([session_id], reason="elsewhere", now=site.clock.time())
        if site.sessions._feed is not None:
            site.sessions._feed.poll()  # the news is here before the connection is counted
        site.proceed.set()
        messages = [await socket.next(), await socket.next()]
        assert [message["type"] for message in messages] == ["websocket.accept", "websocket.close"]
        await asyncio.wait_for(socket.task, 5)


async def test_a_node_that_leaves_closes_websockets_with_1012_and_ends_no_session() -> None:
    site = Site()
    async with site.sessions:
        session_id, cookie = await site.cookie()
        early, late = (Socket(site.app, headers=[(b"cookie", cookie)]) for _ in range(2))
        assert (await early.next())["type"] == (await late.next())["type"] == "websocket.accept"
        site.proceed.clear()
        during = Socket(site.app, headers=[(b"cookie", cookie)])
        await asyncio.sleep(0)
        site.sessions.connections.leave()
        site.proceed.set()
        assert (await during.next())["type"] == "websocket.accept"
        for socket in (early, late, during):
            closed = await socket.next()
            assert (closed["type"], closed["code"], closed["reason"]) == ("websocket.close", 1012, "service restart")
            await asyncio.wait_for(socket.task, 5)
        assert {message["code"] for message in site.told} == {1012}
        assert [info.id for info in await site.sessions.list_user("user")] == [session_id]


async def test_what_a_client_sends_counts_as_activity() -> None:
    site = Site()
    async with site.sessions:
        _, cookie = await site.cookie()
        socket = Socket(site.app, headers=[(b"cookie", cookie)])
        await socket.next()
        for _ in range(3):
            site.clock.advance(900)
            socket.text("still here")
            assert (await socket.next())["type"] == "websocket.send"
        assert len(await site.sessions.list_user("user")) == 1
        socket.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await socket.task
        assert len(site.sessions.connections) == 0


@pytest.mark.parametrize(
    ("origin", "accepted"),
    [(None, True), (b"https://app.example", True), (b"https://evil.example", False), (b"null", False)],
)
async def test_a_handshake_of_another_site_is_refused(origin: bytes | None, accepted: bool) -> None:
    site = Site()
    async with site.sessions:
        _, cookie = await site.cookie()
        headers = [(b"cookie", cookie)] + ([] if origin is None else [(b"origin", origin)])
        socket = Socket(site.app, headers=headers)
        first = await socket.next()
        if accepted:
            assert first["type"] == "websocket.accept"
            socket.task.cancel()
            return
        assert (first["type"], first["status"]) == ("websocket.http.response.start", 403)
        assert (await socket.next())["type"] == "websocket.http.response.body"
        bare = Socket(site.app, headers=headers, extension=False)
        assert (await bare.next())["type"] == "websocket.close", "a server without the extension answers 403 itself"
        await bare.task
