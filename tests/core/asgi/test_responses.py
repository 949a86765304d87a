"""Responses that live as long as their session: event streams get a last event, other streams are cut, whole ones run on."""

import asyncio
import json
from typing import Any

import pytest

from coatcheck import session_of
from coatcheck.asgi import live
from coatcheck.connections import RESTART
from tests.core.asgi.live_site import LiveSite, forever, streaming, until

EVENT = b"data: 1\n\n"


async def test_an_event_stream_gets_a_last_event_and_a_proper_end_whatever_its_application_does() -> None:
    site = LiveSite(streaming(EVENT))
    async with site:
        session_id, cookie = await site.log_in()
        stream = site.get(cookie)
        await stream.started()
        assert await stream.piece() == EVENT
        (connection,) = site.sessions.connections.of(session_id)
        assert (connection.kind, connection.protocol, connection.owner) == ("sse", "HTTP/1.1", "user")
        await site.sessions.end(session_id, "logout")
        name, data = (await stream.last()).decode().splitlines()[:2]
        assert (name, json.loads(data.removeprefix("data: "))) == ("event: session-ended", {"reason": "logout"})
        assert len(site.sessions.connections) == 0


async def test_any_other_stream_is_cut_and_never_ended_as_if_it_were_whole() -> None:
    site = LiveSite(streaming(b"half of", content_type=b"text/csv"))
    async with site:
        session_id, cookie = await site.log_in()
        stream = site.get(cookie)
        await stream.started()
        assert await stream.piece() == b"half of"
        assert site.sessions.connections.of(session_id)[0].kind == "stream"
        began = asyncio.get_running_loop().time()
        await site.sessions.end(session_id)
        await stream.cut()
        assert asyncio.get_running_loop().time() - began < 1


@pytest.mark.parametrize(
    ("pieces", "extra"),
    [((b"data: half of an ev",), {}), ((EVENT, b"data: x\n"), {}), ((b"\x1f\x8b",), {"content_encoding": b"gzip"})],
)
async def test_an_event_stream_is_cut_where_a_last_event_would_be_misread(pieces: Any, extra: Any) -> None:
    site = LiveSite(streaming(*pieces, **extra))
    async with site:
        session_id, cookie = await site.log_in()
        stream = site.get(cookie)
        await stream.started()
        for piece in pieces:
            assert await stream.piece() == piece
        await site.sessions.end(session_id)
        await stream.cut()


@pytest.mark.parametrize("end", [b"\n\n", b"\r\r", b"\r\n\r\n"])
async def test_every_line_break_of_the_standard_ends_an_event(end: bytes) -> None:
    site = LiveSite(streaming(b"data: 1" + end[:1], end[1:]))
    async with site:
        session_id, cookie = await site.log_in()
        stream = site.get(cookie)
        await stream.started()
        await stream.piece()
        await stream.piece()
        await site.sessions.end(session_id)
        assert b"session-ended" in await stream.last()


async def test_a_response_with_content_length_runs_to_its_end() -> None:
    proceed = asyncio.Event()

    async def then(scope: Any, receive: Any, send: Any) -> None:
        await proceed.wait()
        await send({"type": "http.response.body", "body": b"rest"})

    site = LiveSite(streaming(b"half", content_type=b"text/csv", content_length=b"8", then=then))
    async with site:
        session_id, cookie = await site.log_in()
        download = site.get(cookie)
        await download.started()
        await download.piece()
        assert len(site.sessions.connections) == 0
        await site.sessions.end(session_id)
        proceed.set()
        assert await download.last() == b"rest"
        await download.over()


async def test_a_stream_that_ends_by_itself_is_forgotten_and_one_of_nobody_never_counted() -> None:
    async def then(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.body", "body": b"end"})

    site = LiveSite(streaming(EVENT, then=then))
    async with site:
        _, cookie = await site.log_in()
        changes: list[tuple[str, bool]] = []
        site.sessions.connections.listeners.append(lambda connection, opened: changes.append((connection.kind, opened)))
        for stream in (site.get(cookie), site.get()):
            await stream.started()
            await stream.piece()
            assert await stream.last() == b"end"
            await stream.over()
        assert changes == [("sse", True), ("sse", False)]
        assert len(site.sessions.connections) == 0


async def test_a_client_that_vanishes_leaves_nothing_counted() -> None:
    async def then(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"

    site = LiveSite(streaming(EVENT, then=then))
    async with site:
        session_id, cookie = await site.log_in()
        stream = site.get(cookie)
        await stream.started()
        await stream.piece()
        assert len(site.sessions.connections) == 1
        stream.incoming.put_nowait({"type": "http.disconnect"})
        await until(lambda: len(site.sessions.connections) == 0)
        await stream.over()
        assert await site.sessions.end(session_id)


async def test_a_client_that_vanishes_is_found_out_although_the_application_never_listens() -> None:
    site = LiveSite(streaming(EVENT))
    async with site:
        _, cookie = await site.log_in()
        stream = site.get(cookie)
        await stream.started()
        await stream.piece()
        assert len(site.sessions.connections) == 1
        stream.incoming.put_nowait({"type": "http.disconnect"})
        await until(lambda: len(site.sessions.connections) == 0)


@pytest.mark.parametrize(("body", "left"), [([b""], 0), ([b"whole"], 0), ([b"in ", b"three ", b"parts"], 2)])
async def test_a_body_that_is_read_late_is_there_and_one_that_goes_on_waits_to_be_asked_for(
    body: list[bytes], left: int
) -> None:
    proceed = asyncio.Event()

    async def then(scope: Any, receive: Any, send: Any) -> None:
        await proceed.wait()
        got = b""
        more = True
        while more:
            message = await receive()
            got, more = got + message["body"], message["more_body"]
        await send({"type": "http.response.body", "body": got})

    site = LiveSite(streaming(EVENT, then=then))
    async with site:
        _, cookie = await site.log_in()
        stream = site.get(cookie, body=body)
        await stream.started()
        await stream.piece()
        await until(lambda: stream.incoming.qsize() <= left)
        assert stream.incoming.qsize() == left, "only what is asked for is taken"
        proceed.set()
        assert await stream.last() == b"".join(body)


async def test_the_application_hears_a_disconnect_and_can_send_no_more() -> None:
    heard: list[Any] = []

    async def then(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "http.request":
            pass
        heard.append(message["type"])
        heard.append((await receive())["type"])
        with pytest.raises(OSError, match="this connection was closed: logout"):
            await send({"type": "http.response.body", "body": b"more", "more_body": True})
        heard.append("tidied up")

    site = LiveSite(streaming(EVENT, then=then))
    async with site:
        session_id, cookie = await site.log_in()
        stream = site.get(cookie)
        await stream.started()
        await stream.piece()
        await site.sessions.end(session_id, "logout")
        assert b"session-ended" in await stream.last()
        await stream.over()
        assert heard == ["http.disconnect", "http.disconnect", "tidied up"]


async def test_a_disconnect_that_was_waited_for_before_the_first_piece_comes_too() -> None:
    """Starlette's StreamingResponse listens in one task and sends in another."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "http.request"
        listening = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": EVENT, "more_body": True})
        assert (await listening)["type"] == "http.disconnect"

    site = LiveSite(application)
    async with site:
        session_id, cookie = await site.log_in()
        stream = site.get(cookie)
        await stream.started()
        await stream.piece()
        await site.sessions.end(session_id)
        await stream.last()
        await stream.over()


async def test_an_application_that_sends_on_and_lets_the_error_out_is_no_failure_of_the_server() -> None:
    async def then(scope: Any, receive: Any, send: Any) -> None:
        while True:
            await asyncio.sleep(0.001)
            try:
                await send({"type": "http.response.body", "body": EVENT, "more_body": True})
            except OSError as error:
                raise RuntimeError("the client went away") from error  # as frameworks do

    site = LiveSite(streaming(EVENT, then=then))
    async with site:
        session_id, cookie = await site.log_in()
        stream = site.get(cookie)
        await stream.started()
        await site.sessions.end(session_id)
        await stream.over()


async def test_an_application_that_fails_in_its_own_way_after_the_end_is_heard() -> None:
    async def then(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()
        raise ZeroDivisionError

    site = LiveSite(streaming(EVENT, then=then))
    async with site:
        session_id, cookie = await site.log_in()
        stream = site.get(cookie)
        await stream.started()
        await stream.piece()
        await site.sessions.end(session_id)
        with pytest.raises(ZeroDivisionError):
            await stream.over()


async def test_an_application_that_does_not_listen_is_cancelled_and_one_that_tidies_up_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "PATIENCE", 0.02)
    became: list[str] = []
    tidied = asyncio.Event()

    async def deaf(scope: Any, receive: Any, send: Any) -> None:
        try:
            await forever(scope, receive, send)
        except asyncio.CancelledError:
            became.append("cancelled")
            raise

    async def tidy(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()
        await asyncio.sleep(0.1)  # longer than the patience
        became.append("tidy")
        tidied.set()

    for then in (deaf, tidy):
        site = LiveSite(streaming(EVENT, then=then))
        async with site:
            session_id, cookie = await site.log_in()
            stream = site.get(cookie)
            await stream.started()
            await stream.piece()
            await site.sessions.end(session_id)
            await stream.last()
            await stream.over()
            assert not stream.task.cancelled()
    assert became == ["cancelled", "tidy"]


async def test_an_application_that_swallows_its_cancellation_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "_AGAIN", 0.01)
    times = 0

    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        nonlocal times
        while times < 3:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                times += 1

    site = LiveSite(streaming(b"x", content_type=b"text/plain", then=stubborn))
    async with site:
        session_id, cookie = await site.log_in()
        stream = site.get(cookie)
        await stream.started()
        await stream.piece()
        await site.sessions.end(session_id)
        await stream.cut()
        assert times == 3
        assert not stream.task.cancelled()


async def test_a_cancellation_by_the_server_is_nobody_elses() -> None:
    site = LiveSite(streaming(EVENT))
    async with site:
        session_id, cookie = await site.log_in()
        stream = site.get(cookie)
        await stream.started()
        await stream.piece()
        stream.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stream.over()
        assert len(site.sessions.connections) == 0
        assert await site.sessions.end(session_id)


async def test_a_client_that_does_not_read_is_cut_without_its_last_event(monkeypatch: pytest.MonkeyPatch) -> None:
    from coatcheck.asgi import responses

    monkeypatch.setattr(responses, "_LAST_WORD", 0.02)
    site = LiveSite(streaming(EVENT))
    async with site:
        session_id, cookie = await site.log_in()
        stream = site.get(cookie)
        await stream.started()
        await stream.piece()
        stream.full.clear()
        await site.sessions.end(session_id)
        await stream.cut()


async def test_a_client_that_is_too_slow_is_dropped_and_its_session_lives() -> None:
    async def then(scope: Any, receive: Any, send: Any) -> None:
        while True:
            await send({"type": "http.response.body", "body": EVENT, "more_body": True})
            await asyncio.sleep(0)

    site = LiveSite(streaming(EVENT, then=then), slow_client_timeout=5.0)
    async with site:
        session_id, cookie = await site.log_in()
        stream = site.get(cookie)
        await stream.started()
        await stream.piece()
        site.clock.advance(100)  # one that reads is not slow, however long it is connected
        stream.full.clear()
        await until(lambda: site.sessions.connections.of(session_id)[0].blocked_since)
        assert site.sessions.connections.drop_slow(site.clock.monotonic() - 5) == 0
        site.clock.advance(6)
        assert site.sessions.connections.drop_slow(site.clock.monotonic() - 5) == 1
        await stream.over()
        assert [info.id for info in await site.sessions.list_user("user")] == [session_id]


async def test_a_node_that_leaves_ends_event_streams_properly_without_saying_that_the_session_ended() -> None:
    site = LiveSite(streaming(EVENT))
    async with site:
        session_id, cookie = await site.log_in()
        stream = site.get(cookie)
        await stream.started()
        await stream.piece()
        site.sessions.connections.leave()
        assert await stream.last() == b""
        assert isinstance(RESTART, str)
        assert [info.id for info in await site.sessions.list_user("user")] == [session_id]


async def test_a_new_secret_ends_the_streams_of_the_old_one_and_the_stream_that_made_it() -> None:
    async def then(scope: Any, receive: Any, send: Any) -> None:
        await session_of(scope).regenerate()
        await forever(scope, receive, send)

    waiting, regenerating = streaming(EVENT), streaming(EVENT, then=then)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        regenerate = any(name == b"x-regenerate" for name, _ in scope["headers"])
        await (regenerating if regenerate else waiting)(scope, receive, send)

    site = LiveSite(application)
    async with site:
        _, cookie = await site.log_in()
        old = site.get(cookie)
        await old.started()
        await old.piece()
        new = site.get(cookie, (b"x-regenerate", b"1"))
        await new.started()
        await new.piece()
        for stream in (old, new):
            assert b"secret has changed" in await stream.last()


async def test_expiry_ends_a_stream_and_what_is_pushed_is_no_activity() -> None:
    async def then(scope: Any, receive: Any, send: Any) -> None:
        while True:
            await send({"type": "http.response.body", "body": b": still here\n\n", "more_body": True})
            await asyncio.sleep(0.01)

    site = LiveSite(streaming(EVENT, then=then))
    async with site:
        _, cookie = await site.log_in()
        stream = site.get(cookie)
        await stream.started()
        await stream.piece()
        site.clock.advance(1000 + 20)
        message = await stream.next()
        while message["more_body"]:
            message = await stream.next()
        assert json.loads(message["body"].decode().splitlines()[1].removeprefix("data: ")) == {"reason": "idle"}


async def test_a_session_that_ends_before_its_stream_is_counted_ends_the_stream_all_the_same() -> None:
    proceed = asyncio.Event()
    inner = streaming(EVENT)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await proceed.wait()
        await inner(scope, receive, send)

    site = LiveSite(application)
    async with site:
        session_id, cookie = await site.log_in()
        stream = site.get(cookie)
        await asyncio.sleep(0)  # the session is looked up, and the application waits
        await site.sessions.end(session_id, "logout")
        proceed.set()
        await stream.started()
        await stream.piece()
        assert b"session-ended" in await stream.last()


async def test_one_stream_too_many_is_429_and_one_that_cannot_be_told_is_cut() -> None:
    site = LiveSite(streaming(EVENT), max_connections_per_session=2)
    async with site:
        session_id, cookie = await site.log_in()
        streams = [site.get(cookie) for _ in range(2)]
        for stream in streams:
            await stream.started()
            await stream.piece()
        refused = site.get(cookie)
        headers = await refused.started()
        assert (headers[b":status"], headers[b"retry-after"]) == (b"429", b"5")
        assert b"too many connections" in await refused.last()
        streams[0].incoming.put_nowait({"type": "http.disconnect"})
        await until(lambda: len(site.sessions.connections.of(session_id)) == 1)
        again = site.get(cookie)
        assert (await again.started())[b":status"] == b"200"

    site = LiveSite(streaming(b"x", content_type=b"text/plain"), max_connections_per_user=1)
    async with site:
        _, first = await site.log_in()
        _, second = await site.log_in()
        allowed, refused = site.get(first), site.get(second)
        await allowed.started()
        await allowed.piece()
        await refused.started()
        await refused.cut()
        assert len(site.sessions.connections) == 1


async def test_a_plain_request_awaits_the_servers_own_messages_and_makes_no_task() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        session_of(scope).get("x")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    site = LiveSite(application)
    async with site:
        _, cookie = await site.log_in()
        loop = asyncio.get_running_loop()
        made: list[Any] = []

        def factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> "asyncio.Task[Any]":
            made.append(work)
            return asyncio.Task(work, loop=loop, **options)

        request = site.get(cookie, body=[b"in ", b"two"])
        loop.set_task_factory(factory)
        try:
            await request.started()
            assert await request.last() == b"in two"
        finally:
            loop.set_task_factory(None)
        assert [work for work in made if "SessionMiddleware" in repr(work) or "Response" in repr(work)] == []
        assert site.store.calls["alive"] == 0


async def test_an_open_stream_of_a_cached_session_asks_no_store() -> None:
    site = LiveSite(streaming(EVENT))
    async with site:
        _, cookie = await site.log_in()
        stream = site.get(cookie)
        await stream.started()
        await stream.piece()
        await asyncio.sleep(0.05)
        assert site.store.reads - site.store.calls["epoch"] - site.store.calls["list_user"] == 0
        stream.task.cancel()


async def test_what_a_stream_changed_late_is_stored_and_after_the_end_it_is_not() -> None:
    async def then(scope: Any, receive: Any, send: Any) -> None:
        session_of(scope)["late"] = True
        await receive()
        if any(name == b"x-wait" for name, _ in scope["headers"]):
            await receive()

    site = LiveSite(streaming(EVENT, then=then))
    async with site:
        session_id, cookie = await site.log_in()
        await site.get(cookie).over()
        assert (await site.sessions.load(cookie.partition(b"=")[2]))["late"] is True
        stream = site.get(cookie, (b"x-wait", b"1"))
        await stream.started()
        await stream.piece()
        written = site.store.calls["apply"]
        await site.sessions.end(session_id)
        await stream.over()
        assert site.store.calls["apply"] == written
        assert await site.sessions.list_user("user") == []
