"""HTTP/1.0 and 1.1 over a link, one request after the other (RFC 9112). Leaves opening and closing to `link`.

Over HTTP/1.0 a connection carries one request, as it does for a client that does not ask for more (RFC 1945, section 1.3).

h11 reads and writes; it says HTTP/1.1 always, so that for 1.0 the version is changed in what it wrote.
"""

import asyncio
import re
from typing import Literal

import h11

from coatcheck.probe.errors import Failure
from coatcheck.probe.exchange import MOST_HEAD, Incoming, Request, Response
from coatcheck.probe.link import Link
from coatcheck.probe.trace import ConnectionTrace, Trace
from coatcheck.probe.words import shortened

__all__ = ["Http1Connection"]

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_TLS_ALERT = b"\x15\x03"
_START = b"HTTP/"


class Http1Connection:
    """One connection that carries one request at a time."""

    def __init__(self, link: Link, trace: Trace, version: Literal["h1.0", "h1.1"], timeout: float) -> None:
        self._link = link
        self._trace = trace
        self._version: Literal["h1.0", "h1.1"] = version
        self._timeout = timeout
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD)
        self._incoming: Incoming | None = None
        self._waiting: asyncio.Future[Response] | None = None
        self._unread = bytearray()
        """What came of the header section that is being read."""
        self._kept = True
        self._switched: bytes | None = None
        self._unasked = b""
        link.attach(self)

    @property
    def record(self) -> ConnectionTrace:
        """Its record in the trace."""
        return self._link.record

    @property
    def version(self) -> Literal["h1.0", "h1.1"]:
        """The version that requests are written in."""
        return self._version

    @property
    def link(self) -> Link:
        """The connection beneath, for what comes after an upgrade."""
        return self._link

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return self._kept and self._link.ended is None and self._waiting is None

    def room(self) -> int:
        """One request at a time."""
        return int(self.usable)

    async def settled(self) -> None:
        """Nothing is announced before the first response."""

    async def wait_ended(self) -> None:
        """Wait until the connection is over, whoever ends it."""
        await self._link.wait_ended()

    def close(self) -> None:
        """End it from our side."""
        self._link.close()

    async def exchange(self, request: Request) -> Response:
        """Send a request and wait for the whole response. Raises Failure. Over HTTP/1.0 there is one only."""
        if self._link.ended is not None:
            raise Failure(str(self._link.ended), self._link.ended.kind, retry=True)
        if self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        fields = [("host", request.target.authority), *request.headers]
        head = h11.Request(
            method=request.method.encode("ascii"),
            target=request.target.path.encode("ascii"),
            headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in fields],
        )
        try:
            data = self._http.send(head) or b""
            data += self._http.send(h11.EndOfMessage()) or b""
        except h11.LocalProtocolError as error:
            raise Failure(f"HTTP/1 does not let us send this: {shortened(str(error))}", "local") from None
        if self._version == "h1.0":
            data = data.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)
        record = self._trace.request(self.record, request.method, request.plain_bytes)
        record.request_header_bytes = len(data)
        self.record.most_streams = 1
        self._incoming = Incoming(self._trace, record)
        self._waiting = asyncio.get_running_loop().create_future()
        self._unread.clear()
        self._link.write(data)
        if self._unasked:
            self.data_received(self._unasked)
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._waiting
        except TimeoutError:
            failure = self._incoming.too_late(self._timeout)
            record.failure = str(failure)
            self._link.close()
            raise failure from None
        except Failure as failure:
            record.failure = str(failure)
            self._link.close()
            raise
        finally:
            self._waiting = None
        self._kept = self._version == "h1.1" and self._http.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}
        return response

    def switched(self) -> bytes | None:
        """What has come behind a 101 response; None if there was none (RFC 9110, section 7.8)."""
        return self._switched

    # -- the link's side -----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes of a response, or of what nobody asked for."""
        if self._switched is not None:
            self._switched += data
            return
        if self._waiting is None or self._waiting.done() or self._incoming is None:
            # An answer without a question: a banner, if nothing was asked yet, or 408 before a connection is closed.
            self._kept = self._kept and not self.record.requests
            self._unasked += data if not self.record.requests else b""
            return
        self._incoming.first_byte()
        if not self._incoming.begun:
            self._unread += data
            start = bytes(self._unread[: len(_START)])
            if not _START.startswith(start):  # h11 would wait for a header section to end that never began
                self._waiting.set_exception(self._garbage("it does not begin with HTTP/"))
                return
        self._read(data)

    def link_ended(self, failure: Failure) -> None:
        """The end, which for some responses is how they end (RFC 9112, section 6.3)."""
        if self._waiting is None or self._waiting.done() or self._incoming is None:
            return
        if failure.kind == "closed" and self._incoming.begun:
            self._read(b"")
        if not self._waiting.done():
            self._waiting.set_exception(self._cut_off(failure))

    def _cut_off(self, failure: Failure) -> Failure:
        assert self._incoming is not None
        if failure.kind not in ("closed", "reset"):
            return failure
        silent = self._incoming.record.first_byte_ms is None
        where = "before it answered" if silent else "in the middle of its response"
        # On a connection that was idle it may have closed while our request was on its way.
        return Failure(f"{failure} {where}", failure.kind, retry=silent and len(self.record.requests) > 1)

    def _read(self, data: bytes) -> None:
        assert self._waiting is not None and self._incoming is not None
        try:
            self._http.receive_data(data)
            while not self._waiting.done():
                event = self._http.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    break
                self._happened(event)
        except h11.RemoteProtocolError as error:
            self._waiting.set_exception(self._garbage(str(error)))
        except Failure as failure:
            self._waiting.set_exception(failure)

    def _happened(self, event: h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]) -> None:
        assert self._waiting is not None and self._incoming is not None
        if isinstance(event, h11.InformationalResponse):
            if event.status_code == 101:
                self._head_came(event)
                self._switched = bytes(self._http.trailing_data[0])
                self._waiting.set_result(self._incoming.complete())
            else:
                self._count_head()
        elif isinstance(event, h11.Response):
            self._head_came(event)
        elif isinstance(event, h11.Data):
            self._incoming.body(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            self._waiting.set_result(self._incoming.complete())

    def _head_came(self, event: h11.InformationalResponse | h11.Response) -> None:
        assert self._incoming is not None
        version = f"HTTP/{event.http_version.decode('ascii')}"
        self._incoming.head(event.status_code, version, event.headers.raw_items())
        self._incoming.record.response_header_bytes += self._count_head()

    def _count_head(self) -> int:
        """Bytes of the header section that was just read, which is taken from what came."""
        end = _HEAD_END.search(self._unread)
        length = end.end() if end else len(self._unread)
        del self._unread[:length]
        return length

    def _garbage(self, error: str) -> Failure:
        assert self._incoming is not None
        came = bytes(self._unread[:40])
        if came.startswith(_TLS_ALERT):
            return Failure("it speaks TLS on this port: use https://", "garbage")
        if self._incoming.begun:
            return Failure(f"its response breaks off or is malformed ({shortened(error)})", "garbage")
        if came.startswith(b"HTTP/1."):
            return Failure(f"its response is malformed ({shortened(error)})", "garbage")
        if not came:
            return Failure("the server closed the connection before it answered", "closed")
        return Failure(f"what it answered is no HTTP: '{shortened(came.decode('latin-1'), 40)}'", "garbage")
