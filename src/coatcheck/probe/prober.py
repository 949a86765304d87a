"""The order of a probe: look the name up, connect, one version after the other, WebSockets, idling, goodbye; redirects.

Nothing is sent but GET or HEAD, and WebSocket handshakes. Leaves each version to `run`, and what it means to `report`.
"""

import asyncio

from coatcheck.probe.alt_svc import find_h3
from coatcheck.probe.asking import Asker
from coatcheck.probe.dial import AnyConnection, Dialer
from coatcheck.probe.errors import Failure, FailureKind, Unreachable
from coatcheck.probe.exchange import Response
from coatcheck.probe.link import FIN_WITHIN
from coatcheck.probe.notes import VersionNotes, Via
from coatcheck.probe.options import VERSIONS, WEBSOCKETS, Options, Version
from coatcheck.probe.progress import OnProgress, Progress
from coatcheck.probe.reach import Reached, may_be_let_off, reach
from coatcheck.probe.redirects import Redirect
from coatcheck.probe.run import VersionRun
from coatcheck.probe.target import Resolved, Target, look_up, parse_target, redirect_target
from coatcheck.probe.trace import Trace
from coatcheck.probe.websocket import WebSocket, WebSocketFacts, open_websocket
from coatcheck.probe.words import seconds_in_words

__all__ = ["NAMES", "Prober"]

NAMES: dict[Version, str] = {"h1.0": "HTTP/1.0", "h1.1": "HTTP/1.1", "h2": "HTTP/2", "h3": "HTTP/3"}

_MOST_REDIRECTS = 5
_REDIRECTS = frozenset((301, 302, 303, 307, 308))


class _Redirected(Exception):
    def __init__(self, target: Target) -> None:
        self.target = target


class Prober:
    """One probe. `run` it, then read what it found from its attributes; they hold what is known at any time."""

    def __init__(self, url: str, options: Options, on_progress: OnProgress | None = None) -> None:
        self.options = options
        self.asked: Target = parse_target(url)
        self.target: Target = self.asked
        self.asker: Asker = Asker(options, self.target)
        self.trace: Trace = Trace()
        self.resolved: Resolved | None = None
        self.reached: Reached | None = None
        self.redirects: list[Redirect] = []
        self.notes: dict[Version, VersionNotes] = {}
        self.websockets: dict[Version, WebSocketFacts] = {}
        self.complete: bool = False
        """Whether all that was asked for was measured."""
        self._on_progress: OnProgress = on_progress or _quiet
        self._done = 0
        self._kept: dict[Version, AnyConnection] = {}
        self._open_websockets: dict[Version, WebSocket] = {}

    async def run(self) -> None:
        """Measure. Raises Unreachable if there is nobody to measure; whatever else goes wrong is among what was found."""
        try:
            while True:
                try:
                    await self._measure()
                    break
                except _Redirected as redirected:
                    self._start_over(redirected.target)
            self.complete = True
        finally:
            await self._let_go()

    async def _let_go(self) -> None:
        """Close what is open. No socket outlives the probe, whatever the other side does."""
        for websocket in self._open_websockets.values():
            websocket.abandon()
        for connection in self._kept.values():
            connection.close()
        try:
            async with asyncio.timeout(FIN_WITHIN):
                await asyncio.gather(*(socket.wait_ended() for socket in self.trace.sockets))
        except TimeoutError:
            pass
        finally:
            for socket in self.trace.sockets:
                socket.abort()
        await asyncio.sleep(0)  # sockets are closed by the loop's next turn

    async def _measure(self) -> None:
        tcp_failure = await self._find()
        address = self.reached.address if self.reached else self.addresses[0]
        dialer = Dialer(
            self.trace,
            self.target,
            address,
            verify=self.reached.verify if self.reached else not may_be_let_off(address, self.options),
            ca=self.options.ca,
            insecure=self.options.insecure,
            timeout=self.options.timeout,
        )
        checked = False
        for version in self.versions:
            notes = self.notes[version] = VersionNotes()
            if tcp_failure is not None and version != "h3":
                notes.failure, notes.kind = str(tcp_failure), tcp_failure.kind
                continue
            checked = await self._version(version, notes, dialer, checked)
        if self.options.wants("ws"):
            await self._try_websockets(dialer, tcp_failure)
        self._refuse_silence()
        await self._idle(self.options.idle)
        await self._say_goodbye()

    @property
    def addresses(self) -> tuple[str, ...]:
        """What the host's name stands for."""
        return self.resolved.addresses if self.resolved else ()

    @property
    def versions(self) -> tuple[Version, ...]:
        """The HTTP versions that are to be measured."""
        if self.target.websocket and self.options.only == Options().only:
            return ()  # ws:// and wss:// ask for nothing else
        return tuple(each for each in VERSIONS if self.options.wants(each) and (each != "h3" or self.target.tls))

    # -- who is there --------------------------------------------------------------------------------------------------

    async def _find(self) -> Failure | None:
        """Look up and connect; a failure where only HTTP/3 may be left. Raises Unreachable."""
        self._tell(f"looking up {self.target.host}")
        self.resolved = await look_up(self.target)
        self._tell(f"connecting to {self.target.host}")
        try:
            self.reached = await reach(self.trace, self.target, self.addresses, self.options)
        except Failure as failure:
            if failure.kind == "certificate" or "h3" not in self.versions:
                raise self._unreachable(str(failure), failure.kind) from None
            return failure
        return None

    def _refuse_silence(self) -> None:
        """Raise Unreachable if there was no answer to anything."""
        if any(request.status is not None for each in self.trace.connections for request in each.requests):
            return
        failures: list[tuple[str, FailureKind]] = [
            *((notes.failure, notes.kind) for notes in self.notes.values() if notes.failure and notes.kind),
            *((facts.failure, "not-spoken") for facts in self.websockets.values() if facts.failure),
        ]
        # That a version is not spoken explains less than that nothing was understood.
        failures.sort(key=lambda failure: failure[1] == "not-spoken")
        if failures:
            raise self._unreachable(*failures[0])

    def _unreachable(self, words: str, kind: FailureKind) -> Unreachable:
        if not self.target.tls and kind in ("closed", "reset"):
            words += "; does it speak https:// on this port?"
        return Unreachable(f"{self.target.authority}: {words}", kind)

    def _start_over(self, target: Target) -> None:
        for connection in self._kept.values():
            connection.close()
        self._kept = {}
        self.target = target
        self.asker.go_to(target)
        self.notes, self.reached = {}, None
        self._done = 0

    # -- each version --------------------------------------------------------------------------------------------------

    async def _version(self, version: Version, notes: VersionNotes, dialer: Dialer, checked: bool) -> bool:
        """Measure one; whether the session's requests have been sent."""
        self._tell(NAMES[version])
        notes.via = self._via(version, dialer)
        before = self._done
        run = VersionRun(
            version,
            notes,
            dialer,
            self.asker,
            self.options,
            # Not over HTTP/1.0, if there is another: its last request asks to keep the connection.
            check_session=not checked and (version != "h1.0" or len(self.versions) == 1),
            on_request=lambda: self._step(NAMES[version]),
            on_first=self._first,
        )
        try:
            await run.measure()
        finally:
            if run.kept is not None:
                self._kept[version] = run.kept
        self._done = before + self._steps
        return checked or run.session_checked

    def _via(self, version: Version, dialer: Dialer) -> Via:
        if version == "h2":
            return "ALPN" if self.target.tls else "prior knowledge"
        if version != "h3":
            return "TCP"
        announced = (find_h3(notes.alt_svc) for notes in self.notes.values() if notes.alt_svc)
        dialer.alternative = next((each for each in announced if each is not None), None)
        return "alt-svc" if dialer.alternative else "direct"

    def _first(self, response: Response, connection: AnyConnection) -> None:
        """Look at a version's first response: whether it leads elsewhere. Raises _Redirected."""
        location = response.value("location")
        if len(self.asker.reactions) != 1 or response.status not in _REDIRECTS or not location:
            return
        target = redirect_target(self.target, location)
        if target is None or target == self.target or len(self.redirects) >= _MOST_REDIRECTS:
            return
        other = target.host.lower() != self.target.host.lower()
        follow = self.options.follow or not other
        self.redirects.append(Redirect(status=response.status, to=target.shown, followed=follow, other_host=other))
        if follow:
            connection.record.purpose = "redirect"
            raise _Redirected(target)

    # -- WebSockets ----------------------------------------------------------------------------------------------------

    async def _try_websockets(self, dialer: Dialer, tcp_failure: Failure | None) -> None:
        for version in WEBSOCKETS:
            notes = self.notes.get(version)
            if version == "h3" and not self.target.tls:
                continue
            if notes is None and self.versions:
                continue  # left out by the user
            facts = self.websockets[version] = WebSocketFacts()
            if tcp_failure is not None and version != "h3":
                facts.failure = str(tcp_failure)
            elif notes is not None and notes.answered is None:
                facts.failure = f"{NAMES[version]} is not spoken"
            else:
                await self._try_websocket(version, facts, dialer)

    async def _try_websocket(self, version: Version, facts: WebSocketFacts, dialer: Dialer) -> None:
        self._tell(f"WebSocket over {NAMES[version]}")
        carrier: AnyConnection | None = None
        websocket: WebSocket | None = None
        try:
            carrier = await dialer.open(version, "websocket")
            request = self.asker.request(self.asker.jar.header(), self.options.websocket_path)
            websocket = await open_websocket(
                carrier, request._replace(method="GET"), facts, self.trace, self.options.timeout
            )
            if websocket is not None:
                self._open_websockets[version] = websocket
                await websocket.ping()
        except Failure as failure:
            facts.failure = str(failure)
        finally:
            if carrier is not None and websocket is None:
                carrier.close()

    # -- idling, and the end -------------------------------------------------------------------------------------------

    async def _idle(self, seconds: float | None) -> None:
        if seconds is not None:
            self._tell(f"idle, for up to {seconds_in_words(seconds)}")
        waits = [self._idle_connection(version, connection, seconds) for version, connection in self._kept.items()]
        if seconds is not None:
            waits += [websocket.idle(seconds) for websocket in self._open_websockets.values()]
        await asyncio.gather(*waits)

    async def _idle_connection(self, version: Version, connection: AnyConnection, seconds: float | None) -> None:
        record, notes = connection.record, self.notes[version]
        since = max((request.ended_ms or request.began_ms for request in record.requests), default=record.opened_ms)
        left = (seconds or 0) - (self.trace.now() - since) / 1000
        try:
            async with asyncio.timeout(max(left, 0)):
                await connection.wait_ended()
        except TimeoutError:
            pass
        ended = record.closed_ms
        notes.idle_waited_s = round(((self.trace.now() if ended is None else ended) - since) / 1000, 3)
        if ended is not None and record.closed_by != "us":
            notes.idle_closed_after_s = notes.idle_waited_s

    async def _say_goodbye(self) -> None:
        await asyncio.gather(*(websocket.close() for websocket in self._open_websockets.values()))
        self._tell("done")

    # -- progress ------------------------------------------------------------------------------------------------------

    @property
    def _steps(self) -> int:
        """Requests over each version."""
        at_once = min(self.options.requests, self.options.concurrency)
        return self.options.requests + (at_once if at_once > 1 else 0)

    def _step(self, doing: str) -> None:
        self._done += 1
        self._tell(doing)

    def _tell(self, doing: str) -> None:
        total = self._steps * len(self.versions)
        self._on_progress(Progress(doing, min(self._done, total), total))


def _quiet(progress: Progress) -> None:
    pass
