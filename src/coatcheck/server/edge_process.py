"""The edge as a process: its files, its certificate, what it counts, its drain. Leaves its configuration to `edge`.

Promises that an Envoy that hangs is killed, so that another takes its place, and that its administration is known to
nobody but the supervisor: its socket is in a directory that workers are not told of.
"""

import asyncio
import contextlib
import json
import secrets
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from coatcheck.server.admin import Admin
from coatcheck.server.certificates import CertificateFiles
from coatcheck.server.edge import Edge, edge_config
from coatcheck.server.edge_feed import FEED_INTERVAL, write_statistics
from coatcheck.server.envoy import envoy_argv, envoy_line, envoy_path
from coatcheck.server.metrics import EDGE_STATISTICS
from coatcheck.server.ports import addresses
from coatcheck.server.processes import Child
from coatcheck.server.served_certificate import LOOK_INTERVAL, ServedCertificate
from coatcheck.server.settings import Settings

__all__ = ["EdgeProcess", "replace_file"]

_STOP = 5.0
_SILENCES = 2


class EdgeProcess:
    """One Envoy, started again as often as it dies."""

    def __init__(
        self,
        settings: Settings,
        directory: Path,
        worker_sockets: Sequence[Path],
        grpc_sockets: Sequence[Path],
        statistics: Path,
        *,
        patience: float,
        log: Callable[[str], None],
    ) -> None:
        envoy_path()  # what is missing is said before anything runs
        self._settings = settings
        self._directory = directory
        self._worker_sockets = tuple(str(socket) for socket in worker_sockets)
        self._grpc_sockets = tuple(str(socket) for socket in grpc_sockets)
        self._statistics = statistics
        self._log = log
        self._admin = Admin(directory / "admin.sock")
        self._served = ServedCertificate(settings, directory, log)
        self._child = Child(
            "the edge (Envoy)",
            self._argv,
            patience=patience,
            probe=self._admin.live,
            log=log,
            quiet_stderr=envoy_line,
        )

    @property
    def certificate(self) -> CertificateFiles:
        """What TLS is served with."""
        return self._served.files

    async def start(self) -> None:
        """Start it, and come back when it listens. Raises StartError."""
        await self._child.start()

    async def serving(self, workers: int, within: float) -> None:
        """Come back when it finds that many workers healthy. Raises TimeoutError."""
        async with asyncio.timeout(within):
            await self._admin.serving(workers)

    async def healthy(self) -> int:
        """How many workers it finds healthy; 0 where it cannot be asked."""
        try:
            return await self._admin.healthy()
        except OSError:
            return 0

    async def statistics(self) -> dict[str, int]:
        """Its counters now. Raises OSError."""
        return await self._admin.statistics(EDGE_STATISTICS)

    async def feed_workers(self) -> None:
        """Put its counters where workers read them. Raises OSError."""
        write_statistics(self._statistics, await self.statistics())

    async def look_after(self) -> None:
        """Feed its counters to the workers, and kill it when it does not answer. Until cancelled."""
        silences = 0
        while True:
            await asyncio.sleep(FEED_INTERVAL)
            await self._child.ready.wait()
            process = self._child.process
            try:
                await self.feed_workers()
            except OSError:
                silences += 1
            else:
                silences = 0
            if process is not self._child.process or not self._child.ready.is_set():
                silences = 0  # what was silent is gone
            elif silences == _SILENCES:
                self._log("the edge (Envoy) does not answer and is killed")
                self._child.send(signal.SIGKILL)
                silences = 0

    async def drain(self, within: float, tell: Callable[[], None]) -> None:
        """Let it end what is under way; see `Admin.drain`. Then it is gone, and stays so."""
        self._child.ending = True  # who dies meanwhile must not come back and take new connections
        if self._child.ready.is_set():
            with contextlib.suppress(OSError):
                left = await self._admin.drain(within, tell)
                if left:
                    self._log(f"requests that did not end within {within:g} s and were cut: {left}")
        await self._child.stop(signal.SIGTERM, _STOP)

    async def kill(self) -> None:
        """End it at once."""
        await self._child.stop(signal.SIGKILL, _STOP)

    # -- files ---------------------------------------------------------------------------------------------------------

    async def look_after_certificate(self) -> None:
        """Renew our own certificate in time, and notice when somebody else's was replaced. Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            self._served.look()

    def refresh_certificate(self, settings: Settings) -> None:
        """Have the edge read certificate and key again if they are others than before."""
        self._settings = settings
        self._served.refresh(settings)

    def _argv(self) -> Sequence[str]:
        settings = self._settings
        edge = Edge(
            # Envoy numbers connections from the start again each time: only another boot id keeps them apart.
            boot_id=secrets.token_hex(4),
            addresses=addresses(settings),
            http_port=settings.http_port,
            https_port=settings.https_port,
            worker_sockets=self._worker_sockets,
            grpc_sockets=self._grpc_sockets,
            admin_socket=str(self._directory / "admin.sock"),
            secret_file=str(self._served.secret_file),
            address_secret_file=str(self._served.address_secret_file),
            public_origins=settings.public_origins,
            limits=settings.limits,
            trusted_proxies=settings.trusted_proxies,
            hsts_max_age=settings.hsts_max_age,
            threads=settings.edge_threads,
        )
        config = self._directory / "edge.json"
        replace_file(config, json.dumps(edge_config(edge)))
        (self._directory / "admin.sock").unlink(missing_ok=True)
        return envoy_argv(config, settings.limits.drain_timeout, threads=settings.edge_threads)


def replace_file(path: Path, text: str) -> None:
    """Write a file and move it into place, because that is what Envoy watches for; 0600 by the umask. Raises OSError."""
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
