"""Which session has what open, over all workers of this machine: each writes a file when that changes, and all read them.

Promises that what is read is at most a second old, or of a worker that has just died. Leaves counting to `connections`;
what other machines have open is not known here.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec

from coatcheck.connections import LiveConnection, LiveConnections

__all__ = ["LiveTable", "OpenConnections"]

OpenConnections: TypeAlias = Mapping[tuple[str, str], int]
"""By kind and protocol, how many."""
_INTERVAL = 1.0
_Rows: TypeAlias = dict[str, list[tuple[str, str, int]]]
_encoder = msgspec.msgpack.Encoder()
_decoder: "msgspec.msgpack.Decoder[_Rows]" = msgspec.msgpack.Decoder(_Rows)
_log = logging.getLogger("coatcheck.server")


class LiveTable:
    """One worker's part in it."""

    def __init__(self, runtime_dir: Path, worker_id: int, connections: LiveConnections) -> None:
        self._own = runtime_dir / f"live-{worker_id}"
        self._connections = connections
        self._changed = True
        connections.listeners.append(self._listen)

    def _listen(self, connection: LiveConnection, opened: bool) -> None:
        self._changed = True

    async def run(self) -> None:
        """Write what is open here, each second in which it changed, until cancelled."""
        while True:
            if self._changed:
                self._changed = False
                rows = {session_id: self._rows(session_id) for session_id in self._connections.sessions()}
                try:
                    # Beside the loop: with thousands of them it takes milliseconds.
                    await asyncio.to_thread(self._write, rows)
                except OSError as error:
                    _log.warning("what is open here cannot be told to the other workers: %s", error)
            await asyncio.sleep(_INTERVAL)

    def of(self, session_ids: Iterable[str]) -> dict[str, OpenConnections]:
        """Give what these sessions have open, on all workers; without those that have nothing."""
        found: dict[str, Counter[tuple[str, str]]] = {}
        wanted = list(session_ids)
        tables: list[_Rows] = [{session_id: self._rows(session_id) for session_id in wanted}]
        for path in self._own.parent.glob("live-*"):
            if path != self._own and path.suffix != ".partial":
                with contextlib.suppress(OSError, msgspec.MsgspecError):
                    tables.append(_decoder.decode(path.read_bytes()))
        for table in tables:
            for session_id in wanted:
                for kind, protocol, count in table.get(session_id, ()):
                    found.setdefault(session_id, Counter())[kind, protocol] += count
        return dict(found)

    def _rows(self, session_id: str) -> list[tuple[str, str, int]]:
        counted = Counter((one.kind, one.protocol) for one in self._connections.of(session_id))
        return [(kind, protocol, count) for (kind, protocol), count in counted.items()]

    def _write(self, rows: _Rows) -> None:
        partial = self._own.with_suffix(".partial")
        partial.write_bytes(_encoder.encode(rows))
        partial.replace(self._own)
