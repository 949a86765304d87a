"""One TCP connection, with TLS or without: opened step by step so that each step can be timed, and watched to its end.

TLS runs over memory (`ssl.MemoryBIO`), so that who ended the connection and how is seen before TLS hides it. Leaves HTTP
to `http1` and `http2`, which are its receivers.
"""

import asyncio
import errno
import socket
import ssl
from typing import Any, Protocol

from coatcheck.probe.errors import Failure
from coatcheck.probe.target import Endpoint
from coatcheck.probe.tls import tls_failure
from coatcheck.probe.trace import ConnectionTrace, Trace
from coatcheck.probe.words import printable, seconds_in_words

__all__ = ["FIN_WITHIN", "Link", "Receiver", "TlsClient", "open_link"]

_CHUNK = 65536
FIN_WITHIN = 0.05
"""Seconds for the FIN behind a close_notify: some servers wait for ours first."""


class Receiver(Protocol):
    """Who is told what comes. Both are called on the event loop, and must not block."""

    def data_received(self, data: bytes) -> None:
        """These bytes came; never empty."""
        ...

    def link_ended(self, failure: Failure) -> None:
        """Nothing comes any more, whoever ended it; called once."""
        ...


class TlsClient:
    """How to speak TLS: the context, the name to ask for, and a session to take up again."""

    def __init__(self, context: ssl.SSLContext, server_name: str, session: ssl.SSLSession | None = None) -> None:
        self.context = context
        self.server_name = server_name
        self.session = session


class Link(asyncio.Protocol):
    """An open connection, made by `open_link`. Writes never wait: a probe sends little."""

    def __init__(self, trace: Trace, record: ConnectionTrace, tls: TlsClient | None) -> None:
        self.record = record
        self._trace = trace
        self._receiver: Receiver | None = None
        self._early: list[bytes] = []
        self._ended: Failure | None = None
        self._over = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._handshake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._notified = False
        self.tls: ssl.SSLObject | None = None
        if tls is None:
            self._handshake.set_result(None)
        else:
            self.tls = tls.context.wrap_bio(
                self._incoming, self._outgoing, server_hostname=tls.server_name, session=tls.session
            )

    @property
    def ended(self) -> Failure | None:
        """Why nothing comes any more; None while the connection is open."""
        return self._ended

    async def wait_ended(self) -> None:
        """Wait until the connection is over and its socket gone, whoever ended it."""
        await self._over.wait()

    def attach(self, receiver: Receiver) -> None:
        """From now on tell `receiver`, of what came before as well."""
        self._receiver = receiver
        early, self._early = self._early, []
        for data in early:
            receiver.data_received(data)
        if self._ended is not None:
            receiver.link_ended(self._ended)

    def write(self, data: bytes) -> None:
        """Send; without effect on a connection that is over."""
        if self._ended is not None or self._transport is None or not data:
            return
        if self.tls is None:
            self._transport.write(data)
            return
        try:
            self.tls.write(data)
        except ssl.SSLError as error:
            self._end(tls_failure(error))
        self._flush()

    def close(self) -> None:
        """End the connection from our side, with close_notify and FIN."""
        if self._ended is not None:
            return
        self._trace.closed(self.record, "us", "FIN")
        if self.tls is not None and self._handshake.done():
            try:
                self.tls.unwrap()
            except (ssl.SSLError, ValueError):
                pass  # "wants to read": our close_notify is written, theirs is not waited for
            self._flush()
        self._end(Failure("we closed the connection", "closed"))

    def abort(self) -> None:
        """Give the socket back at the loop's next turn, even if the other side takes nothing any more."""
        self.close()  # so that the record does not say that the server reset it
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio's side ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the TLS handshake, if there is to be one."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._trace.sockets.add(self)
        if self.tls is not None:
            self._shake_hands()

    def data_received(self, data: bytes) -> None:
        """Bytes off the wire."""
        if self._ended is not None:
            return
        if self.tls is None:
            self._give(data)
            return
        self._incoming.write(data)
        if not self._handshake.done():
            self._shake_hands()
        if self._handshake.done() and not self._handshake.exception():
            self._read_tls()

    def eof_received(self) -> bool:
        """The server's FIN."""
        if self.record.how == "close_notify":
            self.record.how = "FIN"
        if self._ended is None:
            without = self.tls is not None and self._handshake.done() and not self._notified
            self._trace.closed(self.record, "server", "FIN", reason="without TLS close_notify" if without else None)
            self._end(Failure("the server closed the connection", "closed"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone: RST, or what we began ourselves."""
        if self._ended is None:
            if isinstance(exc, TimeoutError):
                self._trace.closed(self.record, "both", "lost")
                self._end(Failure("the network lost the connection", "unreachable"))
            else:
                self._trace.closed(self.record, "server", "RST")
                self._end(Failure("the server reset the connection", "reset"))
        self._trace.sockets.discard(self)
        self._over.set()

    # -- TLS -----------------------------------------------------------------------------------------------------------

    async def handshake(self) -> None:
        """Wait for TLS to be ready. Raises Failure."""
        await self._handshake

    def _shake_hands(self) -> None:
        assert self.tls is not None
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()  # the alert that tells them why
            failure = tls_failure(error)
            failure.__cause__ = error
            self._trace.closed(self.record, "server" if "ALERT" in (error.reason or "") else "us", "FIN")
            self._end(failure)
            return
        self._flush()
        if not self._handshake.done():
            self._handshake.set_result(None)

    def _read_tls(self) -> None:
        assert self.tls is not None
        while self._ended is None:
            try:
                data = self.tls.read(_CHUNK)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError as error:
                self._trace.closed(self.record, "server", "FIN", reason=(error.reason or "").replace("_", " ").lower())
                self._end(tls_failure(error))
                break
            if not data:
                self._notified = True
                self._trace.closed(self.record, "server", "close_notify")
                self._end(Failure("the server closed the connection", "closed"), linger=True)
                break
            self._give(data)
        self._flush()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    # -- both ----------------------------------------------------------------------------------------------------------

    def _give(self, data: bytes) -> None:
        if self._receiver is None:
            self._early.append(data)
        else:
            self._receiver.data_received(data)

    def _end(self, failure: Failure, *, linger: bool = False) -> None:
        if self._ended is not None:
            return
        self._ended = failure
        if not self._handshake.done():
            words = "in the middle of the TLS handshake"
            early = Failure(f"{failure} {words}", failure.kind) if failure.kind in ("closed", "reset") else failure
            early.__cause__ = failure.__cause__
            self._handshake.set_exception(early)
            self._handshake.exception()  # nobody may be waiting, which is no cause for a warning
        if self._transport is None:
            self._over.set()
        elif linger:
            asyncio.get_running_loop().call_later(FIN_WITHIN, self._transport.close)
        else:
            self._transport.close()
        if self._receiver is not None:
            self._receiver.link_ended(failure)


async def open_link(
    trace: Trace,
    record: ConnectionTrace,
    endpoint: Endpoint,
    *,
    tls: TlsClient | None,
    timeout: float,
    local: str | None = None,
) -> Link:
    """Connect, and shake hands if there is to be TLS; the record gets the times. Raises Failure.

    `local` is the address of ours to connect from, None for whichever the system takes; `timeout` in seconds, for each step.
    """
    loop = asyncio.get_running_loop()
    began = trace.now()
    record.remote = str(endpoint)
    link: Link | None = None
    try:
        transport = await _within(timeout, f"no answer to connecting to {endpoint}", _connect(endpoint, local))
        record.local = str(Endpoint(*transport.getsockname()[:2]))
        record.tcp_ms = trace.now() - began

        def made() -> Link:
            return Link(trace, record, tls)

        _, link = await loop.create_connection(made, sock=transport)
        if tls is not None:
            shaking = trace.now()
            await _within(timeout, "no answer to the TLS handshake", link.handshake())
            record.tls_ms = trace.now() - shaking
            assert link.tls is not None
            record.resumed = bool(link.tls.session_reused)
        record.ready_ms = trace.now()
        return link
    except Failure as failure:
        record.failure = str(failure)
        if link is not None:
            link.close()
        raise
    except BaseException:
        if link is not None:
            link.close()
        raise


async def _within(timeout: float, words: str, doing: Any) -> Any:
    try:
        async with asyncio.timeout(timeout):
            return await doing
    except TimeoutError:
        raise Failure(f"{words} within {seconds_in_words(timeout)}", "timeout") from None


async def _connect(endpoint: Endpoint, local: str | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if local is not None:
            connection.bind((local, 0))
        await asyncio.get_running_loop().sock_connect(connection, tuple(endpoint))
    except OSError as error:
        connection.close()
        raise _connect_failure(error, endpoint) from None
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_failure(error: OSError, endpoint: Endpoint) -> Failure:
    if isinstance(error, ConnectionRefusedError):
        return Failure(f"{endpoint} refused the connection: nothing listens there", "refused")
    if isinstance(error, ConnectionResetError):
        return Failure(f"{endpoint} reset the connection", "reset")
    if isinstance(error, TimeoutError):
        return Failure(f"no answer to connecting to {endpoint}", "timeout")
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return Failure(f"{endpoint} cannot be reached: there is no way to it from here", "unreachable")
    return Failure(f"cannot connect to {endpoint}: {printable(error.strerror or str(error))}", "local")
