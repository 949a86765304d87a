"""gRPC servers: every call has its session, in handlers of every kind, and what they change is stored as over HTTP."""

import asyncio
import importlib
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import h2.config
import h2.connection
import pytest

from coatcheck import MissingDependency, UsageError, current_session
from coatcheck.integrations.grpc import SessionInterceptor, require_fresh, require_login
from tests.core.integrations.grpc_site import (
    BOTH,
    CLIENT,
    COOKIE,
    SERVER,
    UNARY,
    Site,
    responses,
    status,
)

Style = Callable[[Callable[[bytes], bytes]], Callable[..., Any]]

# ---- each kind of handler, from what it answers to the last message


def unary(answer: Callable[[bytes], bytes]) -> Callable[..., Any]:
    async def handler(request: bytes, context: Any) -> bytes:
        return answer(request)

    return handler


def sync_unary(answer: Callable[[bytes], bytes]) -> Callable[..., Any]:
    def handler(request: bytes, context: Any) -> bytes:
        return answer(request)

    return handler


def yielding(answer: Callable[[bytes], bytes]) -> Callable[..., Any]:
    async def handler(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield answer(request)

    return handler


def writing(answer: Callable[[bytes], bytes]) -> Callable[..., Any]:
    async def handler(request: bytes, context: Any) -> None:
        await context.write(answer(request))

    return handler


def sync_yielding(answer: Callable[[bytes], bytes]) -> Callable[..., Any]:
    def handler(request: bytes, context: Any) -> Iterator[bytes]:
        yield answer(request)

    return handler


def returning_iterator(answer: Callable[[bytes], bytes]) -> Callable[..., Any]:
    def handler(request: bytes, context: Any) -> Iterator[bytes]:
        return iter([answer(request)])

    return handler


def iterating(answer: Callable[[bytes], bytes]) -> Callable[..., Any]:
    async def handler(requests: AsyncIterator[bytes], context: Any) -> bytes:
        last = [request async for request in requests][-1]
        return answer(last)

    return handler


def reading(answer: Callable[[bytes], bytes]) -> Callable[..., Any]:
    async def handler(requests: AsyncIterator[bytes], context: Any) -> bytes:
        last = b""
        while (message := await context.read()) is not grpc.aio.EOF:
            last = message
        return answer(last)

    return handler


def sync_iterating(answer: Callable[[bytes], bytes]) -> Callable[..., Any]:
    def handler(requests: Iterator[bytes], context: Any) -> bytes:
        return answer(list(requests)[-1])

    return handler


def echoing(answer: Callable[[bytes], bytes]) -> Callable[..., Any]:
    async def handler(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield answer(request)

    return handler


def reading_and_writing(answer: Callable[[bytes], bytes]) -> Callable[..., Any]:
    async def handler(requests: AsyncIterator[bytes], context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            await context.write(answer(message))

    return handler


def sync_echoing(answer: Callable[[bytes], bytes]) -> Callable[..., Any]:
    def handler(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for request in requests:
            yield answer(request)

    return handler


STYLES: list[tuple[str, Style]] = [
    (UNARY, unary),
    (UNARY, sync_unary),
    (SERVER, yielding),
    (SERVER, writing),
    (SERVER, sync_yielding),
    (SERVER, returning_iterator),
    (CLIENT, iterating),
    (CLIENT, reading),
    (CLIENT, sync_iterating),
    (BOTH, echoing),
    (BOTH, reading_and_writing),
    (BOTH, sync_echoing),
]
styles = pytest.mark.parametrize(("kind", "style"), STYLES, ids=[f"{kind}-{style.__name__}" for kind, style in STYLES])


def who(_: bytes) -> bytes:
    return str(current_session().user_id).encode()


# ---- who calls


@styles
async def test_handlers_of_every_kind_have_the_current_session(kind: str, style: Style) -> None:
    async with Site() as site:
        site.serve(kind, style(who))
        _, ada = await site.log_in("ada")
        _, bob = await site.log_in("bob")
        calls = [responses(kind, site.call(kind, metadata=metadata)) for metadata in (ada, bob, ())]
        assert await asyncio.gather(*calls) == [[b"ada"], [b"bob"], [b"None"]]
        assert len(site.sessions.connections) == 0


async def test_a_cookie_is_found_among_the_crumbs_of_its_header() -> None:
    async with Site() as site:
        site.serve(UNARY, unary(who))
        _, ((name, ours),) = await site.log_in()
        for crumbs in ([ours], ["a=b", ours, "c=d"], [f"a=b; {ours}; c=d"]):
            assert await site.call(UNARY, metadata=[(name, crumb) for crumb in crumbs]) == b"ada"
        for crumbs in ([ours, ours], [f"{ours}; {ours}"], [ours + "x"], [f"x{ours}"], [f'x="{ours}"']):
            assert await site.call(UNARY, metadata=[(name, crumb) for crumb in crumbs]) == b"None"


async def test_pages_of_other_sites_may_not_call() -> None:
    async with Site(public_origins=["https://app.example"]) as site:
        site.serve(UNARY, unary(who))
        site.serve(BOTH, echoing(who))
        _, ada = await site.log_in()
        for entries, allowed in (
            ([("origin", "https://app.example")], True),
            ([("sec-fetch-site", "same-origin"), ("origin", "https://login.example")], True),
            ([("origin", "https://evil.example")], False),
            ([("origin", "null")], False),
            ([("sec-fetch-site", "cross-site")], False),
            ([("sec-fetch-site", "same-site"), ("origin", "https://evil.example")], False),
            ([("origin", "https://app.example"), ("origin", "https://app.example")], False),
        ):
            for metadata in (entries, [*ada, *entries]):
                for kind in (UNARY, BOTH):
                    call = site.call(kind, metadata=metadata)
                    if allowed:
                        assert (await responses(kind, call)) == [b"ada" if metadata != entries else b"None"]
                    else:
                        code, details = await status(call)
                        assert code is grpc.StatusCode.PERMISSION_DENIED
                        assert "another site" in details


async def test_a_bearer_is_the_credential_and_falls_back_to_no_cookie() -> None:
    async with Site(bearer=True) as site:
        site.serve(UNARY, unary(who))
        site.serve(BOTH, echoing(who))
        _, bob = await site.log_in("bob")
        session_id, ada = await site.log_in("ada")
        bearer = await site.bearer(ada)
        for kind in (UNARY, BOTH):
            # With it no page of another site can be the cause: no browser sends one by itself.
            for metadata in ([bearer], [bearer, *bob], [bearer, ("origin", "https://evil.example")]):
                assert await responses(kind, site.call(kind, metadata=metadata)) == [b"ada"]
            for metadata in (
                [("authorization", "Bearer x.y.z"), *bob],
                [bearer, bearer],
                [bearer, ("authorization", "Basic eDp5")],
                [("authorization", bearer[1] + "x")],
            ):
                call = site.call(kind, metadata=metadata)
                assert (await status(call))[0] is grpc.StatusCode.UNAUTHENTICATED
                assert dict(await call.trailing_metadata())["www-authenticate"].startswith('Bearer error="invalid_')
        await site.sessions.end(session_id)
        assert (await status(site.call(UNARY, metadata=[bearer, *bob])))[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_a_store_that_cannot_be_asked_is_unavailable_and_never_a_guess() -> None:
    async with Site() as site:
        site.serve(UNARY, unary(who))
        site.serve(SERVER, yielding(who))
        _, ada = await site.log_in()
        site.sessions.cache.clear()
        site.store.down = True
        for kind in (UNARY, SERVER):
            call = site.call(kind, metadata=ada)
            assert await status(call) == (
                grpc.StatusCode.UNAVAILABLE,
                "The session store cannot be asked right now. Nothing is lost; try again.",
            )
            assert dict(await call.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
            # Who has no credential needs no store.
            assert await responses(kind, site.call(kind)) == [b"None"]


async def test_an_unknown_method_is_unimplemented() -> None:
    async with Site() as site:
        assert (await status(site.call(UNARY)))[0] is grpc.StatusCode.UNIMPLEMENTED


async def test_no_cookie_gets_into_the_log_by_a_neighbour_that_is_not_utf8(caplog: pytest.LogCaptureFixture) -> None:
    async with Site() as site:
        site.serve(UNARY, unary(who))
        _, ((_, ours),) = await site.log_in()
        assert b"ada" in await asyncio.to_thread(_post, site.port, [(b"cookie", ours.encode() + b"; lang=\xff")])
        assert caplog.text == ""


def _post(port: int, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Give the body of the answer to an empty message, as a client that checks nothing gets it."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
    connection.initiate_connection()
    request = [(b":method", b"POST"), (b":path", b"/test.Service/unary_unary"), (b":scheme", b"http")]
    request += [(b":authority", b"localhost"), (b"content-type", b"application/grpc"), (b"te", b"trailers")]
    connection.send_headers(1, [*request, *headers])
    connection.send_data(1, b"\0\0\0\0\0", end_stream=True)
    body = b""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
        while True:
            line.sendall(connection.data_to_send())
            for event in connection.receive_data(line.recv(65536)):
                if isinstance(event, h2.events.DataReceived):
                    body += event.data
                if isinstance(event, h2.events.StreamEnded):
                    return body


# ---- who must be logged in


@styles
async def test_require_login_lets_nobody_in_who_is_not_logged_in(kind: str, style: Style) -> None:
    async with Site() as site:
        ran = []
        site.serve(kind, require_login()(style(lambda request: ran.append(1) or who(request))))
        _, ada = await site.log_in()
        call = site.call(kind)
        assert await status(call) == (grpc.StatusCode.UNAUTHENTICATED, "Nobody is logged in.")
        assert dict(await call.trailing_metadata())["www-authenticate"] == "Bearer"
        assert ran == []
        assert await responses(kind, site.call(kind, metadata=ada)) == [b"ada"]


@styles
async def test_fresh_within_wants_a_recent_login(kind: str, style: Style) -> None:
    async with Site() as site:
        site.serve(kind, require_login(fresh_within=300)(style(who)))
        _, ada = await site.log_in()
        assert await responses(kind, site.call(kind, metadata=ada)) == [b"ada"]
        site.clock.advance(301)
        call = site.call(kind, metadata=ada)
        assert await status(call) == (grpc.StatusCode.UNAUTHENTICATED, "A more recent login is required")
        challenge = dict(await call.trailing_metadata())["www-authenticate"]
        assert challenge.startswith('Bearer error="insufficient_user_authentication"')
        assert 'max_age="300"' in challenge


@styles
async def test_require_fresh_asks_the_store_past_every_copy(kind: str, style: Style) -> None:
    async with Site() as site:
        site.serve(kind, require_fresh()(style(who)))
        session_id, ada = await site.log_in()
        assert await responses(kind, site.call(kind, metadata=ada)) == [b"ada"]
        site.store.feed_cut = True
        await site.store.inner.end([session_id], reason="elsewhere", now=site.clock.time())
        # This node's copy may still be believed, and is not.
        assert await status(site.call(kind, metadata=ada)) == (grpc.StatusCode.UNAUTHENTICATED, "Nobody is logged in.")
        assert (await status(site.call(kind)))[0] is grpc.StatusCode.UNAUTHENTICATED
        _, bob = await site.log_in("bob")
        site.store.down = True
        assert (await status(site.call(kind, metadata=bob)))[0] is grpc.StatusCode.UNAVAILABLE


async def test_what_is_refused_is_counted_by_its_cause() -> None:
    async with Site(bearer=True) as site:
        site.serve(UNARY, unary(who))
        await status(site.call(UNARY, metadata=[("origin", "https://evil.example")]))
        await status(site.call(UNARY, metadata=[("authorization", "Bearer x.y.z")]))
        assert site.sessions.counted.refused == {"cross-site": 1, "invalid token": 1}


async def test_a_server_can_require_a_login_for_all_but_some_methods() -> None:
    async with Site(require_login=True, except_for=["/test.Service/open", "/grpc.health.v1.Health/*"]) as site:
        site.serve(UNARY, unary(who))
        site.serve(BOTH, echoing(who))
        site.serve(UNARY, unary(who), name="open")
        _, ada = await site.log_in()
        for kind in (UNARY, BOTH):
            assert (await status(site.call(kind)))[0] is grpc.StatusCode.UNAUTHENTICATED
            assert await responses(kind, site.call(kind, metadata=ada)) == [b"ada"]
        assert await site.call(UNARY, name="open") == b"None"
        assert site.interceptor._is_open("/grpc.health.v1.Health/Check")
        assert not site.interceptor._is_open("/grpc.health.v1.Health2/Check")


@pytest.mark.parametrize("name", ["Service/Method", "/Service", "/*", "//x", "/a/b/c", "*"])
def test_an_exception_that_is_no_method_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match="is no method"):
        SessionInterceptor("memory://", require_login=True, except_for=[name])


def test_exceptions_without_a_rule_are_an_error() -> None:
    with pytest.raises(UsageError, match="require_login"):
        SessionInterceptor("memory://", except_for=["/a.B/C"])


def test_a_login_that_can_never_be_fresh_is_an_error() -> None:
    with pytest.raises(UsageError, match="fresh_within"):
        require_login(fresh_within=0)


@styles
async def test_require_login_without_an_interceptor_lets_nobody_in(kind: str, style: Style) -> None:
    async with Site() as site:
        bare = grpc.aio.server()
        bare.add_generic_rpc_handlers([site])
        port = bare.add_insecure_port("127.0.0.1:0")
        await bare.start()
        site.serve(kind, require_login()(style(who)))
        _, ada = await site.log_in()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            code, details = await status(site.call(kind, channel=channel, metadata=ada))
        assert code is grpc.StatusCode.UNKNOWN
        assert "there is no current session" in details
        await bare.stop(None)


# ---- what handlers change


def counting(_: bytes) -> bytes:
    session = current_session()
    session["seen"] = session.get("seen", 0) + 1
    return str(session["seen"]).encode()


@styles
async def test_what_a_handler_stores_is_there_when_its_answer_is(kind: str, style: Style) -> None:
    async with Site() as site:
        site.serve(kind, style(counting))
        _, ada = await site.log_in()
        assert await responses(kind, site.call(kind, metadata=ada)) == [b"1"]
        assert await responses(kind, site.call(kind, metadata=ada)) == [b"2"]


@styles
async def test_a_visitor_gets_a_session_and_its_cookie_in_the_initial_metadata(kind: str, style: Style) -> None:
    async with Site() as site:
        site.serve(kind, style(counting))
        call = site.call(kind)
        assert await responses(kind, call) == [b"1"]
        (line,) = (await call.initial_metadata()).get_all("set-cookie")
        assert line.startswith(f"{COOKIE}=") and "HttpOnly" in line and "Secure" in line
        again = site.call(kind, metadata=[("cookie", line.partition(";")[0])])
        assert await responses(kind, again) == [b"2"]
        assert "set-cookie" not in await again.initial_metadata()


async def test_who_stores_nothing_gets_no_session() -> None:
    async with Site() as site:
        site.serve(UNARY, unary(who))
        call = site.call(UNARY)
        await call
        assert "set-cookie" not in await call.initial_metadata()
        assert site.store.writes == 0


@styles
async def test_an_exception_discards_what_was_changed(kind: str, style: Style) -> None:
    def failing(request: bytes) -> bytes:
        counting(request)
        raise LookupError("a bug")

    async with Site() as site:
        _, ada = await site.log_in()
        written = site.store.writes
        site.serve(kind, style(failing))
        call = site.call(kind, metadata=ada)
        with pytest.raises(grpc.aio.AioRpcError, match="a bug") as raised:
            await responses(kind, call)
        assert raised.value.code() is grpc.StatusCode.UNKNOWN
        assert site.store.writes == written


@pytest.mark.parametrize("sync", [False, True])
async def test_an_abort_is_an_answer_so_what_was_changed_before_is_stored(sync: bool) -> None:
    async def aborting(request: bytes, context: Any) -> bytes:
        counting(request)
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not like this", (("hint", "try"),))
        raise AssertionError

    async def aborting_with_status(request: bytes, context: Any) -> bytes:
        counting(request)
        await context.abort_with_status(_Status())
        raise AssertionError

    def sync_aborting(request: bytes, context: Any) -> bytes:
        counting(request)
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not like this", (("hint", "try"),))
        raise AssertionError

    def sync_aborting_with_status(request: bytes, context: Any) -> bytes:
        counting(request)
        context.abort_with_status(_Status())
        raise AssertionError

    async with Site() as site:
        site.serve(UNARY, unary(counting), name="count")
        _, ada = await site.log_in()
        for handler in (sync_aborting, sync_aborting_with_status) if sync else (aborting, aborting_with_status):
            site.serve(UNARY, handler)
            call = site.call(UNARY, metadata=ada)
            assert await status(call) == (grpc.StatusCode.INVALID_ARGUMENT, "not like this")
            assert dict(await call.trailing_metadata())["hint"] == "try"
            # A visitor who is refused keeps what is known of them.
            assert "set-cookie" in await site.call(UNARY).initial_metadata()
        assert await site.call(UNARY, name="count", metadata=ada) == b"3"


class _Status(grpc.Status):
    code = grpc.StatusCode.INVALID_ARGUMENT
    details = "not like this"
    trailing_metadata = (("hint", "try"),)


@pytest.mark.parametrize("sync", [False, True])
async def test_a_handler_may_send_initial_metadata_and_the_cookie_goes_with_them(sync: bool) -> None:
    async def handler(request: bytes, context: Any) -> bytes:
        counting(request)
        await context.send_initial_metadata((("hint", "try"),))
        with pytest.raises(grpc.aio.UsageError):
            await context.send_initial_metadata((("hint", "again"),))
        return b""

    def sync_handler(request: bytes, context: Any) -> bytes:
        counting(request)
        context.send_initial_metadata((("hint", "try"),))
        return b""

    async with Site() as site:
        site.serve(UNARY, sync_handler if sync else handler)
        call = site.call(UNARY)
        await call
        metadata = await call.initial_metadata()
        assert metadata["hint"] == "try"
        assert len(metadata.get_all("set-cookie")) == 1


async def test_what_a_stream_changes_after_its_first_message_is_stored_at_its_end() -> None:
    async def handler(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        yield counting(request)
        yield counting(request)

    async with Site() as site:
        site.serve(SERVER, handler)
        _, ada = await site.log_in()
        assert await responses(SERVER, site.call(SERVER, metadata=ada)) == [b"first", b"1", b"2"]
        assert await responses(SERVER, site.call(SERVER, metadata=ada)) == [b"first", b"3", b"4"]


async def test_a_session_that_a_stream_begins_after_its_first_message_is_dropped_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        counting(request)

    async with Site() as site:
        site.serve(SERVER, handler)
        assert await responses(SERVER, site.call(SERVER)) == [b"first"]
        assert site.store.writes == 0
        assert "its cookie could not be set" in caplog.text


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_stream_whose_changes_cannot_be_stored_says_so(when: str) -> None:
    async def handler(request: bytes, context: Any) -> AsyncIterator[bytes]:
        if when == "after":
            yield b"first"
        counting(request)
        site.store.down = True
        yield b"second"

    async with Site() as site:
        site.serve(SERVER, handler)
        _, ada = await site.log_in()
        call = site.call(SERVER, metadata=ada)
        got = []
        while not call.done():
            try:
                got.append(await call.read())
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert got == ([b"first", b"second"] if when == "after" else [])


@pytest.mark.parametrize("kind", [UNARY, BOTH])
async def test_a_verb_that_the_store_cannot_do_is_unavailable_and_one_that_is_refused_unauthenticated(
    kind: str,
) -> None:
    async def handler(request: Any, context: Any) -> bytes:
        await entered.wait()
        await current_session().save()
        await current_session().regenerate()
        return b""

    entered = asyncio.Event()
    entered.set()
    async with Site() as site:
        site.serve(kind, handler)
        session_id, ada = await site.log_in()
        await site.sessions.load(ada[0][1].partition("=")[2].encode())
        site.store.down = True
        assert (await status(site.call(kind, metadata=ada)))[0] is grpc.StatusCode.UNAVAILABLE
        site.store.down = False
        entered.clear()
        call = site.call(kind, metadata=ada)
        while not call.done() and not site.interceptor._streams and kind == BOTH:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        await site.store.inner.end([session_id], reason="elsewhere", now=site.clock.time())
        entered.set()
        assert (await status(call))[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_logging_in_and_out_over_grpc() -> None:
    async def handler(request: bytes, context: Any) -> bytes:
        session = current_session()
        await (session.log_in(request.decode()) if request else session.log_out())
        return who(b"")

    def sync_handler(request: bytes, context: Any) -> bytes:
        session = current_session()
        session.sync.log_in(request.decode()) if request else session.sync.log_out()
        return who(b"")

    async with Site() as site:
        site.serve(UNARY, unary(who), name="who")
        for each in (handler, sync_handler):
            site.serve(UNARY, each)
            call = site.call(UNARY, b"ada")
            assert await call == b"ada"
            ours = (await call.initial_metadata())["set-cookie"].partition(";")[0]
            metadata = [("cookie", ours)]
            assert await site.call(UNARY, name="who", metadata=metadata) == b"ada"
            out = site.call(UNARY, metadata=metadata)
            assert await out == b"None"
            assert "Max-Age=0" in (await out.initial_metadata())["set-cookie"]
            assert await site.call(UNARY, name="who", metadata=metadata) == b"None"


async def test_a_session_that_was_ended_meanwhile_gets_no_cookie() -> None:
    async def handler(request: bytes, context: Any) -> bytes:
        await current_session().log_in("ada")
        await site.sessions.end_user("ada")
        return b"done"

    async with Site() as site:
        site.serve(UNARY, handler)
        call = site.call(UNARY)
        assert await call == b"done"
        assert "set-cookie" not in await call.initial_metadata()


async def test_no_cookie_is_set_where_a_bearer_brought_the_call() -> None:
    async def handler(request: bytes, context: Any) -> bytes:
        await current_session().regenerate()
        return b"done"

    async with Site(bearer=True) as site:
        site.serve(UNARY, handler)
        _, ada = await site.log_in()
        call = site.call(UNARY, metadata=[await site.bearer(ada)])
        assert await call == b"done"
        assert "set-cookie" not in await call.initial_metadata()


# ---- sync handlers


async def test_sync_handlers_run_in_the_pool_they_were_given_and_have_the_context_that_grpc_gives_them() -> None:
    done = threading.Event()

    def handler(request: bytes, context: Any) -> bytes:
        assert context.is_active()
        assert context.add_callback(done.set)
        assert dict(context.invocation_metadata())["hint"] == "try"
        assert context.peer().startswith("ipv4:127.0.0.1")
        with pytest.raises(AttributeError, match="yield responses"):
            context.write(b"")
        context.set_trailing_metadata((("thread", threading.current_thread().name),))
        return b"done"

    with ThreadPoolExecutor(1, thread_name_prefix="ours") as pool:
        async with Site(thread_pool=pool) as site:
            site.serve(UNARY, handler)
            call = site.call(UNARY, metadata=[("hint", "try")])
            assert await call == b"done"
            assert (await call.trailing_metadata())["thread"].startswith("ours")
            assert await asyncio.to_thread(done.wait, 5)


async def test_async_handlers_have_the_context_that_grpc_gives_them() -> None:
    done = asyncio.Event()

    async def handler(request: bytes, context: Any) -> bytes:
        context.add_done_callback(lambda _: done.set())
        assert not context.done()
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("none of these")
        assert 0 < context.time_remaining() < 6  # gRPC rounds the deadline up on its way
        return b""

    async with Site() as site:
        site.serve(UNARY, handler)
        assert await status(site.call(UNARY, timeout=5)) == (grpc.StatusCode.NOT_FOUND, "none of these")
        await asyncio.wait_for(done.wait(), 5)


def test_without_grpc_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("coatcheck.integrations.grpc")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "grpc.aio", None)
    with pytest.raises(MissingDependency, match=r"grpcio: pip install 'coatcheck\[grpc\]'"):
        importlib.import_module("coatcheck.integrations.grpc")
