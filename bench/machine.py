"""What a figure was measured on, without which it means nothing; and what has to be there to measure it."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

__all__ = ["POSTGRES", "REDIS", "ROOT", "describe", "need"]

ROOT = Path(__file__).parents[1]
REDIS = "redis-server=redis-server"
POSTGRES = "postgresql=/usr/lib/postgresql/*/bin/postgres"

_PACKAGES = ("coatcheck", "starlette", "itsdangerous", "msgspec", "apsw", "joserfc", "pyjwt", "cryptography")


def describe() -> dict[str, str]:
    """Give processor, system, Python and versions, as lines for a table or JSON."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()} ({platform.python_compiler()})",
        "versions": ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
        "load": f"{load} (1, 5 and 15 minutes, before the run)",
        "flags": "assertions off" if sys.flags.optimize else "none",
    }


def need(*packages: str) -> None:
    """Have these Debian packages, as scripts/need-debian takes them. Raises subprocess.CalledProcessError when they cannot be had."""
    subprocess.run([ROOT / "scripts" / "need-debian", *packages], check=True)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
