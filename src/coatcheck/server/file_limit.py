"""Open files: every connection is one, two at the edge, and many systems let a process have 1024 unless it asks for more."""

import contextlib
import resource

__all__ = ["raise_file_limit"]


def raise_file_limit() -> int:
    """Let this process, and those it starts, have as many open files as the system allows; give that number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS allows less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft
