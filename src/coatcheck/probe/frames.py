"""Takes HTTP/2's and HTTP/3's byte streams apart into frames, to count what headers cost on the wire. Pure; decodes nothing.

RFC 9113, section 4.1; RFC 9114, section 7.1. Also reads GOAWAY, whose meaning the libraries above hide or stop at.
"""

from typing import NamedTuple

__all__ = [
    "H2_CONTINUATION",
    "H2_GOAWAY",
    "H2_HEADERS",
    "H2_SETTINGS",
    "Goaway",
    "H2Frame",
    "H2Splitter",
    "H3HeaderCounter",
    "H3UniStream",
    "NoFrames",
    "header_block_bytes",
    "read_goaway",
    "read_varint",
]

H2_HEADERS = 0x1
H2_SETTINGS = 0x4
H2_GOAWAY = 0x7
H2_CONTINUATION = 0x9

_PADDED = 0x8
_PRIORITY = 0x20
_HEAD = 9
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_MOST_PAYLOAD = 16384
"""What RFC 9113 allows as long as we announce no more (section 4.2)."""

_H3_HEADERS = 0x1
_H3_GOAWAY = 0x7
_H3_CONTROL = 0x0
_H3_ENCODER = 0x2


class NoFrames(Exception):
    """What came cannot be HTTP/2. `came` are its first bytes."""

    def __init__(self, came: bytes) -> None:
        super().__init__("not HTTP/2")
        self.came = came


class H2Frame(NamedTuple):
    """One frame of HTTP/2; `raw` is all of it, as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes
    raw: bytes


class Goaway(NamedTuple):
    """What a server says before it ends an HTTP/2 connection (RFC 9113, section 6.8)."""

    last_stream: int
    code: int
    words: str


class H2Splitter:
    """Cuts one direction of an HTTP/2 connection into its frames."""

    def __init__(self, *, preface: bool = False) -> None:
        self._rest = b""
        self._preface = preface
        """The client's direction begins with a preface that is no frame (RFC 9113, section 3.4)."""
        self._first = True

    def feed(self, data: bytes) -> list[H2Frame]:
        """Give the frames that are complete with this piece. Raises NoFrames."""
        self._rest += data
        if self._preface:
            if len(self._rest) < len(_PREFACE):
                return []
            self._preface = False
            self._rest = self._rest.removeprefix(_PREFACE)
        frames: list[H2Frame] = []
        while len(self._rest) >= _HEAD:
            length = int.from_bytes(self._rest[:3], "big")
            kind, flags = self._rest[3], self._rest[4]
            # A server's first frame is SETTINGS; what is not HTTP/2 shows itself here.
            if length > _MOST_PAYLOAD or (self._first and kind != H2_SETTINGS):
                raise NoFrames(self._rest[:64])
            if len(self._rest) < _HEAD + length:
                break
            self._first = False
            raw, self._rest = self._rest[: _HEAD + length], self._rest[_HEAD + length :]
            stream = int.from_bytes(raw[5:9], "big") & 0x7FFFFFFF
            frames.append(H2Frame(kind, flags, stream, raw[_HEAD:], raw))
        return frames

    @property
    def waiting(self) -> bytes:
        """What has come of a frame that is not complete."""
        return self._rest


def header_block_bytes(frame: H2Frame) -> int:
    """How many bytes of HPACK this frame carries: its payload without padding and priority."""
    if frame.kind == H2_CONTINUATION:
        return len(frame.payload)
    if frame.kind != H2_HEADERS:
        return 0
    size = len(frame.payload)
    if frame.flags & _PADDED and frame.payload:
        size -= 1 + frame.payload[0]
    if frame.flags & _PRIORITY:
        size -= 5
    return max(size, 0)


def read_goaway(frame: H2Frame) -> Goaway:
    """Take a GOAWAY frame apart."""
    payload = frame.payload
    return Goaway(
        int.from_bytes(payload[:4], "big") & 0x7FFFFFFF,
        int.from_bytes(payload[4:8], "big"),
        payload[8:].decode("utf-8", "replace"),
    )


class H3HeaderCounter:
    """Reads the frames' heads on one direction of an HTTP/3 request stream, or of a control stream behind its type."""

    def __init__(self) -> None:
        self._rest = b""
        self._left = 0
        self.header_bytes: int = 0
        """What HEADERS frames have carried of QPACK so far; a frame counts as soon as it begins."""
        self.goaway: bool = False

    def feed(self, data: bytes) -> None:
        """Take a piece, cut anywhere."""
        self._rest += data
        while self._rest:
            if self._left:
                taken = min(self._left, len(self._rest))
                self._rest, self._left = self._rest[taken:], self._left - taken
                continue
            kind, used = read_varint(self._rest)
            length, more = read_varint(self._rest[used:]) if used else (0, 0)
            if not more:
                return
            self._rest, self._left = self._rest[used + more :], length
            if kind == _H3_HEADERS:
                self.header_bytes += length
            self.goaway = self.goaway or kind == _H3_GOAWAY


class H3UniStream:
    """One unidirectional stream, whose first bytes tell what it is for (RFC 9114, section 6.2; RFC 9204, section 4.2)."""

    def __init__(self) -> None:
        self._head = b""
        self._control = H3HeaderCounter()
        self.kind: int | None = None
        self.encoder_bytes: int = 0
        """What a QPACK encoder stream has carried."""

    @property
    def goaway(self) -> bool:
        """Whether a control stream has said goodbye (RFC 9114, section 5.2)."""
        return self._control.goaway

    def feed(self, data: bytes) -> None:
        """Take a piece, cut anywhere."""
        if self.kind is None:
            self._head += data
            kind, used = read_varint(self._head)
            if not used:
                return
            self.kind, data, self._head = kind, self._head[used:], b""
        if self.kind == _H3_CONTROL:
            self._control.feed(data)
        elif self.kind == _H3_ENCODER:
            self.encoder_bytes += len(data)


def read_varint(data: bytes) -> tuple[int, int]:
    """A variable-length integer and how many bytes it takes; 0 bytes if it is not all there (RFC 9000, section 16)."""
    if not data:
        return 0, 0
    size = 1 << (data[0] >> 6)
    if len(data) < size:
        return 0, 0
    return int.from_bytes(data[:size], "big") & ((1 << (8 * size - 2)) - 1), size
