"""HTTP/2 over a link, by ALPN or by prior knowledge: many requests at once on one connection (RFC 9113).

h2 keeps the state; every frame passes `frames` first, which counts header bytes and takes GOAWAY out: h2 stops at it,
where a server still answers what it has accepted (RFC 9113, section 6.8).
"""

import asyncio

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from coatcheck.probe.errors import Failure
from coatcheck.probe.exchange import Incoming, Request, Response
from coatcheck.probe.frames import H2_GOAWAY, Goaway, H2Frame, H2Splitter, NoFrames, header_block_bytes, read_goaway
from coatcheck.probe.link import Link
from coatcheck.probe.trace import ConnectionTrace, Trace
from coatcheck.probe.tunnel import Tunnel
from coatcheck.probe.words import shortened

__all__ = ["Http2Connection", "error_name"]

_WINDOW = 1024 * 1024
_NO_LIMIT = 2**31 - 1


class _Open:
    """A stream that a request is open on."""

    def __init__(self, incoming: Incoming) -> None:
        self.incoming = incoming
        self.waiting: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.tunnel: Tunnel | None = None


class Http2Connection:
    """One connection that carries as many requests at once as the server allows."""

    def __init__(self, link: Link, trace: Trace, timeout: float) -> None:
        self._link = link
        self._trace = trace
        self._timeout = timeout
        self._http = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._ours = H2Splitter(preface=True)
        self._theirs = H2Splitter()
        self._streams: dict[int, _Open] = {}
        self._settled = asyncio.Event()
        self._ended: Failure | None = None
        self.goaway: Goaway | None = None
        self.refused: int = 0
        """Streams that the server refused because there were too many (REFUSED_STREAM)."""
        self.announced_streams: int | None = None
        """SETTINGS_MAX_CONCURRENT_STREAMS; None: no limit announced."""
        self.websockets: bool = False
        """SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441, section 3)."""
        self._http.local_settings[SettingCodes.ENABLE_PUSH] = 0
        self._http.initiate_connection()
        self._http.increment_flow_control_window(_WINDOW)
        link.attach(self)
        self._flush()

    @property
    def record(self) -> ConnectionTrace:
        """Its record in the trace."""
        return self._link.record

    @property
    def link(self) -> Link:
        """The connection beneath."""
        return self._link

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return self._ended is None and self.goaway is None

    def room(self) -> int:
        """How many more requests can be open at once."""
        if not self.usable:
            return 0
        limit = _NO_LIMIT if self.announced_streams is None else self.announced_streams
        return max(0, limit - len(self._streams))

    async def settled(self) -> None:
        """Wait for the server's SETTINGS. Raises Failure."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._settled.wait()
        except TimeoutError:
            raise Failure("it accepted the connection and then said nothing in HTTP/2", "timeout") from None
        if self._ended is not None:
            raise self._ended

    async def wait_ended(self) -> None:
        """Wait until the connection is over, whoever ends it."""
        await self._link.wait_ended()

    def close(self) -> None:
        """End it from our side, with GOAWAY and FIN."""
        if self._ended is None:
            try:
                self._http.close_connection()
                self._flush()
            except ProtocolError:
                pass  # it is over for h2 already
        self._link.close()

    async def exchange(self, request: Request) -> Response:
        """Send a request and wait for the whole response. Raises Failure."""
        stream, opened = self._begin(request, end=True)
        try:
            async with asyncio.timeout(self._timeout):
                return await opened.waiting
        except TimeoutError:
            failure = opened.incoming.too_late(self._timeout)
            opened.incoming.record.failure = str(failure)
            self._give_up(stream)
            raise failure from None
        except Failure as failure:
            opened.incoming.record.failure = str(failure)
            self._give_up(stream)
            raise
        finally:
            self._streams.pop(stream, None)

    async def connect(self, request: Request) -> tuple[Response, Tunnel]:
        """Open a tunnel by extended CONNECT (RFC 8441); the response's status says whether there is one."""
        stream, opened = self._begin(request, end=False)

        def send(data: bytes) -> None:
            if stream in self._streams and self._ended is None:
                try:
                    self._http.send_data(stream, data)
                except ProtocolError:
                    return  # the stream is over, which whoever reads it is told
                self._flush()

        opened.tunnel = Tunnel(send)
        try:
            async with asyncio.timeout(self._timeout):
                return await opened.waiting, opened.tunnel
        except TimeoutError:
            failure = opened.incoming.too_late(self._timeout)
            opened.incoming.record.failure = str(failure)
            raise failure from None
        except Failure as failure:
            opened.incoming.record.failure = str(failure)
            raise

    def _begin(self, request: Request, *, end: bool) -> tuple[int, _Open]:
        if self._ended is not None or self.goaway is not None:
            words = str(self._ended) if self._ended else "the server said goodbye (GOAWAY)"
            raise Failure(words, self._ended.kind if self._ended else "closed", retry=True)
        record = self._trace.request(self.record, request.method, request.plain_bytes)
        stream = self._http.get_next_available_stream_id()
        record.stream = stream
        opened = self._streams[stream] = _Open(Incoming(self._trace, record))
        self.record.most_streams = max(self.record.most_streams, len(self._streams))
        try:
            encoded = [(name.encode("ascii"), value.encode("latin-1")) for name, value in request.pseudo()]
            self._http.send_headers(stream, encoded, end_stream=end)
        except ProtocolError as error:
            del self._streams[stream]
            raise Failure(f"HTTP/2 does not let us send this: {shortened(str(error))}", "local") from None
        self._flush()
        return stream, opened

    def _give_up(self, stream: int) -> None:
        try:
            self._http.reset_stream(stream, ErrorCodes.CANCEL)
        except ProtocolError:
            return  # it has ended on its own
        self._flush()

    def _flush(self) -> None:
        data = self._http.data_to_send()
        for frame in self._ours.feed(data):
            size = header_block_bytes(frame)
            if size and (opened := self._streams.get(frame.stream)):
                opened.incoming.record.request_header_bytes += size
        self._link.write(data)

    # -- the link's side -----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Frames, in pieces cut anywhere."""
        if self._ended is not None:
            return
        try:
            for frame in self._theirs.feed(data):
                self._frame(frame)
        except NoFrames as error:
            self._end(_not_spoken(error.came))
        except Exception as error:  # not ProtocolError alone: no library is proof against whatever a server may send
            self._end(Failure(f"what it sent breaks HTTP/2 ({shortened(str(error))})", "garbage"))
        self._flush()

    def link_ended(self, failure: Failure) -> None:
        """The end of the connection."""
        if not self._settled.is_set() and self._theirs.waiting:
            failure = _not_spoken(self._theirs.waiting)
        self._end(failure)

    def _frame(self, frame: H2Frame) -> None:
        opened = self._streams.get(frame.stream)
        if opened is not None:
            opened.incoming.record.response_header_bytes += header_block_bytes(frame)
        if frame.kind == H2_GOAWAY:
            self._goodbye(read_goaway(frame))
            return
        for event in self._http.receive_data(frame.raw):
            self._happened(event)

    def _happened(self, event: Event) -> None:
        if isinstance(event, RemoteSettingsChanged):
            self._settings(event)
            return
        stream = getattr(event, "stream_id", None)
        opened = self._streams.get(stream) if stream else None
        if isinstance(event, DataReceived):
            # What nobody waits for is acknowledged too, or the window would close.
            self._http.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
        if opened is None:
            return
        try:
            self._on_stream(opened, event)
        except Failure as failure:
            _fail(opened, failure)

    def _on_stream(self, opened: _Open, event: Event) -> None:
        incoming = opened.incoming
        if isinstance(event, InformationalResponseReceived):
            incoming.first_byte()
        elif isinstance(event, ResponseReceived):
            incoming.head_of_fields("HTTP/2", [(_raw(name), _raw(value)) for name, value in event.headers or ()])
            if opened.tunnel is not None and not opened.waiting.done():
                opened.waiting.set_result(incoming.complete())
        elif isinstance(event, DataReceived):
            data = event.data or b""
            if opened.tunnel is not None:
                opened.tunnel.data_received(data)
            else:
                incoming.body(data)
        elif isinstance(event, StreamEnded):
            if opened.tunnel is not None:
                opened.tunnel.ended("ended")
            if not opened.waiting.done():
                opened.waiting.set_result(incoming.complete())
        elif isinstance(event, StreamReset):
            self._was_reset(opened, int(event.error_code or 0))

    def _was_reset(self, opened: _Open, code: int) -> None:
        refused = code == ErrorCodes.REFUSED_STREAM
        self.refused += refused
        if opened.tunnel is not None:
            opened.tunnel.ended("reset")
        words = "refused the stream: too many at once" if refused else f"reset the stream ({error_name(code)})"
        _fail(opened, Failure(f"the server {words}", "reset", retry=refused))

    def _settings(self, event: RemoteSettingsChanged) -> None:
        for code, changed in event.changed_settings.items():
            if code == SettingCodes.MAX_CONCURRENT_STREAMS:
                self.announced_streams = changed.new_value
            elif code == SettingCodes.ENABLE_CONNECT_PROTOCOL:
                self.websockets = bool(changed.new_value)
        self._settled.set()

    def _goodbye(self, goaway: Goaway) -> None:
        self.goaway = goaway
        self._settled.set()
        words = f"the server said goodbye ({error_name(goaway.code)}) before it answered"
        for stream, opened in self._streams.items():
            if stream > goaway.last_stream:
                _fail(opened, Failure(words, "closed", retry=True))

    def _end(self, failure: Failure) -> None:
        if self._ended is not None:
            return
        self._ended = failure
        if self.goaway is not None and self.record.closed_by == "server" and self.record.how in ("FIN", "close_notify"):
            self.record.how, self.record.code = "GOAWAY", self.goaway.code
            self.record.reason = shortened(self.goaway.words) or self.record.reason
        self._settled.set()
        for opened in self._streams.values():
            began = opened.incoming.begun
            where = "in the middle of its response" if began else "before it answered"
            named = Failure(f"{failure} {where}", failure.kind, retry=not began and len(self.record.requests) > 1)
            _fail(opened, named if failure.kind in ("closed", "reset") else failure)
            if opened.tunnel is not None:
                opened.tunnel.ended("closed")
        self._link.close()


def error_name(code: int) -> str:
    """What HTTP/2 calls an error code (RFC 9113, section 7)."""
    try:
        return ErrorCodes(code).name
    except ValueError:
        return f"code {code:#x}"


def _fail(opened: _Open, failure: Failure) -> None:
    if not opened.waiting.done():
        opened.waiting.set_exception(failure)
        opened.waiting.exception()  # a tunnel's is waited for by nobody once it is open


def _raw(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


def _not_spoken(came: bytes) -> Failure:
    if came.startswith(b"HTTP/1"):
        line = came.partition(b"\r\n")[0].decode("latin-1")
        return Failure(f"not spoken: it answered HTTP/2's first bytes with '{shortened(line, 40)}'", "not-spoken")
    if came.startswith(b"\x15\x03"):
        return Failure("it speaks TLS on this port: use https://", "garbage")
    return Failure(f"what it answered is no HTTP/2: '{shortened(came.decode('latin-1'), 40)}'", "garbage")
