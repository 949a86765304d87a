"""The directory in which a running server keeps its sockets; also clears away those of servers that were killed."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

__all__ = ["runtime_dir"]


@contextlib.contextmanager
def runtime_dir() -> Generator[Path]:
    """A directory of mode 0700 for sockets, with a path as short as theirs must be; gone afterwards.

    Also clears away those of servers that were killed: whose lock nobody holds any more.
    """
    for left in Path(tempfile.gettempdir()).glob("coatcheck-*/lock"):
        with contextlib.suppress(OSError), left.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if left.stat().st_uid == os.getuid():
                shutil.rmtree(left.parent, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix="coatcheck-"))
    try:
        # Locked before it has the name by which others look for it.
        with (path / "lock.new").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (path / "lock.new").rename(path / "lock")
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
