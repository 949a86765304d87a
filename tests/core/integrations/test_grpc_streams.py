"""gRPC streams end with their session, whatever their handlers do, and nothing stays behind of clients that vanish."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from coatcheck import current_session
from coatcheck.integrations.grpc import _call, _stream
from tests.core.integrations.grpc_site import BOTH, CLIENT, SERVER, Site, status

ENDED = (grpc.StatusCode.UNAUTHENTICATED, "session ended: logged out")
BIG = bytes(100_000)


class Handlers:
    """What a stream's handler may be doing when the session ends. `begun` counts those that do."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.begun = 0
        self.tidied = asyncio.Event()
        self.never = asyncio.Event()
        self.let_thread_go = threading.Event()
        self.seen: list[str] = []

    async def reading(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        self.begin()
        try:
            async for _ in requests:
                yield b"answer"
        finally:
            self.tidied.set()

    async def reading_by_hand(self, requests: Any, context: Any) -> None:
        self.begin()
        try:
            while await context.read() is not grpc.aio.EOF:
                pass
        finally:
            self.tidied.set()

    async def collecting(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        self.begin()
        try:
            return b"".join([request async for request in requests])
        finally:
            self.tidied.set()

    async def sleeping(self, request: Any, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        self.begin()
        try:
            await self.never.wait()
        finally:
            self.tidied.set()

    async def sending_last_words(self, request: Any, context: Any) -> None:
        self.begin()
        try:
            await self.never.wait()
        finally:
            with pytest.raises(grpc.aio.AbortError):
                await context.write(b"last words")
            self.tidied.set()

    async def pushing(self, request: Any, context: Any) -> AsyncIterator[bytes]:
        self.begin()
        try:
            while True:
                yield b"push"
                await asyncio.sleep(0)
        finally:
            self.tidied.set()

    def sync_reading(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        self.begin()
        try:
            for _ in requests:
                yield b"answer"
        finally:
            self.seen.append("tidied")
            self.thread_done()

    def sync_collecting(self, requests: Iterator[bytes], context: Any) -> bytes:
        self.begin()
        try:
            return b"".join(requests)
        finally:
            self.thread_done()

    def sync_pushing(self, request: Any, context: Any) -> Iterator[bytes]:
        self.begin()
        try:
            while True:
                yield b"push"
        finally:
            self.thread_done()

    def sync_blocking(self, request: Any, context: Any) -> Iterator[bytes]:
        self.begin()
        self.let_thread_go.wait(10)
        try:
            yield b"too late"
        finally:
            self.thread_done()

    def thread_done(self) -> None:
        self.loop.call_soon_threadsafe(self.tidied.set)

    def begin(self) -> None:
        self.begun += 1

    async def have_begun(self, count: int = 1) -> None:
        async with asyncio.timeout(5):
            while self.begun < count:
                await asyncio.sleep(0.001)


STREAMS: list[tuple[str, Callable[[Handlers], Any]]] = [
    (BOTH, lambda handlers: handlers.reading),
    (BOTH, lambda handlers: handlers.reading_by_hand),
    (BOTH, lambda handlers: handlers.sleeping),
    (BOTH, lambda handlers: handlers.sync_reading),
    (CLIENT, lambda handlers: handlers.collecting),
    (CLIENT, lambda handlers: handlers.sync_collecting),
    (SERVER, lambda handlers: handlers.sleeping),
    (SERVER, lambda handlers: handlers.sending_last_words),
    (SERVER, lambda handlers: handlers.pushing),
    (SERVER, lambda handlers: handlers.sync_pushing),
]
streams = pytest.mark.parametrize(
    ("kind", "choose"), STREAMS, ids=[f"{kind}-{choose(Handlers).__name__}" for kind, choose in STREAMS]
)


async def drain(call: Any) -> None:
    """Read to the end, whatever that is."""
    if hasattr(call, "read"):
        try:
            while await call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError:
            pass


@streams
async def test_a_stream_ends_with_its_session(kind: str, choose: Callable[[Handlers], Any]) -> None:
    handlers = Handlers()
    async with Site() as site:
        site.serve(kind, choose(handlers))
        session_id, ada = await site.log_in()
        _, bob = await site.log_in("bob")
        call, other = site.call(kind, metadata=ada), site.call(kind, metadata=bob)
        reading = asyncio.gather(drain(call), drain(other), return_exceptions=True)
        await handlers.have_begun(2)
        (connection,) = site.sessions.connections.of(session_id)
        assert (connection.kind, connection.owner) == ("grpc", "ada")
        assert await site.sessions.end(session_id, "logged out")
        assert await status(call) == ENDED
        assert dict(await call.trailing_metadata())["www-authenticate"] == 'Bearer error="invalid_token"'
        async with asyncio.timeout(5):
            await handlers.tidied.wait()
        assert site.sessions.connections.of(session_id) == []
        assert not other.done()
        assert len(site.sessions.connections) == 1
        other.cancel()
        await reading
        async with asyncio.timeout(5):
            while len(site.sessions.connections):
                await asyncio.sleep(0.001)


@streams
async def test_a_client_that_goes_leaves_nothing_behind(kind: str, choose: Callable[[Handlers], Any]) -> None:
    handlers = Handlers()
    async with Site() as site:
        site.serve(kind, choose(handlers))
        session_id, ada = await site.log_in()
        async with site.connect() as channel:
            call = site.call(kind, metadata=ada, channel=channel)
            await handlers.have_begun()
            assert len(site.sessions.connections.of(session_id)) == 1
            call.cancel()
        async with asyncio.timeout(5):
            await handlers.tidied.wait()
            while len(site.sessions.connections) or site.interceptor._streams:
                await asyncio.sleep(0.001)


async def test_a_client_that_never_reads_ends_too() -> None:
    handlers = Handlers()

    async def flooding(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield BIG
                handlers.seen.append("written")
        finally:
            handlers.tidied.set()

    async with Site() as site:
        site.serve(SERVER, flooding)
        session_id, ada = await site.log_in()
        call = site.call(SERVER, metadata=ada)
        written = -1
        while written != len(handlers.seen) or not written:  # until the way to the client is full
            written = len(handlers.seen)
            await asyncio.sleep(0.05)
        await site.sessions.end(session_id, "logged out")
        async with asyncio.timeout(5):
            await handlers.tidied.wait()
        assert len(site.sessions.connections) == 0
        # It has its word as soon as it reads.
        await drain(call)
        assert await status(call) == ENDED
        assert len(handlers.seen) <= written + 1


async def test_a_client_that_does_not_read_for_long_is_told_so_and_its_session_lives_on() -> None:
    async def flooding(request: bytes, context: Any) -> AsyncIterator[bytes]:
        while True:
            yield BIG

    async with Site(manager={"slow_client_timeout": 30.0}) as site:
        site.serve(SERVER, flooding)
        session_id, ada = await site.log_in()
        call = site.call(SERVER, metadata=ada)
        async with asyncio.timeout(5):
            while not site.sessions.connections.of(session_id):
                await asyncio.sleep(0.001)
            (connection,) = site.sessions.connections.of(session_id)
            while not connection.blocked_since:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.1)  # so that the way to the client is full, and what waits now waits for it
            site.clock.advance(31.0)
            while site.sessions.connections.of(session_id):
                await asyncio.sleep(0.001)
        await drain(call)
        assert await status(call) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too slow to read")
        assert [info.id for info in await site.sessions.list_user("ada")] == [session_id]


async def test_there_are_only_so_many_streams_of_one_session() -> None:
    handlers = Handlers()
    async with Site(manager={"max_connections_per_session": 2}) as site:
        site.serve(BOTH, handlers.reading)
        _, ada = await site.log_in()
        calls = [site.call(BOTH, metadata=ada) for _ in range(2)]
        await handlers.have_begun(2)
        one_too_many = site.call(BOTH, metadata=ada)
        code, details = await status(one_too_many)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "too many connections" in details
        assert handlers.begun == 2
        calls[0].cancel()
        await handlers.tidied.wait()
        while len(site.sessions.connections) == 2:
            await asyncio.sleep(0.001)
        site.call(BOTH, metadata=ada)
        await handlers.have_begun(3)


async def test_a_session_that_cannot_be_confirmed_for_long_is_unavailable() -> None:
    handlers = Handlers()
    async with Site() as site:
        site.serve(BOTH, handlers.reading)
        session_id, ada = await site.log_in()
        call = site.call(BOTH, metadata=ada)
        await handlers.have_begun()
        site.store.down = True
        site.sessions.recheck(session_id)
        await asyncio.sleep(0.05)
        assert not call.done()
        site.clock.advance(31.0)
        assert await status(call) == (grpc.StatusCode.UNAVAILABLE, "the session cannot be confirmed")


async def test_a_client_that_never_reads_does_not_keep_its_call_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stream, "PATIENCE", 0.05)
    full = asyncio.Event()

    async def flooding(request: bytes, context: Any) -> None:
        while True:
            try:
                async with asyncio.timeout(0.05):
                    await context.write(BIG)
            except TimeoutError:
                full.set()
                raise

    async with Site() as site:
        site.serve(SERVER, flooding)
        session_id, ada = await site.log_in()
        call = site.call(SERVER, metadata=ada)
        async with asyncio.timeout(5):
            await full.wait()
            await site.sessions.end(session_id, "logged out")
            while site.interceptor._streams:
                await asyncio.sleep(0.001)
        assert len(site.sessions.connections) == 0
        assert not call.done()


async def test_a_handler_that_swallows_its_cancellation_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_stream, "PATIENCE", 0.05)
    stop = asyncio.Event()

    async def stubborn(request: bytes, context: Any) -> None:
        while not stop.is_set():
            try:
                await stop.wait()
            except asyncio.CancelledError:
                pass

    async with Site() as site:
        site.serve(SERVER, stubborn)
        session_id, ada = await site.log_in()
        call = site.call(SERVER, metadata=ada)
        while not site.sessions.connections.of(session_id):
            await asyncio.sleep(0.001)
        await site.sessions.end(session_id, "logged out")
        assert await status(call) == ENDED
        async with asyncio.timeout(5):
            while site.interceptor._streams:
                await asyncio.sleep(0.001)
            await site.server.stop(1)
        assert "the handler of /test.Service/unary_stream does not end with its stream" in caplog.text
        stop.set()


async def test_a_thread_that_waits_for_something_else_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stream, "PATIENCE", 0.05)
    handlers = Handlers()
    async with Site() as site:
        site.serve(SERVER, handlers.sync_blocking)
        session_id, ada = await site.log_in()
        call = site.call(SERVER, metadata=ada)
        await handlers.have_begun()
        await site.sessions.end(session_id, "logged out")
        assert await status(call) == ENDED
        handlers.let_thread_go.set()
        async with asyncio.timeout(5):
            await handlers.tidied.wait()  # by the error that its first word to the call is


@pytest.mark.parametrize("known", [True, False])
async def test_a_session_that_ends_while_it_is_looked_up_has_no_stream_for_long(known: bool) -> None:
    handlers = Handlers()
    async with Site(require_login=True) as site:
        site.serve(BOTH, handlers.reading)
        session_id, ada = await site.log_in()
        site.sessions.cache.clear()
        gate = site.store.hold("read", "after")
        call = site.call(BOTH, metadata=ada)
        await gate.arrived.wait()
        await site.store.inner.end([session_id], reason="elsewhere", now=site.clock.time())
        if known:
            assert site.sessions._feed is not None
            site.sessions._feed.poll()
        gate.release()
        details = "Nobody is logged in." if known else "session ended: elsewhere"
        assert await status(call) == (grpc.StatusCode.UNAUTHENTICATED, details)
        assert len(site.sessions.connections) == 0


async def test_a_session_that_ends_before_its_stream_is_counted_ends_it_all_the_same() -> None:
    async def handler(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        session = current_session()
        await session.log_in("ada")
        assert session.id is not None
        await site.store.inner.end([session.id], reason="elsewhere", now=site.clock.time())
        assert site.sessions._feed is not None
        site.sessions._feed.poll()  # the news is here, and nothing is counted yet
        async for request in requests:
            yield request

    async with Site() as site:
        site.serve(BOTH, handler)
        call = site.call(BOTH)
        assert await status(call) == (grpc.StatusCode.UNAUTHENTICATED, "session ended: the session has ended")
        assert len(site.sessions.connections) == 0


async def test_a_stream_ends_when_its_sessions_secret_changes_and_when_all_are_ended() -> None:
    handlers = Handlers()
    async with Site() as site:
        site.serve(BOTH, handlers.reading)
        _, ada = await site.log_in()
        token = ada[0][1].partition("=")[2].encode()
        call = site.call(BOTH, metadata=ada)
        await handlers.have_begun()
        session = await site.sessions.load(token)
        await session.regenerate()
        code, details = await status(call)
        assert (code, details) == (grpc.StatusCode.UNAUTHENTICATED, "session ended: the session's secret has changed")
        _, again = await site.log_in()
        call = site.call(BOTH, metadata=again)
        await handlers.have_begun(2)
        await site.sessions.end_user("ada", reason="everywhere")
        assert await status(call) == (grpc.StatusCode.UNAUTHENTICATED, "session ended: everywhere")


async def test_a_stream_ends_when_its_session_expires_and_what_the_client_sends_is_activity() -> None:
    async def handler(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def pushing(request: bytes, context: Any) -> AsyncIterator[bytes]:
        while True:
            await push.wait()
            push.clear()
            yield b"push"

    push = asyncio.Event()
    async with Site() as site:
        site.serve(BOTH, handler)
        site.serve(SERVER, pushing)
        _, ada = await site.log_in()
        _, bob = await site.log_in("bob")
        talking, listening = site.call(BOTH, metadata=ada), site.call(SERVER, metadata=bob)
        for seconds in (0, 400, 400, 400):
            site.clock.advance(seconds)
            await talking.write(b"still here")
            assert await talking.read() == b"still here"
            push.set()
            assert await listening.read() == b"push"
        # Bob was sent something all the time, and has said nothing for 1200 seconds.
        code, details = await status(listening)
        assert (code, details) == (grpc.StatusCode.UNAUTHENTICATED, "session ended: idle")
        assert not talking.done()
        assert [info.user_id for info in await site.sessions.list_user("ada")] == ["ada"]


async def test_a_session_that_begins_in_a_stream_counts_it_from_then_on() -> None:
    async def handler(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            await current_session().log_in(request.decode())
            yield b"welcome"

    async with Site() as site:
        site.serve(BOTH, handler)
        call = site.call(BOTH)
        await call.write(b"ada")
        assert await call.read() == b"welcome"
        assert "set-cookie" in await call.initial_metadata()
        (info,) = await site.sessions.list_user("ada")
        await call.write(b"")  # which makes the handler read
        while not site.sessions.connections.of(info.id):
            await asyncio.sleep(0.001)
        await site.sessions.end(info.id, "logged out")
        assert (await status(call))[0] is not grpc.StatusCode.OK


async def test_a_node_that_leaves_says_so_and_ends_no_session() -> None:
    handlers = Handlers()
    async with Site() as site:
        site.serve(BOTH, handlers.reading)
        session_id, ada = await site.log_in()
        known, anonymous = site.call(BOTH, metadata=ada), site.call(BOTH)
        await anonymous.write(b"")
        assert await anonymous.read() == b"answer"
        await known.write(b"")
        assert await known.read() == b"answer"
        site.sessions.connections.leave()
        assert await status(known) == (grpc.StatusCode.UNAVAILABLE, "service restart")
        assert not anonymous.done()
        site.interceptor.leave()
        assert await status(anonymous) == (grpc.StatusCode.UNAVAILABLE, "service restart")
        # Whatever is opened now is told the same.
        for metadata in (ada, ()):
            assert await status(site.call(BOTH, metadata=metadata)) == (grpc.StatusCode.UNAVAILABLE, "service restart")
        assert [info.id for info in await site.sessions.list_user("ada")] == [session_id]


async def test_a_stream_that_has_come_to_its_end_is_not_ended_any_more() -> None:
    async def handler(requests: AsyncIterator[bytes], context: Any) -> bytes:
        count = len([request async for request in requests])
        # In the same moment as it is done.
        await site.sessions.end(session_id, "logged out")
        return str(count).encode()

    async with Site() as site:
        site.serve(CLIENT, handler)
        session_id, ada = await site.log_in()
        call = site.call(CLIENT, iter([b"", b""]), metadata=ada)
        assert await call == b"2"


async def test_a_handler_that_aborts_while_its_session_ends_has_said_it() -> None:
    async def handler(request: bytes, context: Any) -> None:
        await site.sessions.end(session_id, "logged out")
        await context.abort(grpc.StatusCode.ABORTED, "by the handler")

    async with Site() as site:
        site.serve(SERVER, handler)
        session_id, ada = await site.log_in()
        assert await status(site.call(SERVER, metadata=ada)) == (grpc.StatusCode.ABORTED, "by the handler")


async def test_a_storm_of_calls_that_are_cancelled_at_once_leaves_nothing_behind() -> None:
    handlers = Handlers()
    async with Site() as site:
        for kind, handler in ((BOTH, handlers.reading), (SERVER, handlers.pushing), (CLIENT, handlers.collecting)):
            site.serve(kind, handler)
        _, ada = await site.log_in()
        for round in range(30):
            calls = [site.call(kind, metadata=ada) for kind in (BOTH, SERVER, CLIENT)]
            for _ in range(round % 7):
                await asyncio.sleep(0.001)
            for call in calls:
                call.cancel()
        async with asyncio.timeout(10):
            while len(site.sessions.connections) or site.interceptor._streams or _call._tasks:
                await asyncio.sleep(0.001)


async def test_streams_and_ends_in_any_order_leave_nothing_open() -> None:
    handlers = Handlers()
    async with Site() as site:
        site.serve(BOTH, handlers.reading)
        for round in range(20):
            session_id, ada = await site.log_in()
            calls = [site.call(BOTH, metadata=ada) for _ in range(3)]
            for _ in range(round):
                await asyncio.sleep(0.0005)
            await site.sessions.end(session_id, "logged out")
            for call in calls:
                # One that came too late is an anonymous visitor's, and lives on.
                if len(site.sessions.connections.of(session_id)) == 0 and not call.done():
                    await call.done_writing()
                assert (await status(call))[0] in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.OK)
        assert len(site.sessions.connections) == 0
