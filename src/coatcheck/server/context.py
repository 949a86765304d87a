"""What one worker knows about itself and its server; made by `worker`, handed to `app`, read by whoever answers requests."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from coatcheck.server.connection_table import ConnectionTable
from coatcheck.server.edge_feed import EdgeStatistics, read_statistics
from coatcheck.server.figures import FigureTable
from coatcheck.server.metrics import COLUMNS

__all__ = ["APPLICATION", "EDGE_STATISTICS_FILE", "RpcServing", "WorkerContext"]

APPLICATION = "coatcheck.server.app:create_app"
"""What a worker serves unless told otherwise: called with the settings and the worker's context."""
EDGE_STATISTICS_FILE = "edge-statistics.json"
"""In the runtime directory; written by the supervisor."""


class RpcServing(Protocol):
    """What serves gRPC beside the application (`coatcheck.server.rpc.RpcServer`)."""

    async def start(self, address: str) -> int:
        """Serve on an address of grpc's, as `unix:/…`."""
        ...

    def leave(self) -> None:
        """End every stream, and each that is opened from now on: come back elsewhere."""
        ...

    async def stop(self, grace: float) -> None:
        """Take no more calls; those under way have so many seconds."""
        ...


@dataclass(slots=True)
class WorkerContext:
    """One worker's identity, and the flag that says it is leaving.

    Tests of the application alone need no supervisor: `WorkerContext(runtime_dir=tmp_path)` is a whole one.
    """

    runtime_dir: Path
    """A directory of mode 0700 that lives as long as the server: sockets and the connection table."""
    worker_id: int = 0
    boot_id: str = "00000000"
    """Drawn at each start of the server, so that connection ids are not repeated after a restart."""
    workers: int = 1
    edge: bool = False
    """Whether requests come through Envoy; if not, what its headers say is a client's invention."""
    trusted_proxies: int = 0
    """How many proxies every request passes before it gets to a worker without an edge; with one, the edge counts them."""
    draining: bool = False
    """True from SIGTERM on: `/healthz` answers 503 so that the edge sends requests elsewhere."""
    connections: ConnectionTable = field(default_factory=ConnectionTable.alone)
    """Counts requests per connection over all workers."""
    figures: FigureTable = field(default_factory=lambda: FigureTable.alone(COLUMNS))
    """This worker's row of what the metrics tell."""
    on_leave: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    """What is to be called, on the worker's loop, when live connections must be told that this worker leaves: before
    requests under way are waited for. Whoever keeps connections open that have no end of their own adds itself here.
    May be called more than once."""

    rpc: RpcServing | None = None
    """Put here by an application that has a gRPC API; the worker starts and stops it."""

    def leave(self) -> None:
        """Tell live connections to go elsewhere."""
        for tell in self.on_leave:
            tell()

    def edge_statistics(self) -> EdgeStatistics | None:
        """What the edge counted a few seconds ago; None while it is away, and always where there is none."""
        return read_statistics(self.runtime_dir / EDGE_STATISTICS_FILE) if self.edge else None
