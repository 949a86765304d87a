"""What a client can do to take more than its share: refused within its time, and the next client is served at once.

The servers here have short times and few connections, so that no test waits long for what takes seconds in earnest.
"""

import asyncio
import contextlib
import gzip
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import httpx
import pytest
from aioquic.buffer import encode_uint_var
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.clients.h2 import RawH2
from tests.clients.h3 import H3StreamReset, connect_h3
from tests.clients.raw import RawConnection, RawResponse
from tests.clients.serving import ECHO, RunningServer, start_server

HURRY = {
    "COATCHECK_LIMITS__REQUEST_HEADERS_TIMEOUT": "0.4",
    "COATCHECK_LIMITS__REQUEST_TIMEOUT": "0.8",
    "COATCHECK_LIMITS__KEEPALIVE_TIMEOUT": "1",
    "COATCHECK_LIMITS__CONNECTIONS": "64",
    "COATCHECK_LIMITS__CONCURRENT_STREAMS": "20",
    "COATCHECK_LIMITS__DRAIN_TIMEOUT": "1",
}
PROBLEM = "application/problem+json"
SOON = 5.0
"""Much longer than any of the times above, and than a machine with other things to do takes."""


@pytest.fixture(scope="module")
def hurried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = start_server(tmp_path_factory.mktemp("hurried"), "--workers", "2", app=ECHO, env=HURRY)
    yield running
    assert running.stop() == 0, running.said()
    assert "Traceback" not in running.said()
    assert "was ended" not in running.said()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = start_server(tmp_path_factory.mktemp("bare"), "--workers", "2", "--no-edge", app=ECHO, env=HURRY)
    yield running
    assert running.stop() == 0, running.said()
    assert "Traceback" not in running.said()


@pytest.fixture(params=["plain", "tls", "bare"])
def listener(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def victim(request: pytest.FixtureRequest, listener: str) -> Iterator[RunningServer]:
    """The server that is attacked; afterwards a normal client is served at once."""
    server: RunningServer = request.getfixturevalue("bare" if listener == "bare" else "hurried")
    yield server
    served(server)


def served(server: RunningServer) -> None:
    began = time.monotonic()
    assert httpx.get(server.http, timeout=SOON, verify=False).status_code == 200
    assert time.monotonic() - began < 2


@contextlib.asynccontextmanager
async def opened(server: RunningServer, listener: str) -> AsyncIterator[RawConnection]:
    port, tls = (server.https_port, server.tls()) if listener == "tls" else (server.http_port, None)
    async with await RawConnection.open(port, tls) as connection:
        yield connection


async def trickle(connection: RawConnection, piece: bytes) -> RawResponse | None:
    """Send a piece again and again, slowly, until the server has had enough; its answer, if it gives one."""

    async def send() -> None:
        with contextlib.suppress(OSError):
            while True:
                await connection.send(piece)
                await asyncio.sleep(0.05)

    sending = asyncio.create_task(send())
    try:
        return await asyncio.wait_for(connection.response(), SOON)
    except (asyncio.IncompleteReadError, OSError):
        return None
    finally:
        sending.cancel()
        await asyncio.wait({sending})


# -- slowness ----------------------------------------------------------------------------------------------------------


Attack = Callable[[RunningServer, str], Awaitable[None]]


async def all_at_once(attacks: dict[str, Attack], server: RunningServer, listener: str) -> dict[str, str]:
    """What went wrong, by name. At once, because each is a wait."""

    async def one(name: str) -> tuple[str, str] | None:
        try:
            await attacks[name](server, listener)
        except Exception as error:
            return name, repr(error)
        return None

    return dict(filter(None, await asyncio.gather(*(one(name) for name in attacks))))


async def slow_headers(server: RunningServer, listener: str) -> None:
    async with opened(server, listener) as connection:
        await connection.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n")
        answer = await trickle(connection, b"x: y\r\n")
        assert answer is not None
        assert (answer.status, answer.header("content-type")) == (408, PROBLEM)
        assert await connection.closed_by_server(SOON)


async def slow_headers_of_a_second_request(server: RunningServer, listener: str) -> None:
    async with opened(server, listener) as connection:
        assert (await connection.request("GET", "/")).status == 200
        await connection.send(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ")
        answer = await trickle(connection, b"y")
        assert answer is not None
        assert answer.status == 408


async def slow_body(server: RunningServer, listener: str) -> None:
    async with opened(server, listener) as connection:
        await connection.send(b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n")
        answer = await trickle(connection, b"x")
        assert answer is not None
        assert (answer.status, answer.header("content-type")) == (408, PROBLEM)
        assert await connection.closed_by_server(SOON)


async def slow_chunks(server: RunningServer, listener: str) -> None:
    async with opened(server, listener) as connection:
        await connection.send(b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        answer = await trickle(connection, b"1;x=y\r\nz\r\n")
        assert answer is not None
        assert answer.status == 408


async def silence(server: RunningServer, listener: str) -> None:
    async with opened(server, listener) as connection:
        assert await connection.closed_by_server(SOON)


async def line_ends_only(server: RunningServer, listener: str) -> None:
    async with opened(server, listener) as connection:
        assert (await connection.request("GET", "/")).status == 200
        answer = await trickle(connection, b"\r\n")
        assert answer is None or answer.status in (400, 408)


async def tls_silence(server: RunningServer, _: str) -> None:
    async with await RawConnection.open(server.https_port) as connection:
        assert await connection.closed_by_server(SOON)


async def half_a_client_hello(server: RunningServer, _: str) -> None:
    async with await RawConnection.open(server.https_port) as connection:
        await connection.send(b"\x16\x03\x01\x02\x00\x01\x00")
        assert await connection.closed_by_server(SOON)


async def http_2_slow_headers(server: RunningServer, _: str) -> None:
    async with await RawH2.open(server.https_port, server.tls()) as connection:
        # HEADERS without END_HEADERS, then CONTINUATIONs (RFC 9113, section 6.10), one byte each.
        await connection.flush(frame(1, 0, 1, b"\x82"))
        ending = asyncio.create_task(connection.goodbye(SOON))
        while not ending.done():
            await connection.flush(frame(9, 0, 1, b"\x84"))
            await asyncio.sleep(0.05)
        await ending


async def http_2_slow_body(server: RunningServer, _: str) -> None:
    async with await RawH2.open(server.https_port, server.tls()) as connection:
        stream = connection.begin("POST", "/", end=False)
        ending = asyncio.create_task(connection.ended(stream, SOON))
        while not ending.done():
            with contextlib.suppress(Exception):
                connection.http.send_data(stream, b"x")
            await connection.flush()
            await asyncio.sleep(0.05)
        assert (await ending).status == 408


async def http_2_silence(server: RunningServer, _: str) -> None:
    async with await RawH2.open(server.https_port, server.tls()) as connection:
        await connection.goodbye(SOON)


async def http_2_unread_response(server: RunningServer, _: str) -> None:
    async with await RawH2.open(server.https_port, server.tls(), window=1) as connection:
        stream = connection.begin("GET", "/")
        await connection.flush()
        answer = await connection.ended(stream, SOON)
        assert (answer.status, answer.ended) == (200, False)
        assert answer.reset is not None or connection.closed


async def http_3_slow_body(server: RunningServer, _: str) -> None:
    async with connect_h3(server.https_port, server.ca) as connection:
        stream = connection.begin("POST", "/", end=False)
        began = asyncio.create_task(stream.started(SOON))
        while not began.done():
            stream.send(b"x")
            await asyncio.sleep(0.05)
        assert (await began).status == 408


async def http_3_slow_headers(server: RunningServer, _: str) -> None:
    async with connect_h3(server.https_port, server.ca) as connection:
        stream = connection._quic.get_next_available_stream_id()
        # A HEADERS frame of 1000 bytes (RFC 9114, section 7.2.2), of which one byte comes at a time.
        connection._quic.send_stream_data(stream, encode_uint_var(1) + encode_uint_var(1000) + b"\0\0")
        async with asyncio.timeout(SOON):
            while connection.terminated is None and stream not in connection.resets:
                with contextlib.suppress(Exception):
                    connection._quic.send_stream_data(stream, b"\xd1")
                connection.transmit()
                await asyncio.sleep(0.05)


SLOW: list[Attack] = [slow_headers, slow_headers_of_a_second_request, slow_body, slow_chunks, silence, line_ends_only]
SLOW_OTHERWISE: list[Attack] = [tls_silence, half_a_client_hello, http_2_slow_headers, http_2_slow_body, http_2_silence]
SLOW_OTHERWISE += [http_2_unread_response, http_3_slow_body, http_3_slow_headers]


async def test_slow_clients_are_answered_408_or_cut_off(victim: RunningServer, listener: str) -> None:
    assert await all_at_once({attack.__name__: attack for attack in SLOW}, victim, listener) == {}


async def test_slow_handshakes_and_streams_are_answered_408_or_cut_off(hurried: RunningServer) -> None:
    assert await all_at_once({attack.__name__: attack for attack in SLOW_OTHERWISE}, hurried, "tls") == {}
    await asyncio.to_thread(served, hurried)


async def test_slow_clients_keep_nobody_waiting(victim: RunningServer, listener: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for number in range(24):  # fewer than one worker takes alone
            connection = await stack.enter_async_context(opened(victim, listener))
            head = b"POST / HTTP/1.1\r\nhost: localhost\r\n"
            await connection.send(head + b"content-length: 9\r\n\r\nx" if number % 2 else head)
        await asyncio.to_thread(served, victim)


# -- floods ------------------------------------------------------------------------------------------------------------


async def test_too_many_header_fields_are_431(victim: RunningServer, listener: str) -> None:
    async with opened(victim, listener) as connection:
        answer = await connection.request("GET", "/", [(f"x{number}", "y") for number in range(200)])
        assert (answer.status, answer.header("content-type")) == (431, PROBLEM)
        assert await connection.closed_by_server(SOON)


@pytest.mark.parametrize("where", ["value", "name", "path"])
async def test_headers_without_an_end_are_431(victim: RunningServer, listener: str, where: str) -> None:
    starts = {"value": b"GET / HTTP/1.1\r\nx: ", "name": b"GET / HTTP/1.1\r\n", "path": b"GET /"}
    async with opened(victim, listener) as connection:
        await connection.send(starts[where])
        sending = asyncio.create_task(pour(connection, b"x" * 16_384))
        try:
            answer = await asyncio.wait_for(connection.response(), SOON)
            assert answer.status == 431
        except ConnectionResetError:
            pass  # the answer can be lost, as more came in after it
        finally:
            sent = await asyncio.wait_for(sending, SOON)
        assert sent < 12_000_000


async def test_many_small_headers_are_bounded_together(victim: RunningServer, listener: str) -> None:
    async with opened(victim, listener) as connection:
        answer = await connection.request("GET", "/", [(f"x{number}", "y" * 1000) for number in range(70)])
        assert answer.status == 431


async def test_a_declared_body_that_is_too_long_is_413(victim: RunningServer, listener: str) -> None:
    async with opened(victim, listener) as connection:
        await connection.send(b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000000000\r\n\r\n")
        sending = asyncio.create_task(pour(connection, b"x" * 16_384))
        try:
            answer = await asyncio.wait_for(connection.response(), SOON)
            assert (answer.status, answer.header("content-type")) == (413, PROBLEM)
        except ConnectionResetError:
            pass
        assert await asyncio.wait_for(sending, SOON) < 12_000_000


async def test_a_body_without_an_end_is_413(victim: RunningServer, listener: str) -> None:
    async with opened(victim, listener) as connection:
        await connection.send(b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        sending = asyncio.create_task(pour(connection, b"4000\r\n" + b"x" * 16_384 + b"\r\n"))
        try:
            answer = await asyncio.wait_for(connection.response(), SOON)
            assert (answer.status, answer.header("content-type")) == (413, PROBLEM)
        except ConnectionResetError:
            pass
        assert await asyncio.wait_for(sending, SOON) < 12_000_000


async def test_a_body_as_long_as_allowed_passes(victim: RunningServer, listener: str) -> None:
    async with opened(victim, listener) as connection:
        assert (await connection.request("POST", "/", body=b"x" * 65_536)).json()["body_bytes"] == 65_536
        assert (await connection.request("POST", "/", body=b"x" * 65_537)).status == 413


async def test_a_compressed_body_is_bytes_and_nothing_else(victim: RunningServer, listener: str) -> None:
    bomb = gzip.compress(b"\0" * 10_000_000)
    async with opened(victim, listener) as connection:
        answer = await connection.request("POST", "/", [("content-encoding", "gzip")], bomb)
        assert answer.json()["body_bytes"] == len(bomb)


async def test_a_websocket_message_that_is_too_long_closes_the_websocket(victim: RunningServer, listener: str) -> None:
    tls = victim.tls() if listener == "tls" else None
    address = (victim.https if tls else victim.http).replace("http", "ws", 1)
    async with connect(address, ssl=tls, proxy=None) as websocket:
        await websocket.recv()
        await websocket.send("x" * 65_536)
        assert len(await websocket.recv()) == 65_536
        await websocket.send("x" * 65_537)
        with pytest.raises(ConnectionClosed):
            await websocket.recv()
        assert websocket.close_code == 1009


async def test_more_connections_than_allowed_are_turned_away_and_leave_no_trace(
    victim: RunningServer, listener: str
) -> None:
    port = victim.https_port if listener == "tls" else victim.http_port
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(80)]
    try:
        refused = 0
        for reader, _ in connections:
            with contextlib.suppress(TimeoutError, OSError):
                refused += (await asyncio.wait_for(reader.read(12), 0.01)) in (b"", b"HTTP/1.1 503")
        assert refused >= 16
    finally:
        for _, writer in connections:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    async with asyncio.timeout(SOON):
        while True:  # until the server has seen them go
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(victim.http, timeout=SOON, verify=False).status_code == 200:
                    return
            await asyncio.sleep(0.02)


async def test_http_2_rapid_reset_is_cut_off(hurried: RunningServer) -> None:
    async with await RawH2.open(hurried.https_port, hurried.tls()) as connection:
        for _ in range(20):
            for _ in range(100):
                stream = connection.begin("GET", "/slow?seconds=1")
                connection.http.reset_stream(stream)
            await connection.flush()
            if connection.closed:
                break
        await connection.goodbye(SOON)
    served(hurried)


async def test_http_3_rapid_reset_takes_no_more_than_its_streams(hurried: RunningServer) -> None:
    async with connect_h3(hurried.https_port, hurried.ca) as connection:
        with contextlib.suppress(Exception):
            for _ in range(500):
                connection.begin("GET", "/slow?seconds=1").cancel()
        await asyncio.sleep(0)
    served(hurried)


async def test_more_http_2_streams_than_allowed_are_refused(hurried: RunningServer) -> None:
    async with await RawH2.open(hurried.https_port, hurried.tls()) as connection:
        first = connection.begin("GET", "/")
        await connection.flush()
        await connection.ended(first)
        assert connection.http.remote_settings.max_concurrent_streams == 20
        connection.http.remote_settings.max_concurrent_streams = 1000
        connection.http.remote_settings.acknowledge()
        streams = [connection.begin("GET", "/slow?seconds=0.3") for _ in range(40)]
        await connection.flush()
        answers = [await connection.ended(stream, SOON) for stream in streams]
        assert sum(answer.status == 200 for answer in answers) <= 20
    served(hurried)


async def test_http_2_continuation_flood_is_cut_off(hurried: RunningServer) -> None:
    async with await RawH2.open(hurried.https_port, hurried.tls()) as connection:
        flood = frame(1, 0, 1, b"\x82\x86\x84") + frame(9, 0, 1, b"\x40\x01x\x7f\x81\x7f" + b"y" * 254) * 4000
        sending = asyncio.create_task(connection.flush(flood))
        await connection.goodbye(SOON)
        await sending
    served(hurried)


async def test_http_2_headers_too_long_are_431_or_cut_off(hurried: RunningServer) -> None:
    for headers in ([("x", "y" * 70_000)], [(f"x{number}", "y") for number in range(300)]):
        async with await RawH2.open(hurried.https_port, hurried.tls()) as connection:
            stream = connection.begin("GET", "/", headers)
            await connection.flush()
            assert (await connection.ended(stream, SOON)).status in (0, 431)
    served(hurried)


async def test_http_3_headers_too_long_are_431_or_cut_off(hurried: RunningServer) -> None:
    for headers in ([(f"x{n}", "y" * 3000) for n in range(30)], [(f"x{n}", "y") for n in range(300)]):
        async with connect_h3(hurried.https_port, hurried.ca) as connection:
            with contextlib.suppress(H3StreamReset):
                assert (await connection.request("GET", "/", headers, within=SOON)).status == 431
    served(hurried)


async def test_http_2_bodies_too_long_are_413(hurried: RunningServer) -> None:
    async with await RawH2.open(hurried.https_port, hurried.tls()) as connection:
        first = connection.begin("GET", "/")
        await connection.flush()
        await connection.ended(first)  # and so the server's settings are known
        stream = connection.begin("POST", "/", end=False)
        left = 70_000
        async with asyncio.timeout(SOON):
            while left > 0 and not connection.responses[stream].status:
                size = min(left, 16_384, connection.http.local_flow_control_window(stream))
                connection.http.send_data(stream, b"x" * size)
                left -= size
                await connection.flush()
                if not connection.http.local_flow_control_window(stream):
                    await connection.read()
        assert (await connection.ended(stream, SOON)).status == 413
    served(hurried)


async def test_http_3_bodies_too_long_are_413(hurried: RunningServer) -> None:
    async with connect_h3(hurried.https_port, hurried.ca) as connection:
        stream = connection.begin("POST", "/", end=False)
        stream.send(b"x" * 70_000)
        assert (await stream.started(SOON)).status == 413
    served(hurried)


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param((6, 0, 0, b"12345678"), id="ping"),
        pytest.param((4, 0, 0, b""), id="settings"),
        pytest.param((0, 0, 1, b""), id="empty-data"),
        pytest.param((2, 0, 1, b"\0\0\0\0\0"), id="priority"),
    ],
)
async def test_http_2_frames_that_ask_for_nothing_are_cut_off(
    hurried: RunningServer, flood: tuple[int, int, int, bytes]
) -> None:
    async with await RawH2.open(hurried.https_port, hurried.tls()) as connection:
        connection.begin("POST", "/", end=False)
        sending = asyncio.create_task(connection.flush(frame(*flood) * 30_000))
        await connection.goodbye(SOON)
        await sending
    served(hurried)


# ----------------------------------------------------------------------------------------------------------------------


async def pour(connection: RawConnection, piece: bytes) -> int:
    """Send a piece again and again, as fast as it is taken, until the server has had enough; the bytes sent."""
    sent = 0
    with contextlib.suppress(OSError, TimeoutError):
        while sent < 16_000_000:
            await asyncio.wait_for(connection.send(piece), 2)
            sent += len(piece)
    return sent


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
