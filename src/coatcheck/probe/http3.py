"""HTTP/3 over QUIC: many requests at once, each on a stream of its own (RFC 9114). Leaves packets and moving to `quic`."""

import asyncio

from aioquic.h3.connection import ErrorCode, H3Connection, Setting
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.events import QuicEvent, StreamDataReceived, StreamReset

from coatcheck.probe.errors import Failure
from coatcheck.probe.exchange import Incoming, Request, Response
from coatcheck.probe.frames import H3HeaderCounter, H3UniStream
from coatcheck.probe.quic import QuicLink
from coatcheck.probe.trace import ConnectionTrace, Trace
from coatcheck.probe.tunnel import Tunnel
from coatcheck.probe.words import shortened

__all__ = ["Http3Connection", "h3_error_name"]

_SETTINGS_WITHIN = 1.0


class _Open:
    """A stream that a request is open on."""

    def __init__(self, incoming: Incoming) -> None:
        self.incoming = incoming
        self.counter = H3HeaderCounter()
        self.waiting: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.tunnel: Tunnel | None = None


class Http3Connection:
    """One connection that carries as many requests at once as the server allows."""

    def __init__(self, link: QuicLink, trace: Trace, timeout: float) -> None:
        self._link = link
        self._trace = trace
        self._timeout = timeout
        self._http = H3Connection(link.quic)
        self._streams: dict[int, _Open] = {}
        self._uni: dict[int, H3UniStream] = {}
        self._opened = 0
        self._broken: Failure | None = None
        self._settled = asyncio.Event()
        self.refused: int = 0
        """Requests that the server rejected unseen (H3_REQUEST_REJECTED)."""
        link.attach(self)
        link.transmit()

    @property
    def record(self) -> ConnectionTrace:
        """Its record in the trace."""
        return self._link.record

    @property
    def link(self) -> QuicLink:
        """The connection beneath."""
        return self._link

    @property
    def announced_streams(self) -> int | None:
        """How many requests the server allows at once, as it said in the handshake."""
        peer = self._link.quic.peer
        return None if peer is None else peer.initial_max_streams_bidi or 0

    @property
    def websockets(self) -> bool:
        """SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 9220, section 3)."""
        return bool((self._http.received_settings or {}).get(Setting.ENABLE_CONNECT_PROTOCOL))

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return self._link.ended is None and not self.goaway

    @property
    def goaway(self) -> bool:
        """Whether the server has said goodbye (RFC 9114, section 5.2)."""
        return any(stream.goaway for stream in self._uni.values())

    def room(self) -> int:
        """How many more requests can be open at once."""
        if not self.usable:
            return 0
        return max(0, self._link.quic.stream_credit - self._opened)

    async def settled(self) -> None:
        """Wait for the server's SETTINGS, for a while. Raises Failure if the connection ends."""
        try:
            async with asyncio.timeout(min(self._timeout, _SETTINGS_WITHIN)):
                await self._settled.wait()
        except TimeoutError:
            return  # the limits that count are in the handshake
        if self._link.ended is not None:
            raise self._link.ended

    async def wait_ended(self) -> None:
        """Wait until the connection is over, whoever ends it."""
        await self._link.wait_ended()

    def close(self) -> None:
        """End it from our side."""
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
        """Open a tunnel by extended CONNECT (RFC 9220); the response's status says whether there is one."""
        stream, opened = self._begin(request, end=False)

        def send(data: bytes) -> None:
            if self._link.ended is None and opened.tunnel is not None and opened.tunnel.ending is None:
                self._http.send_data(stream, data, end_stream=False)
                self._link.transmit()

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
        if self._link.ended is not None:
            raise Failure(str(self._link.ended), self._link.ended.kind, retry=True)
        quic = self._link.quic
        record = self._trace.request(self.record, request.method, request.plain_bytes)
        stream = quic.get_next_available_stream_id()
        record.stream = stream
        opened = self._streams[stream] = _Open(Incoming(self._trace, record))
        self._opened += 1
        self.record.most_streams = max(self.record.most_streams, len(self._streams))
        encoded = [(name.encode("ascii"), value.encode("latin-1")) for name, value in request.pseudo()]
        before = self._encoder_bytes()
        self._http.send_headers(stream, encoded, end_stream=end)
        # What the encoder put into the table for this request is part of its price (RFC 9204, section 2.1).
        record.request_header_bytes = quic.sent[stream].header_bytes + self._encoder_bytes() - before
        self._link.transmit()
        return stream, opened

    def _encoder_bytes(self) -> int:
        return sum(stream.encoder_bytes for stream in self._link.quic.sent_uni.values())

    def _give_up(self, stream: int) -> None:
        if self._link.ended is not None:
            return
        try:
            self._link.quic.stop_stream(stream, ErrorCode.H3_REQUEST_CANCELLED)
        except ValueError:
            return  # it has ended on its own
        self._link.transmit()

    # -- the link's side -----------------------------------------------------------------------------------------------

    def quic_event(self, event: QuicEvent) -> None:
        """Something came on a stream."""
        if isinstance(event, StreamDataReceived):
            self._count(event.stream_id, event.data)
        elif isinstance(event, StreamReset) and (opened := self._streams.get(event.stream_id)):
            self._was_reset(opened, event.error_code)
        try:
            happened = self._http.handle_event(event)
        except Exception as error:  # aioquic lets some of the decoder's errors through
            self._broken = Failure(f"what it sent breaks HTTP/3 ({shortened(str(error))})", "garbage")
            self._link.close()
            return
        for http_event in happened:
            self._happened(http_event)
        if self._http.received_settings is not None:
            self._settled.set()

    def _count(self, stream: int, data: bytes) -> None:
        if stream & 2:
            uni = self._uni.setdefault(stream, H3UniStream())
            before = uni.encoder_bytes
            uni.feed(data)
            self._charge(uni.encoder_bytes - before)
        elif opened := self._streams.get(stream):
            opened.incoming.first_byte()
            before = opened.counter.header_bytes
            opened.counter.feed(data)
            opened.incoming.record.response_header_bytes += opened.counter.header_bytes - before

    def _charge(self, encoder_bytes: int) -> None:
        """What the server puts into the table is part of the price of the response that it is first used in."""
        waiting = (each.incoming for each in self._streams.values() if not each.incoming.begun)
        incoming = next(waiting, None)
        if incoming is not None:
            incoming.record.response_header_bytes += encoder_bytes

    def _happened(self, event: H3Event) -> None:
        if not isinstance(event, HeadersReceived | DataReceived):
            return
        opened = self._streams.get(event.stream_id)
        if opened is None:
            return
        try:
            self._on_stream(opened, event)
        except Failure as failure:
            _fail(opened, failure)

    def _on_stream(self, opened: _Open, event: HeadersReceived | DataReceived) -> None:
        incoming = opened.incoming
        if isinstance(event, HeadersReceived):
            status = next((value for name, value in event.headers if name == b":status"), None)
            # Without a status these are trailers, below 200 an informational response.
            if status is not None and not status.startswith(b"1"):
                incoming.head_of_fields("HTTP/3", event.headers)
                if opened.tunnel is not None and not opened.waiting.done():
                    opened.waiting.set_result(incoming.complete())
        elif opened.tunnel is not None:
            opened.tunnel.data_received(event.data)
        else:
            incoming.body(event.data)
        if event.stream_ended:
            if opened.tunnel is not None:
                opened.tunnel.ended("ended")
            if not opened.waiting.done():
                if incoming.begun:
                    opened.waiting.set_result(incoming.complete())
                else:
                    _fail(opened, Failure("the server ended the stream without a response", "garbage"))

    def _was_reset(self, opened: _Open, code: int) -> None:
        refused = code == ErrorCode.H3_REQUEST_REJECTED
        self.refused += refused
        if opened.tunnel is not None:
            opened.tunnel.ended("reset")
        words = "rejected the request unseen" if refused else f"reset the stream ({h3_error_name(code)})"
        _fail(opened, Failure(f"the server {words}", "reset", retry=refused))

    def link_ended(self, failure: Failure) -> None:
        """The end of the connection."""
        self._settled.set()
        for opened in self._streams.values():
            if self._broken is not None:
                _fail(opened, self._broken)
            where = "in the middle of its response" if opened.incoming.begun else "before it answered"
            _fail(opened, Failure(f"{failure} {where}", failure.kind, retry=not opened.incoming.begun))
            if opened.tunnel is not None:
                opened.tunnel.ended("closed")


def h3_error_name(code: int) -> str:
    """What HTTP/3 calls an error code (RFC 9114, section 8.1)."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"code {code:#x}"


def _fail(opened: _Open, failure: Failure) -> None:
    if not opened.waiting.done():
        opened.waiting.set_exception(failure)
        opened.waiting.exception()  # a tunnel's is waited for by nobody once it is open
