"""One version's measurement: requests in turn, then at once, then the TLS session taken up again.

What is measured beside the connections is measured with the same requests, so that there are no more of them: the session
by the cookies they carry, HTTP/1.0's keep-alive and QUIC's moves by the last ones. Leaves the order of versions to `prober`.
"""

import asyncio
from collections.abc import Callable

from coatcheck.probe.asking import SECOND_LOOPBACK, Asker
from coatcheck.probe.dial import AnyConnection, Dialer
from coatcheck.probe.errors import Failure
from coatcheck.probe.exchange import Headers, Response
from coatcheck.probe.http1 import Http1Connection
from coatcheck.probe.http2 import Http2Connection
from coatcheck.probe.http3 import Http3Connection
from coatcheck.probe.notes import MigrationNotes, VersionNotes, read_keep_alive
from coatcheck.probe.options import Options, Version
from coatcheck.probe.sessions import Credential
from coatcheck.probe.target import is_loopback

__all__ = ["VersionRun"]

_ENOUGH = 4
"""Requests in turn below which none is spared for anything else than being one of many."""
_LINGER = 0.3
"""Seconds to see whether a server ends a connection that has done what it was for."""
_MOVE_WITHIN = 3.0
"""Seconds for the answer to a request from a new port or address."""
_UNWILLING = frozenset((426, 505))
"""Upgrade Required, HTTP Version Not Supported: answers that say that the version is not spoken."""
_KEEP: Headers = (("connection", "keep-alive"),)


class VersionRun:
    """The run over one version. What it finds is in `notes` and in the trace; `kept` is left open for idling."""

    def __init__(
        self,
        version: Version,
        notes: VersionNotes,
        dialer: Dialer,
        asker: Asker,
        options: Options,
        *,
        check_session: bool,
        on_request: Callable[[], None],
        on_first: Callable[[Response, AnyConnection], None],
    ) -> None:
        self.kept: AnyConnection | None = None
        self._last: AnyConnection | None = None
        self.session_checked: bool = False
        """Whether requests without a cookie and with one made up were sent."""
        self._version: Version = version
        self._notes = notes
        self._dialer = dialer
        self._asker = asker
        self._options = options
        self._check_session = check_session
        self._on_request = on_request
        self._on_first = on_first
        self._patient = True
        self._more = options.requests if options.concurrency > 1 else 0
        """How many requests may still be sent beside those in turn."""

    async def measure(self) -> None:
        """Measure all of it; a failure is noted, and ends what cannot go on."""
        try:
            await self._in_turn()
        except Failure as failure:
            self._notes.failure, self._notes.kind = str(failure), failure.kind
        if self._notes.answered is None or self._notes.failure is not None:
            return
        at_once = min(self._options.requests, self._options.concurrency)
        if at_once > 1:
            self._notes.at_once_asked = at_once
            began = self._dialer.trace.now()
            if self._version in ("h2", "h3"):
                await self._share(at_once)
            else:
                self._more -= at_once
                await self._spread(at_once)
            self._notes.at_once_ms = self._dialer.trace.now() - began
        if self._last is not None and self._version != "h1.0" and self._dialer.target.tls:
            await self._resume(self._last)
        if self.kept is None and self._version != "h1.0" and self._options.idle is not None and self._more:
            await self._open_idle()

    # -- in turn -------------------------------------------------------------------------------------------------------

    async def _in_turn(self) -> None:
        connection: AnyConnection | None = None
        said_goodbye = again = False
        try:
            for left in reversed(range(self._options.requests)):
                if connection is not None and not connection.usable:
                    self._notes.unannounced += self._version != "h1.0" and not said_goodbye
                    await self._part(connection)
                    connection = None
                if connection is None:
                    connection = await self._dialer.open(self._version, "in turn", local=self._local(left))
                moving = await self._move(connection, left)
                try:
                    response = await self._one(connection, left, moving)
                except Failure as failure:
                    if moving:
                        break  # it did not survive, which is an answer
                    if not failure.retry or again:
                        raise
                    again = True
                    if not connection.usable:  # else it refused this one stream
                        said_goodbye = True
                        self._notes.lost_requests += 1
                        self._notes.unannounced += isinstance(connection, Http1Connection) or not connection.goaway
                    continue
                again = False
                said_goodbye = _says_goodbye(connection, response)
                self._look(connection, response)
                await self._after(connection, left)
            if connection is not None and not connection.usable and self._version != "h1.0":
                await self._part(connection)
        finally:
            # Whatever came of it, an idle connection is worth watching.
            if connection is not None:
                self._what_is_allowed(connection)
                self._last = connection
                if connection.usable or (self._version == "h1.0" and connection.record.closed_ms is None):
                    self.kept = connection
                else:
                    connection.close()

    async def _one(self, connection: AnyConnection, left: int, moving: str | None) -> Response:
        self._on_request()
        asks_to_keep = self._version == "h1.0" and left == 0 and self._spare
        asking = self._asker.ask(connection, self._credential(left), _KEEP if asks_to_keep else ())
        if moving is None:
            return await asking
        assert self._notes.migration is not None
        try:
            async with asyncio.timeout(_MOVE_WITHIN):
                response = await asking
        except (TimeoutError, Failure):
            setattr(self._notes.migration, moving, False)
            connection.record.requests[-1].failure = f"no answer after the change of {moving}"
            raise Failure(f"the connection did not survive a change of {moving}", "timeout") from None
        setattr(self._notes.migration, moving, True)
        return response

    @property
    def _spare(self) -> bool:
        return self._options.requests >= _ENOUGH

    def _credential(self, left: int) -> Credential:
        """The last two requests carry no cookie and a made-up one; over HTTP/3 the two before, since the last ones move."""
        if not (self._check_session and self._spare and self._asker.jar.session_values()):
            return "ours"
        turn = left - 2 if self._version == "h3" else left
        if turn == 0:
            self.session_checked = True
            return "none"
        return "made up" if turn == 1 else "ours"

    def _local(self, left: int) -> str | None:
        """Another address of ours for the last request but one over HTTP/1.0, each of which has a connection of its own."""
        return self._second_address if self._version == "h1.0" and self._spare and left == 1 else None

    @property
    def _second_address(self) -> str | None:
        address = self._dialer.address
        return SECOND_LOOPBACK if is_loopback(address) and ":" not in address else None

    async def _move(self, connection: AnyConnection, left: int) -> str | None:
        """Move a QUIC connection before the last two requests; what was changed, or None."""
        if not isinstance(connection, Http3Connection) or not self._spare or left > 1:
            return None
        forbidden = bool(connection.link.quic.peer and connection.link.quic.peer.disable_active_migration)
        notes = self._notes.migration = self._notes.migration or MigrationNotes(forbidden=forbidden)
        here = connection.record.local.rpartition(":")[0].strip("[]")
        there = self._second_address
        try:
            if left == 1:
                await connection.link.move(here, new_id=False)
                return "port"
            if there is not None and not forbidden and notes.port:
                await connection.link.move(there, new_id=True)
                connection.record.moved_to_address = True
                return "address"
        except Failure:
            pass  # this machine has no such address: not tried
        return None

    async def _after(self, connection: AnyConnection, left: int) -> None:
        """HTTP/1.0: whether the server ends the connection, as it should unless it was asked not to."""
        if self._version != "h1.0":
            return
        if left == 0 and self._spare:
            self._notes.keep_alive_kept = not await _ends(connection)
        elif self._notes.kept_unasked is None:
            self._notes.kept_unasked = not await _ends(connection)
        else:
            await self._part(connection)

    async def _part(self, connection: AnyConnection) -> None:
        """Let the server end a connection that is of no use any more; end it ourselves if it does not."""
        if self._patient and connection.record.closed_ms is None:
            self._patient = await _ends(connection)
        connection.close()

    def _look(self, connection: AnyConnection, response: Response) -> None:
        notes = self._notes
        if self._version in ("h1.0", "h1.1") and response.status in _UNWILLING:
            raise Failure(f"not spoken: it answered {response.status}", "not-spoken")
        notes.alt_svc = response.value("alt-svc") or notes.alt_svc
        if notes.answered is not None:
            return
        notes.answered, notes.status, notes.server = response.version, response.status, response.value("server")
        notes.keep_alive_header = read_keep_alive(response.value("keep-alive"))
        if isinstance(connection, Http3Connection):
            notes.tls_version, notes.cipher = "TLSv1.3", connection.link.quic.cipher  # RFC 9001, section 4.2
        elif connection.link.tls is not None:
            cipher = connection.link.tls.cipher()
            notes.tls_version, notes.cipher = connection.link.tls.version(), cipher[0] if cipher else None
        self._on_first(response, connection)

    def _what_is_allowed(self, connection: AnyConnection) -> None:
        if isinstance(connection, Http1Connection):
            return
        self._notes.announced_streams = connection.announced_streams
        self._notes.websockets = connection.websockets
        if isinstance(connection, Http3Connection) and (peer := connection.link.quic.peer) and peer.max_idle_timeout:
            self._notes.announced_idle_s = peer.max_idle_timeout / 1000

    # -- at once -------------------------------------------------------------------------------------------------------

    async def _spread(self, requests: int) -> None:
        """Over HTTP/1: each on a connection of its own, since one carries one at a time."""

        async def one(number: int) -> None:
            local = self._second_address if self._version == "h1.1" and number == requests - 1 else None
            connection: AnyConnection | None = None
            try:
                connection = await self._dialer.open(self._version, "at once", local=local)
                await self._together(connection)
                if not connection.usable and not self._notes.kept_unasked:
                    await self._part(connection)
            except Failure:
                pass  # it is in the trace
            finally:
                if connection is not None and not self._keep(connection):
                    connection.close()

        await asyncio.gather(*(one(number) for number in range(requests)))

    async def _share(self, requests: int) -> None:
        """Over HTTP/2 and 3: all on one connection, as many at once as it lets us; on another if it ends before."""
        left = requests
        while left and self._more:
            try:
                connection = await self._dialer.open(self._version, "at once")
            except Failure:
                return  # it is in the trace
            before, left = left, await self._share_one(connection, left)
            if left == before:
                return

    async def _share_one(self, connection: AnyConnection, requests: int) -> int:
        """Send them on this connection; how many have to be sent again on another."""
        waiting, lost = requests, 0
        running: set[asyncio.Task[bool]] = set()
        try:
            await connection.settled()
            while (waiting and self._more) or running:
                now = min(waiting, connection.room(), self._more)
                running |= {asyncio.create_task(self._together(connection)) for _ in range(now)}
                waiting -= now
                self._more -= now
                if not running:
                    break  # the server has said goodbye
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                lost += sum(not task.result() for task in done)
        except Failure:
            pass  # it is in the trace
        finally:
            for task in running:
                task.cancel()
            if isinstance(connection, Http2Connection | Http3Connection):
                self._notes.refused_streams += connection.refused
                self._what_is_allowed(connection)
            if not self._keep(connection):
                connection.close()
        return waiting + lost

    async def _together(self, connection: AnyConnection) -> bool:
        """Send one of those at once; false if it has to be sent again on another connection."""
        self._on_request()
        try:
            await self._asker.ask(connection)
        except Failure as failure:
            # Refused streams are a finding; what a goodbye cut off is sent again, as clients do.
            return not (failure.retry and not connection.usable)
        self._notes.at_once_answered += 1
        return True

    def _keep(self, connection: AnyConnection) -> bool:
        """Leave one open for idling, where none was left of those in turn."""
        if self.kept is not None or self._version == "h1.0" or not connection.usable:
            return self.kept is connection
        self.kept = connection
        return True

    # -- once more -----------------------------------------------------------------------------------------------------

    async def _resume(self, connection: AnyConnection) -> None:
        notes = self._notes.resumption
        notes.offered = self._dialer.remember(self._version, connection)
        if not notes.offered:
            return
        try:
            resumed = await self._dialer.open(self._version, "resumption", resume=True)
        except Failure:
            notes.accepted = False
            return
        notes.accepted = resumed.record.resumed
        notes.handshake_ms = resumed.record.handshake_ms
        resumed.close()

    async def _open_idle(self) -> None:
        """A connection to be left idle, where the server has ended all others."""
        self._more -= 1
        try:
            connection = await self._dialer.open(self._version, "idle")
            self.kept = connection
            await self._asker.ask(connection)
        except Failure:
            pass  # it is in the trace


async def _ends(connection: AnyConnection) -> bool:
    """Whether the server ends the connection before long."""
    try:
        async with asyncio.timeout(_LINGER):
            await connection.wait_ended()
    except TimeoutError:
        return False
    return True


def _says_goodbye(connection: AnyConnection, response: Response) -> bool:
    if isinstance(connection, Http1Connection):
        return "close" in (response.value("connection") or "").lower() or response.version == "HTTP/1.0"
    return bool(connection.goaway)
