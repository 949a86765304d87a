"""Runs one server: an Envoy and its workers, from start to drained end. What `coatcheck serve` waits for.

Promises that what dies is started again, that stopping ends what is under way first, and that nothing it started
outlives it. Leaves the edge's configuration to `edge`, and each process's life to `processes`.
"""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from coatcheck.errors import CoatcheckError
from coatcheck.server.admin import Admin, ask
from coatcheck.server.certificates import (
    CertificateFiles,
    check_certificate,
    ensure_data_dir,
    local_certificate,
)
from coatcheck.server.connection_table import ConnectionTable
from coatcheck.server.context import APPLICATION
from coatcheck.server.edge import Edge, edge_config, secret_config
from coatcheck.server.envoy import envoy_argv, envoy_line, envoy_path
from coatcheck.server.errors import StartError
from coatcheck.server.figures import FigureTable
from coatcheck.server.greeting import greeting
from coatcheck.server.metrics import COLUMNS, EDGE_STATISTICS, exposition, serve_metrics
from coatcheck.server.ports import addresses, check_ports, listen
from coatcheck.server.processes import Child
from coatcheck.server.runtime_dir import runtime_dir
from coatcheck.server.settings import Settings

__all__ = ["serve"]

_START_TIMEOUT = 30.0
_CERTIFICATE_CHECK = 600.0
"""Seconds between two looks at the certificate: whether it needs renewing, or its files were replaced."""
_ENVOY_DRAIN = 5.0
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
    "public_origins",
    "limits",
)
_HANG = 5.0
"""Seconds that a worker may take to say that it is alive; after two such silences it is killed and replaced."""


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
    ensure_data_dir(settings.data_dir)
    with runtime_dir() as directory:
        asyncio.run(_Supervisor(settings, directory, reload, application, announce).run())


class _Supervisor:
    def __init__(
        self,
        settings: Settings,
        runtime_dir: Path,
        reload: Callable[[], Settings] | None,
        application: str,
        announce: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._runtime_dir = runtime_dir
        self._reload = reload
        self._application = application
        self._announce = announce
        self._boot_id = secrets.token_hex(4)
        self._workers: list[Child] = []
        self._envoy: Child | None = None
        self._admin = Admin(runtime_dir / "admin.sock")
        self._certificate: CertificateFiles | None = None
        self._certificate_seen: tuple[int, int] = (0, 0)
        self._listening: list[socket.socket] = []
        self._metrics: asyncio.Server | None = None
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        self._prepare()
        chores: list[asyncio.Task[None]] = []
        try:
            starting = asyncio.create_task(self._start())
            if not await self._unless_stopped(starting):
                return
            metrics = await self._serve_metrics()
            for line in greeting(self._settings, self._certificate, metrics):
                self._announce(line)
            chores.append(asyncio.create_task(self._look_after_certificate()))
            chores += [asyncio.create_task(self._look_after(number)) for number in range(self._settings.workers)]
            reloads = asyncio.Queue[None]()
            loop.add_signal_handler(signal.SIGHUP, reloads.put_nowait, None)
            chores.append(asyncio.create_task(self._replace_workers(reloads)))
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
        self._write_settings()
        self._workers = [self._worker(number) for number in range(settings.workers)]
        if settings.edge:
            self._certificate = self._find_certificate()
            self._certificate_seen = _modified(self._certificate)
            self._write_secret(self._certificate)
            self._envoy = Child(
                "the edge (Envoy)",
                self._envoy_argv,
                probe=lambda: self._admin.serving(1),
                log=_log,
                quiet_stderr=envoy_line,
            )
            envoy_path()  # said before anything runs

    async def _start(self) -> None:
        children = [*self._workers, *([self._envoy] if self._envoy else [])]
        starts = [asyncio.create_task(child.start(_START_TIMEOUT)) for child in children]
        try:
            await asyncio.gather(*starts)
            if self._envoy:
                async with asyncio.timeout(_START_TIMEOUT):
                    await self._admin.serving(len(self._workers))
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
        for listening in self._listening:
            argv += ["--listen-fd", str(listening.fileno())]
        inherited = [listening.fileno() for listening in self._listening]
        return Child(f"worker {number}", lambda: argv, pass_fds=inherited, log=_log)

    def _socket(self, number: int) -> Path:
        return self._runtime_dir / f"worker-{number}.sock"

    def _write_settings(self) -> None:
        _replace(self._runtime_dir / "settings.json", self._settings.model_dump_json())

    def _envoy_argv(self) -> Sequence[str]:
        # Envoy numbers connections from the start again each time: only another boot id keeps them apart.
        settings = self._settings
        edge = Edge(
            boot_id=secrets.token_hex(4),
            addresses=addresses(settings),
            http_port=settings.http_port,
            https_port=settings.https_port,
            worker_sockets=tuple(str(self._socket(number)) for number in range(settings.workers)),
            admin_socket=str(self._runtime_dir / "admin.sock"),
            secret_file=str(self._runtime_dir / "secret.json"),
            public_origins=settings.public_origins,
            limits=settings.limits,
        )
        config = self._runtime_dir / "edge.json"
        _replace(config, json.dumps(edge_config(edge)))
        (self._runtime_dir / "admin.sock").unlink(missing_ok=True)
        return envoy_argv(config, settings.limits.drain_timeout)

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
        edge: dict[str, int] | None = None
        if self._envoy is not None:
            with contextlib.suppress(OSError):
                edge = await self._admin.statistics(EDGE_STATISTICS)
        return exposition(self._figures, self._settings.workers, edge)

    # -- while it runs -------------------------------------------------------------------------------------------------

    def _find_certificate(self) -> CertificateFiles:
        settings = self._settings
        if settings.tls_cert is not None and settings.tls_key is not None:
            return check_certificate(settings.tls_cert, settings.tls_key)
        return local_certificate(settings.data_dir)

    def _write_secret(self, files: CertificateFiles) -> None:
        _replace(self._runtime_dir / "secret.json", json.dumps(secret_config(str(files.certificate), str(files.key))))

    async def _look_after(self, number: int) -> None:
        """Kill a worker that hangs. Without an edge workers share one socket, and nobody can ask one of them alone."""
        worker, silences = self._workers[number], 0
        while self._settings.edge:
            await asyncio.sleep(1.0)
            await worker.ready.wait()
            try:
                await ask(self._socket(number), "GET", "/healthz", _HANG)
            except OSError:
                silences += 1
            else:
                silences = 0
            if silences == 2 and worker.ready.is_set():
                _log(f"{worker.name} does not answer and is killed")
                worker.send(signal.SIGKILL)
                silences = 0

    async def _look_after_certificate(self) -> None:
        while True:
            await asyncio.sleep(_CERTIFICATE_CHECK)
            self._refresh_certificate()

    def _refresh_certificate(self) -> None:
        """Renew our own certificate in time, and have the edge read the files again when they were replaced."""
        if self._certificate is None:
            return
        try:
            files = self._find_certificate()
        except CoatcheckError as error:
            _log(f"{error}; still serving the certificate from before")
            return
        if _modified(files) != self._certificate_seen:
            self._certificate_seen = _modified(files)
            self._write_secret(files)

    async def _replace_workers(self, asked: "asyncio.Queue[None]") -> None:
        while True:
            await asked.get()
            try:
                if self._reload is not None:
                    self._settings = self._with_edge_settings_kept(self._reload())
                    self._write_settings()
                self._refresh_certificate()
                for worker in self._workers:
                    await worker.replace(_START_TIMEOUT + self._settings.limits.drain_timeout)
                _log("every worker was replaced")
            except CoatcheckError as error:
                _log(f"reload stopped: {error}")

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
        if self._envoy is not None and self._envoy.ready.is_set():
            with contextlib.suppress(OSError):
                await self._admin.drain(cap)
        if self._envoy is not None:
            await self._envoy.stop(signal.SIGTERM, _ENVOY_DRAIN)
        # SIGINT: at once, because nobody sends them requests any more. What has not come up yet knows SIGTERM only.
        numbers = [signal.SIGINT if worker.ready.is_set() else signal.SIGTERM for worker in self._workers]
        await asyncio.gather(
            *(worker.stop(number, cap + 2.0) for worker, number in zip(self._workers, numbers, strict=True))
        )

    async def _kill(self) -> None:
        children = [*self._workers, *([self._envoy] if self._envoy else [])]
        await asyncio.gather(*(child.stop(signal.SIGKILL, 5.0) for child in children))
        for listening in self._listening:
            listening.close()
        if self._metrics is not None:
            self._metrics.close()


def _modified(files: CertificateFiles) -> tuple[int, int]:
    return files.certificate.stat().st_mtime_ns, files.key.stat().st_mtime_ns


def _replace(path: Path, text: str) -> None:
    """Moved into place, because that is what Envoy watches for; 0600 by the umask."""
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)


def _log(line: str) -> None:
    print(f"coatcheck: {line}", file=sys.stderr, flush=True)
