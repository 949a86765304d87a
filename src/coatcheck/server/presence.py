"""Says in a data directory that a server runs on it, and finds those that do: what `coatcheck reload` goes by.

Several servers may share a data directory, so this is a list and no lock of the directory. A server that was killed does
not count: whether one lives is asked of the kernel, which holds a file lock for as long as its process lives, and not
of a process id, which somebody else may have by now.
"""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

__all__ = ["Presence", "RunningServer", "running_servers"]

_DIRECTORY = "servers"


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that runs on a data directory."""

    name: str
    """Of its entry, and of nothing else."""
    pid: int | None
    """None where it is in another container, in which our number for it means somebody else."""
    address: str
    reloads_begun: int
    reloads_ended: int
    trouble: str
    """Why the reload that ended last stopped halfway; empty if it did not."""


class Presence:
    """One server's entry. Use as a context manager; gone afterwards."""

    def __init__(self, data_dir: Path, address: str) -> None:
        self._path = data_dir / _DIRECTORY / secrets.token_hex(4)
        self._address = address
        self._lock: TextIO | None = None
        self._begun = self._ended = 0

    def __enter__(self) -> "Presence":
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        self._write("")
        # Locked before it has the name by which others look for it.
        new = self._path.with_suffix(".new")
        self._lock = new.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        new.rename(self._path.with_suffix(".lock"))
        return self

    def __exit__(self, *_: object) -> None:
        for path in (self._path.with_suffix(".lock"), self._path):
            path.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()

    def reload_begins(self) -> None:
        """Tell who asked that it was heard."""
        self._begun += 1
        self._write("")

    def reload_ends(self, trouble: str = "") -> None:
        """Tell who asked how it went."""
        self._ended = self._begun
        self._write(trouble)

    def _write(self, trouble: str) -> None:
        said = {"pid": os.getpid(), "namespace": _pid_namespace(), "address": self._address}
        said |= {"begun": self._begun, "ended": self._ended, "trouble": trouble}
        partial = self._path.with_suffix(".partial")
        # A full disk, or a directory that somebody removed, is no reason to stop serving.
        with contextlib.suppress(OSError):
            partial.write_text(json.dumps(said))
            partial.replace(self._path)


def running_servers(data_dir: Path) -> list[RunningServer]:
    """The servers that run on a data directory. Clears away what killed ones left. Raises OSError where it may not look."""
    return list(_found(data_dir / _DIRECTORY))


def _found(directory: Path) -> Iterator[RunningServer]:
    for path in sorted(directory.glob("*.lock")):
        entry = path.with_suffix("")
        try:
            with path.open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
                entry.unlink(missing_ok=True)
        except BlockingIOError:
            with contextlib.suppress(FileNotFoundError, ValueError):  # it ends just now
                said = json.loads(entry.read_text())
                pid = said["pid"] if said["namespace"] == _pid_namespace() else None
                yield RunningServer(entry.name, pid, said["address"], said["begun"], said["ended"], said["trouble"])
        except FileNotFoundError:
            continue


def _pid_namespace() -> int:
    """What tells one container's process ids from another's; 0 where there are no such things."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0
