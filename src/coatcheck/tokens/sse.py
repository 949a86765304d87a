"""Reads server-sent events from bytes as they come (HTML standard, section 9.2.6). Pure: knows neither connections nor what is told."""

from typing import NamedTuple

__all__ = ["EventParser", "ServerSentEvent"]

_MOST = 64 * 1024


class ServerSentEvent(NamedTuple):
    """One event. `id` is the last one that the stream has given, here or before."""

    event: str
    data: str
    id: str


class EventParser:
    """Takes a stream piece by piece, cut anywhere, and gives its events.

    `feed` raises ValueError for a line, or the data of one event, of more than 64 KiB.
    """

    def __init__(self) -> None:
        self._rest: bytes = b""
        self._first = True
        self._after_return = False
        self._event = ""
        self._data: list[str] = []
        self._size = 0
        self.last_id: str = ""

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Give the events that are complete with this piece."""
        if self._after_return and data:
            # A line break of two bytes that was cut in the middle.
            data = data.removeprefix(b"\n")
            self._after_return = False
        buffer = self._rest + data
        if self._first and len(buffer) < 3 and b"\xef\xbb\xbf".startswith(buffer):
            self._rest = buffer
            return []
        if self._first:
            buffer = buffer.removeprefix(b"\xef\xbb\xbf")
            self._first = False
        events: list[ServerSentEvent] = []
        start = 0
        while True:
            end, following = _line_end(buffer, start)
            if end < 0:
                break
            event = self._line(buffer[start:end])
            if event is not None:
                events.append(event)
            start = following
            if following == len(buffer) and buffer[end] == 13 and following == end + 1:
                self._after_return = True
        self._rest = buffer[start:]
        if len(self._rest) > _MOST:
            raise ValueError("a line is too long")
        return events

    def _line(self, line: bytes) -> ServerSentEvent | None:
        if len(line) > _MOST:
            raise ValueError("a line is too long")
        if not line:
            event, data = self._event or "message", self._data
            self._event, self._data, self._size = "", [], 0
            return ServerSentEvent(event, "\n".join(data), self.last_id) if data else None
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._size += len(value) + 1
            if self._size > _MOST:
                raise ValueError("an event is too long")
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self.last_id = value
        return None


def _line_end(buffer: bytes, start: int) -> tuple[int, int]:
    """Where the line ends that begins at `start`, and where the next begins; -1 where it does not end yet."""
    feed, back = buffer.find(b"\n", start), buffer.find(b"\r", start)
    if feed < 0 and back < 0:
        return -1, -1
    if back < 0 or 0 <= feed < back:
        return feed, feed + 1
    return back, back + 2 if buffer[back + 1 : back + 2] == b"\n" else back + 1
