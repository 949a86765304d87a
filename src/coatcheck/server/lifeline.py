"""What ties a child process to its supervisor: neither outlives the other unnoticed. Leaves starting to `processes`.

On Linux the kernel ends children whose parent died. Everywhere, a worker holds one end of a socket pair: it writes a
byte when it is ready, and reads an end-of-file when its supervisor is gone.
"""

import ctypes
import signal
import sys
from typing import Any

__all__ = ["NOTICE", "READY", "TELL_LIVE", "die_with_parent"]

READY = b"r"
TELL_LIVE = signal.SIGUSR1
"""Has a worker that is ready close its live connections, and go on answering requests."""
NOTICE = 1.5
"""Seconds between a worker's saying that it leaves and its leaving; the edge asks every half second."""
_PR_SET_PDEATHSIG = 1
# Looked up once, before any fork: between fork and exec nothing may take a lock.
_prctl: Any = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies. Runs between fork and exec; does nothing but on Linux."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
