"""WebSockets at their bounds: too many, too long, too slow, deaf, unconfirmed; and one whose session is proved later."""

import asyncio
from typing import Any

import pytest

from coatcheck import UsageError, session_of
from coatcheck.asgi import live
from coatcheck.connections import UNCONFIRMED
from tests.core.asgi.live_site import ORIGIN, LiveSite, until
from tests.core.test_websocket import Socket


async def quiet(scope: Any, receive: Any, send: Any) -> None:
    """Accepts, and reads until told that it is over."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (await receive())["type"] == "websocket.receive":
        pass


async def test_one_too_many_is_refused_with_a_real_429_and_closed_where_the_server_cannot() -> None:
    site = LiveSite(quiet, max_connections_per_session=1)
    async with site:
        session_id, cookie = await site.log_in()
        first = Socket(site.app, headers=[(b"cookie", cookie)])
        assert (await first.next())["type"] == "websocket.accept"
        second = Socket(site.app, headers=[(b"cookie", cookie)])
        refusal = await second.next()
        assert (refusal["type"], refusal["status"]) == ("websocket.http.response.start", 429)
        await asyncio.wait_for(second.task, 5)
        third = Socket(site.app, headers=[(b"cookie", cookie)], extension=False)
        assert (await third.next())["type"] == "websocket.close"
        await asyncio.wait_for(third.task, 5)
        assert len(site.sessions.connections.of(session_id)) == 1
        first.incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})
        await asyncio.wait_for(first.task, 5)
        fourth = Socket(site.app, headers=[(b"cookie", cookie)])
        assert (await fourth.next())["type"] == "websocket.accept"


async def test_a_user_has_a_bound_over_all_sessions_and_another_user_one_of_their_own() -> None:
    site = LiveSite(quiet, max_connections_per_user=1)
    async with site:
        for user, kind in (("ada", "accept"), ("ada", "http.response.start"), ("bob", "accept")):
            _, cookie = await site.log_in(user)
            assert (await Socket(site.app, headers=[(b"cookie", cookie)]).next())["type"] == f"websocket.{kind}"


@pytest.mark.parametrize(
    ("message", "closed"),
    [
        ({"text": "x" * 10}, False),
        ({"text": "x" * 11}, True),
        ({"text": "é" * 5}, False),
        ({"text": "é" * 6}, True),
        ({"bytes": b"x" * 10}, False),
        ({"bytes": b"x" * 11}, True),
        ({"bytes": b"", "text": None}, False),
    ],
)
async def test_a_message_that_is_too_long_closes_with_1009_and_never_reaches_the_application(
    message: dict[str, Any], closed: bool
) -> None:
    got: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        got.append(await receive())

    site = LiveSite(application, middleware={"max_message": 10})
    async with site:
        socket = Socket(site.app)
        await socket.next()
        socket.incoming.put_nowait({"type": "websocket.receive", **message})
        await asyncio.wait_for(socket.task, 5)
        if closed:
            assert (await socket.next())["code"] == 1009
            assert got == [{"type": "websocket.disconnect", "code": 1009, "reason": "message too long"}]
        else:
            assert got == [{"type": "websocket.receive", **message}]


async def test_a_client_that_does_not_read_is_closed_with_4408() -> None:
    async def sends_for_ever(send: Any) -> None:
        while True:
            await send({"type": "websocket.send", "text": "x"})
            await asyncio.sleep(0)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        with pytest.raises(OSError, match="too slow"):
            await sends_for_ever(send)

    site = LiveSite(application, slow_client_timeout=5.0)
    async with site:
        session_id, cookie = await site.log_in()
        socket = Socket(site.app, headers=[(b"cookie", cookie)])
        reading = asyncio.Event()
        reading.set()
        send = socket._send

        async def slowly(message: dict[str, Any]) -> None:
            if message["type"] == "websocket.send":
                await reading.wait()
            await send(message)

        # From here on the client's connection is full.
        await socket.next()
        site.sessions.connections.of(session_id)[0]._close.__self__._on_end.__self__._send = slowly  # type: ignore[union-attr]
        reading.clear()
        await until(lambda: site.sessions.connections.of(session_id)[0].blocked_since)
        site.clock.advance(6)
        assert site.sessions.connections.drop_slow(site.clock.monotonic() - 5) == 1
        message = await socket.next()
        while message["type"] == "websocket.send":
            message = await socket.next()
        assert (message["code"], message["reason"]) == (4408, "too slow to read")
        reading.set()
        await asyncio.wait_for(socket.task, 5)


async def test_what_cannot_be_confirmed_is_closed_with_1013() -> None:
    site = LiveSite(quiet)
    async with site:
        session_id, cookie = await site.log_in()
        socket = Socket(site.app, headers=[(b"cookie", cookie)])
        await socket.next()
        site.sessions.connections.close(session_id, UNCONFIRMED)
        closed = await socket.next()
        assert (closed["code"], closed["reason"]) == (1013, "the session cannot be confirmed")


async def test_an_application_that_never_looks_is_cancelled_after_a_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PATIENCE", 0.02)

    async def deaf(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.Event().wait()

    site = LiveSite(deaf)
    async with site:
        session_id, cookie = await site.log_in()
        socket = Socket(site.app, headers=[(b"cookie", cookie)])
        await socket.next()
        await site.sessions.end(session_id)
        assert (await socket.next())["code"] == 4401
        await asyncio.wait_for(socket.task, 5)


async def test_a_session_that_is_proved_after_the_handshake_is_adopted_once_and_ends_it() -> None:
    adopted = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        token = (await receive())["text"].encode()
        scope["coatcheck.adopt"](await site.sessions.load(token))
        with pytest.raises(UsageError, match="belongs to a session"):
            scope["coatcheck.adopt"](await site.sessions.load(token))
        assert session_of(scope).user_id == "user"
        adopted.set()
        while (message := await receive())["type"] == "websocket.receive":
            pass
        assert message["code"] == 4401

    site = LiveSite(application)
    async with site:
        session_id, cookie = await site.log_in()
        socket = Socket(site.app)
        await socket.next()
        assert len(site.sessions.connections) == 0
        socket.text(cookie.partition(b"=")[2].decode())
        await asyncio.wait_for(adopted.wait(), 5)
        assert len(site.sessions.connections.of(session_id)) == 1
        site.clock.advance(900)
        socket.text("activity")
        await until(lambda: session_id in site.sessions._seen)
        site.clock.advance(900)
        assert len(await site.sessions.list_user("user")) == 1
        await site.sessions.end(session_id)
        assert (await socket.next())["code"] == 4401
        await asyncio.wait_for(socket.task, 5)


async def test_an_ended_session_that_is_adopted_closes_at_once() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        session = await site.sessions.load((await receive())["text"].encode())
        await site.sessions.end(session.id or "")
        scope["coatcheck.adopt"](session)
        assert (await receive())["code"] == 4401

    site = LiveSite(application)
    async with site:
        _, cookie = await site.log_in()
        socket = Socket(site.app, headers=[ORIGIN])
        await socket.next()
        socket.text(cookie.partition(b"=")[2].decode())
        assert (await socket.next())["code"] == 4401
        await asyncio.wait_for(socket.task, 5)
