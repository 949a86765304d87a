"""HTTP/2's and HTTP/3's frames, cut anywhere, counted right; checked against the libraries that make them."""

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from hypothesis import given, settings
from hypothesis import strategies as st

from coatcheck.probe.frames import (
    H2_GOAWAY,
    H2_HEADERS,
    H2_SETTINGS,
    Goaway,
    H2Frame,
    H2Splitter,
    H3HeaderCounter,
    H3UniStream,
    NoFrames,
    header_block_bytes,
    read_goaway,
    read_varint,
)

HEAD = [(":method", "GET"), (":scheme", "https"), (":authority", "example.com"), (":path", "/"), ("cookie", "a=b" * 40)]
SETTINGS = bytes.fromhex("000000040000000000")


def client_bytes() -> bytes:
    connection = H2Connection(H2Configuration(client_side=True))
    connection.initiate_connection()
    for stream in (1, 3):
        connection.send_headers(stream, HEAD, end_stream=True)
    return connection.data_to_send()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({place % (len(data) + 1) for place in places})
    return [data[begin:end] for begin, end in zip([0, *marks], [*marks, len(data)], strict=True)]


@settings(max_examples=25)
@given(st.lists(st.integers(0, 10_000), max_size=8))
def test_frames_are_the_same_wherever_the_stream_is_cut(places: list[int]) -> None:
    data = client_bytes()
    whole = H2Splitter(preface=True).feed(data)
    splitter = H2Splitter(preface=True)
    pieces = [frame for piece in cut(data, places) for frame in splitter.feed(piece)]
    assert pieces == whole
    assert splitter.waiting == b""


def test_a_later_request_costs_less_than_the_first() -> None:
    frames = H2Splitter(preface=True).feed(client_bytes())
    first, later = (header_block_bytes(frame) for frame in frames if frame.kind == H2_HEADERS)
    assert later < first / 5
    assert first == sum(len(frame.payload) for frame in frames if frame.stream == 1)


def test_padding_and_priority_are_no_headers() -> None:
    payload = bytes([3]) + b"\0\0\0\1\xff" + b"block" + bytes(3)
    frame = H2Frame(H2_HEADERS, 0x8 | 0x20, 1, payload, b"")
    assert header_block_bytes(frame) == len(b"block")
    assert header_block_bytes(H2Frame(H2_HEADERS, 0x8, 1, b"\xff", b"")) == 0  # more padding than there is
    assert header_block_bytes(H2Frame(H2_SETTINGS, 0, 0, b"x" * 6, b"")) == 0


@pytest.mark.parametrize(
    "data",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9\r\n", bytes.fromhex("000000010000000001"), b"\xff" * 20],
)
def test_what_is_no_http2_is_told_at_once(data: bytes) -> None:
    with pytest.raises(NoFrames) as error:
        H2Splitter().feed(data)
    assert data.startswith(error.value.came[:9])


def test_a_goodbye_is_read() -> None:
    payload = (5).to_bytes(4, "big") + (11).to_bytes(4, "big") + b"calm"
    raw = len(payload).to_bytes(3, "big") + bytes([H2_GOAWAY, 0, 0, 0, 0, 0]) + payload
    _, frame = H2Splitter().feed(SETTINGS + raw)
    assert read_goaway(frame) == Goaway(5, 11, "calm")


@settings(max_examples=25)
@given(st.lists(st.integers(0, 10_000), max_size=8))
def test_http3_headers_are_counted_wherever_the_stream_is_cut(places: list[int]) -> None:
    # HEADERS of 70 bytes (a length of two), an unknown frame, DATA of 3, HEADERS of 5 as trailers.
    data = b"\x01\x40\x46" + b"h" * 70 + b"\x21\x02zz" + b"\x00\x03abc" + b"\x01\x05" + b"t" * 5
    counter = H3HeaderCounter()
    for piece in cut(data, places):
        counter.feed(piece)
    assert counter.header_bytes == 75
    assert not counter.goaway


@pytest.mark.parametrize("size", [1, 2, 100])
def test_http3s_own_streams_are_told_apart(size: int) -> None:
    streams = {
        "control": b"\x00" + b"\x04\x03\x01\x40\x64" + b"\x07\x01\x04",  # SETTINGS, GOAWAY
        "encoder": b"\x02" + b"e" * 30,
        "reserved": b"\x40\x21" + b"\x07\x01\x04",
    }
    seen = {}
    for name, data in streams.items():
        stream = seen[name] = H3UniStream()
        for start in range(0, len(data), size):
            stream.feed(data[start : start + size])
    assert [name for name, stream in seen.items() if stream.goaway] == ["control"]
    assert {name: stream.encoder_bytes for name, stream in seen.items()} == {"control": 0, "encoder": 30, "reserved": 0}


@pytest.mark.parametrize(
    ("data", "value"), [(b"\x25", (37, 1)), (b"\x7b\xbd", (15293, 2)), (b"\x40", (0, 0)), (b"", (0, 0))]
)
def test_varints_are_those_of_rfc_9000(data: bytes, value: tuple[int, int]) -> None:
    assert read_varint(data) == value
