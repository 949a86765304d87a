"""Whatever bytes a server sends, a request comes to a response or to a Failure in one line: nothing else is raised."""

import asyncio
from typing import Any, cast

from aioquic.quic.events import StreamDataReceived
from h2.config import H2Configuration
from h2.connection import H2Connection
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from coatcheck.probe.errors import Failure
from coatcheck.probe.exchange import Request, Response
from coatcheck.probe.frames import H3HeaderCounter, H3UniStream
from coatcheck.probe.http1 import Http1Connection
from coatcheck.probe.http2 import Http2Connection
from coatcheck.probe.http3 import Http3Connection
from coatcheck.probe.set_cookie import judge_cookie, parse_set_cookie
from coatcheck.probe.target import parse_target
from coatcheck.probe.trace import Trace

REQUEST = Request("GET", parse_target("https://example.com/"), ())
EXAMPLES = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nSet-Cookie: a=b\r\n\r\nhi\n"


class StubLink:
    """Takes what is written; gives nothing by itself."""

    def __init__(self, trace: Trace) -> None:
        self.record = trace.connection("h2", "in turn")
        self.ended: Failure | None = None
        self.tls = None

    def attach(self, receiver: Any) -> None:
        pass

    def write(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        self.ended = self.ended or Failure("closed", "closed")

    async def wait_ended(self) -> None:
        pass


class StubQuic:
    """As much of QUIC as HTTP/3 touches."""

    class configuration:
        is_client = True

    _quic_logger = None
    _remote_max_datagram_frame_size = None
    stream_credit = 100
    peer = None

    def __init__(self) -> None:
        self.sent: dict[int, H3HeaderCounter] = {}
        self.sent_uni: dict[int, H3UniStream] = {}
        self._next = {True: 2, False: 0}

    def get_next_available_stream_id(self, is_unidirectional: bool = False) -> int:
        found = self._next[is_unidirectional]
        self._next[is_unidirectional] += 4
        return found

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        kind = self.sent_uni if stream_id & 2 else self.sent
        kind.setdefault(stream_id, H3UniStream() if stream_id & 2 else H3HeaderCounter()).feed(data)  # type: ignore[arg-type]

    def close(self, **said: Any) -> None:
        pass

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        pass


class StubQuicLink(StubLink):
    def __init__(self, trace: Trace) -> None:
        super().__init__(trace)
        self.quic = StubQuic()
        self.receiver: Any = None

    def attach(self, receiver: Any) -> None:
        self.receiver = receiver

    def transmit(self) -> None:
        pass

    def close(self) -> None:
        if self.ended is None:
            self.ended = Failure("closed", "closed")
            self.receiver.link_ended(self.ended)


async def outcome(connection: Any, feed: Any) -> Response | Failure:
    asking = asyncio.ensure_future(connection.exchange(REQUEST))
    await asyncio.sleep(0)
    feed()
    connection.link_ended(Failure("the server closed the connection", "closed"))
    try:
        return cast("Response", await asking)
    except Failure as failure:
        assert "\n" not in str(failure) and len(str(failure)) < 300
        return failure


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = sorted({cut % (len(data) + 1) for cut in cuts})
    parts = [data[begin:end] for begin, end in zip([0, *marks], [*marks, len(data)], strict=True)]
    return [part for part in parts if part]


def changed(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    """The data with some bytes replaced."""
    made = bytearray(data)
    for place, value in changes:
        made[place % len(made)] = value
    return bytes(made)


BYTES = st.one_of(
    st.binary(max_size=200),
    st.builds(changed, st.just(GOOD), st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), max_size=6)),
)
CUTS = st.lists(st.integers(0, 999), max_size=5)
CHANGES = st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), max_size=8)


@EXAMPLES
@given(BYTES, CUTS)
@example(GOOD, [3, 20])
@example(b"HTTP/1.1 101 Switching\r\n\r\n", [])
@example(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\n\r\n" + GOOD, [5])
def test_over_http1(data: bytes, cuts: list[int]) -> None:
    async def run() -> Response | Failure:
        trace = Trace()
        connection = Http1Connection(cast("Any", StubLink(trace)), trace, "h1.1", 5.0)
        return await outcome(connection, lambda: [connection.data_received(part) for part in pieces(data, cuts)])

    found = asyncio.run(run())
    if data.endswith(GOOD):
        assert isinstance(found, Response) and found.status == 200


def h2_answer(status: str = "200") -> bytes:
    server = H2Connection(H2Configuration(client_side=False, validate_outbound_headers=False))
    server.initiate_connection()
    client = H2Connection(H2Configuration(client_side=True))
    client.initiate_connection()
    client.send_headers(1, REQUEST.pseudo(), end_stream=True)
    server.receive_data(client.data_to_send())
    server.send_headers(1, [(":status", status), ("set-cookie", "a=b")])
    server.send_data(1, b"hi\n", end_stream=True)
    return server.data_to_send()


async def over_http2(data: bytes, cuts: list[int]) -> Response | Failure:
    trace = Trace()
    connection = Http2Connection(cast("Any", StubLink(trace)), trace, 5.0)
    return await outcome(connection, lambda: [connection.data_received(part) for part in pieces(data, cuts)])


@EXAMPLES
@given(CHANGES, CUTS)
def test_over_http2(changes: list[tuple[int, int]], cuts: list[int]) -> None:
    asyncio.run(over_http2(changed(h2_answer(), changes), cuts))


def test_over_http2_what_is_good_is_a_response_and_a_status_that_is_none_is_not() -> None:
    good = asyncio.run(over_http2(h2_answer(), [7, 30]))
    assert isinstance(good, Response) and (good.status, good.body_bytes) == (200, 3)
    for status in ("abc", "2000", "-1", "", "٢٠٠"):
        assert isinstance(asyncio.run(over_http2(h2_answer(status), [])), Failure)


async def over_http3(control: bytes, answer: bytes, cuts: list[int]) -> Response | Failure:
    trace = Trace()
    link = StubQuicLink(trace)
    connection = Http3Connection(cast("Any", link), trace, 5.0)

    def feed() -> None:
        for number, part in enumerate(pieces(control, cuts)):
            connection.quic_event(StreamDataReceived(data=part, end_stream=False, stream_id=3))
            assert number < 10
        parts = pieces(answer, cuts)
        for number, part in enumerate(parts):
            connection.quic_event(StreamDataReceived(data=part, end_stream=number == len(parts) - 1, stream_id=0))

    return await outcome(connection, feed)


# SETTINGS; HEADERS with `:status: 200` (static entry 25, RFC 9204, appendix A) and DATA.
H3_CONTROL = b"\x00\x04\x00"
H3_ANSWER = b"\x01\x03\x00\x00\xd9\x00\x03hi\n"


@EXAMPLES
@given(CHANGES, CHANGES, CUTS)
def test_over_http3(control: list[tuple[int, int]], answer: list[tuple[int, int]], cuts: list[int]) -> None:
    asyncio.run(over_http3(changed(H3_CONTROL, control), changed(H3_ANSWER, answer), cuts))


def test_over_http3_what_is_good_is_a_response() -> None:
    good = asyncio.run(over_http3(H3_CONTROL, H3_ANSWER, [2]))
    assert isinstance(good, Response) and (good.status, good.body_bytes) == (200, 3)


@EXAMPLES
@given(st.text(max_size=80))
def test_whatever_a_set_cookie_header_says_it_is_judged_or_ignored(header: str) -> None:
    from datetime import UTC, datetime

    cookie = parse_set_cookie(header)
    if cookie is not None:
        report = judge_cookie(cookie, parse_target("https://example.com/"), "192.0.2.1", (), datetime.now(UTC))
        assert report.name.isprintable() or "\u200c" in report.name or "\u200d" in report.name
