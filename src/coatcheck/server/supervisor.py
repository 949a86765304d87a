"""Runs one server: an Envoy and its workers, from start to drained end. What `coatcheck serve` waits for.

Promises that what dies or hangs is started again, that stopping ends what is under way first, that a reload replaces
workers without a failed request, and that nothing it started outlives it. Leaves the edge to `edge_process`, and each
process's life to `processes`.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from coatcheck.errors import CoatcheckError
from coatcheck.server.admin import ask
from coatcheck.server.certificates import ensure_data_dir
from coatcheck.server.connection_table import ConnectionTable
from coatcheck.server.context import APPLICATION, EDGE_STATISTICS_FILE
from coatcheck.server.edge_process import EdgeProcess, replace_file
from coatcheck.server.errors import StartError
from coatcheck.server.figures import FigureTable
from coatcheck.server.file_limit import raise_file_limit
from coatcheck.server.greeting import greeting
from coatcheck.server.lifeline import NOTICE, TELL_LIVE
from coatcheck.server.metrics import COLUMNS, exposition, serve_metrics
from coatcheck.server.ports import check_ports, listen
from coatcheck.server.presence import Presence
from coatcheck.server.processes import Child
from coatcheck.server.runtime_dir import runtime_dir
from coatcheck.server.settings import Settings

__all__ = ["serve"]

_START_TIMEOUT = 30.0
_METRICS_PORT = 9464
"""Where OpenTelemetry's exporter for Prometheus listens by default."""
_ONLY_AT_START = (
    "data_dir",
    "host",
    "http_port",
    "https_port",
    "metrics_port",
    "workers",
    "edge",
    "edge_threads",
    "public_origins",
    "trusted_proxies",
    "hsts_max_age",
    "limits",
)
_HANG = 3.0
"""Seconds that a worker may take to say that it is alive; after two such silences it is killed and replaced."""
_LAST_WORDS = 5.0
"""Seconds that a worker has at least, when nobody waits for its answers any more, to write down what it has to."""


def serve(
    settings: Settings,
    *,
    reload: Callable[[], Settings] | None = None,
    application: str = APPLICATION,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second one stops at once. SIGHUP replaces the workers one by one.

    `reload` is asked for the settings then in force. Raises ServerError, in one line, when the server cannot start.
    """
    os.umask(0o077)
    raise_file_limit()
    ensure_data_dir(settings.data_dir)
    # Two directories: workers are told of one, and what steers the edge is in the other.
    with runtime_dir() as shared, runtime_dir() as own:
        asyncio.run(_Supervisor(settings, shared, own, reload, application, announce).run())


class _Supervisor:
    def __init__(
        self,
        settings: Settings,
        shared_dir: Path,
        own_dir: Path,
        reload: Callable[[], Settings] | None,
        application: str,
        announce: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._runtime_dir = shared_dir
        self._own_dir = own_dir
        self._reload = reload
        self._application = application
        self._announce = announce
        self._boot_id = secrets.token_hex(4)
        self._workers: list[Child] = []
        self._edge: EdgeProcess | None = None
        self._listening: list[socket.socket] = []
        self._metrics: asyncio.Server | None = None
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._reload_asked = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload_asked.set)
        self._prepare()
        chores: list[asyncio.Task[None]] = []
        presence = Presence(self._settings.data_dir, f"{self._settings.host}:{self._settings.http_port}")
        with contextlib.ExitStack() as present:
            try:
                starting = asyncio.create_task(self._start())
                if not await self._unless_stopped(starting):
                    return
                metrics = await self._serve_metrics()
                chores += [asyncio.create_task(self._look_after(number)) for number in range(self._settings.workers)]
                chores.append(asyncio.create_task(self._reload_when_asked(presence)))
                if self._edge is not None:
                    chores.append(asyncio.create_task(self._edge.look_after()))
                    chores.append(asyncio.create_task(self._edge.look_after_certificate()))
                present.enter_context(presence)
                for line in greeting(self._settings, self._edge and self._edge.certificate, metrics):
                    self._announce(line)
                await self._stop.wait()
            finally:
                for chore in chores:
                    chore.cancel()
                ending = asyncio.create_task(self._end())
                hurry = asyncio.create_task(self._stop_now.wait())
                await asyncio.wait({ending, hurry}, return_when=asyncio.FIRST_COMPLETED)
                if not ending.done():
                    ending.cancel()
                hurry.cancel()
                await self._kill()

    # -- starting ------------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        settings = self._settings
        if settings.edge:
            check_ports(settings)
        else:
            self._listening = listen(settings)
        ConnectionTable.create(self._runtime_dir / "connections", settings.workers)
        FigureTable.create(self._runtime_dir / "figures", COLUMNS, settings.workers)
        self._figures = FigureTable.open(self._runtime_dir / "figures", COLUMNS)
        self._write_settings(settings)
        self._workers = [self._worker(number) for number in range(settings.workers)]
        if settings.edge:
            self._edge = EdgeProcess(
                settings,
                self._own_dir,
                [self._socket(number) for number in range(settings.workers)],
                [self._grpc_socket(number) for number in range(settings.workers)] if self._has_grpc else [],
                self._runtime_dir / EDGE_STATISTICS_FILE,
                patience=_START_TIMEOUT,
                log=_log,
            )

    async def _start(self) -> None:
        starts = [asyncio.create_task(worker.start()) for worker in self._workers]
        try:
            await asyncio.gather(*starts)
            if self._edge is not None:
                # Only now: whoever waits for a server that was restarted must not find one that cannot answer.
                await self._edge.start()
                await self._edge.serving(len(self._workers), _START_TIMEOUT)
                with contextlib.suppress(OSError):
                    await self._edge.feed_workers()
        except TimeoutError:
            raise StartError("the edge finds no healthy worker; what they said stands above") from None
        finally:
            for start in starts:
                start.cancel()

    async def _unless_stopped(self, task: asyncio.Task[None]) -> bool:
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if task.done():
            await task
            return True
        task.cancel()
        return False

    def _worker(self, number: int) -> Child:
        argv = [sys.executable, "-m", "coatcheck.server.worker"]
        argv += ["--runtime-dir", str(self._runtime_dir), "--worker-id", str(number), "--boot-id", self._boot_id]
        argv += ["--app", self._application]
        if self._settings.edge:
            argv += ["--socket", str(self._socket(number))]
            if self._has_grpc:
                argv += ["--grpc-socket", str(self._grpc_socket(number))]
        for listening in self._listening:
            argv += ["--listen-fd", str(listening.fileno())]
        inherited = [listening.fileno() for listening in self._listening]
        return Child(f"worker {number}", lambda: argv, patience=_START_TIMEOUT, pass_fds=inherited, log=_log)

    def _socket(self, number: int) -> Path:
        return self._runtime_dir / f"worker-{number}.sock"

    def _grpc_socket(self, number: int) -> Path:
        return self._runtime_dir / f"grpc-{number}.sock"

    @property
    def _has_grpc(self) -> bool:
        """Whether the workers' application has a gRPC API: ours has, and others are handed such calls as any request."""
        return self._application == APPLICATION

    def _write_settings(self, settings: Settings) -> None:
        replace_file(self._runtime_dir / "settings.json", settings.model_dump_json())

    async def _serve_metrics(self) -> str:
        """Listen for Prometheus; what the start says of it. Raises StartError for a port that was asked for and is taken."""
        port = self._settings.metrics_port
        if port == 0:
            return ""
        try:
            self._metrics = await serve_metrics("127.0.0.1", port or _METRICS_PORT, self._exposition)
        except OSError as error:
            why = f"TCP port {port or _METRICS_PORT} on 127.0.0.1 cannot be had ({error.strerror})"
            if port is not None:
                raise StartError(f"{why}; choose another with --metrics-port, or 0 for no metrics") from None
            return f"  no metrics: {why}; choose one with --metrics-port"
        return f"  http://127.0.0.1:{port or _METRICS_PORT}/metrics  for Prometheus"

    async def _exposition(self) -> str:
        counted: dict[str, int] | None = None
        if self._edge is not None:
            with contextlib.suppress(OSError):
                counted = await self._edge.statistics()
        return exposition(self._figures, self._settings.workers, counted)

    # -- while it runs -------------------------------------------------------------------------------------------------

    async def _look_after(self, number: int) -> None:
        """Kill a worker that hangs. Without an edge workers share one socket, and nobody can ask one of them alone."""
        worker, silences = self._workers[number], 0
        while self._settings.edge:
            await asyncio.sleep(1.0)
            await worker.ready.wait()
            process = worker.process
            try:
                await ask(self._socket(number), "GET", "/healthz", _HANG)
            except OSError:
                silences += 1
            else:
                silences = 0
            if process is not worker.process or not worker.ready.is_set():
                silences = 0  # what was silent is gone, or is told to go
            elif silences == 2:
                _log(f"{worker.name} does not answer and is killed")
                worker.send(signal.SIGKILL)
                silences = 0

    async def _reload_when_asked(self, presence: Presence) -> None:
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            presence.reload_begins()
            trouble = ""
            try:
                await self._replace_workers()
                _log("every worker was replaced")
            except (CoatcheckError, OSError) as error:
                trouble = str(error)
                _log(f"reload stopped: {trouble}")
            presence.reload_ends(trouble)

    async def _replace_workers(self) -> None:
        """One by one, the next only when the edge has found the one before. Raises StartError, SettingsError, OSError."""
        before = self._settings
        fresh = before if self._reload is None else self._with_edge_settings_kept(self._reload())
        self._write_settings(fresh)
        try:
            for worker in self._workers:
                # Who was not there before is not waited for: it may be what this reload is to mend.
                healthy = max(1, await self._edge.healthy()) if self._edge is not None else 0
                await worker.replace(NOTICE + fresh.limits.drain_timeout + _LAST_WORDS)
                if self._edge is not None:
                    await self._edge.serving(healthy, _START_TIMEOUT)
        except BaseException as error:
            # Whoever is started from now on has what the others have, and what is known to work.
            self._write_settings(before)
            if isinstance(error, TimeoutError):
                raise StartError("the edge does not find the new worker healthy") from None
            raise
        self._settings = fresh
        if self._edge is not None:
            self._edge.refresh_certificate(fresh)

    def _with_edge_settings_kept(self, fresh: Settings) -> Settings:
        """The edge is not replaced, and workers must go on agreeing with it."""
        kept = {name: getattr(self._settings, name) for name in _ONLY_AT_START}
        changed = [name for name, value in kept.items() if getattr(fresh, name) != value]
        if changed:
            _log(f"{', '.join(changed)}: what was changed takes effect at the next start")
        return fresh.model_copy(update=kept)

    # -- ending --------------------------------------------------------------------------------------------------------

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            self._stop_now.set()
        self._stop.set()

    async def _end(self) -> None:
        """The edge first: it turns new work away while workers finish what is under way."""
        cap = self._settings.limits.drain_timeout
        began = asyncio.get_running_loop().time()
        if self._edge is not None:
            await self._edge.drain(cap, self._tell_live_connections)
        # Behind an edge nobody sends them requests any more, nor waits for what they still do.
        left = max(cap - (asyncio.get_running_loop().time() - began), 0.0)
        # What has not come up yet knows SIGTERM only.
        numbers = [signal.SIGINT if worker.ready.is_set() else signal.SIGTERM for worker in self._workers]
        for listening in self._listening:
            listening.close()
        await asyncio.gather(
            *(worker.stop(number, left + _LAST_WORDS) for worker, number in zip(self._workers, numbers, strict=True))
        )

    def _tell_live_connections(self) -> None:
        for worker in self._workers:
            if worker.ready.is_set():
                worker.send(TELL_LIVE)

    async def _kill(self) -> None:
        ends = [worker.stop(signal.SIGKILL, 5.0) for worker in self._workers]
        await asyncio.gather(*ends, *([self._edge.kill()] if self._edge is not None else []))
        for listening in self._listening:
            listening.close()
        if self._metrics is not None:
            self._metrics.close()


def _log(line: str) -> None:
    print(f"coatcheck: {line}", file=sys.stderr, flush=True)
