"""Puts measured figures where documents quote them: `<!-- =NAME -->4.2 µs<!-- / -->` in Markdown, which shows the figure alone.

Pure but for `requote_files`; nothing between such marks is typed by hand.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import in_process, servers, tokens

__all__ = ["DOCUMENTS", "quotes", "requote", "requote_files"]

DOCUMENTS = ("README.md", "README.ja.md", "docs/http-connections.md", "docs/http-connections.ja.md")
_MARKED = re.compile(r"<!-- =([a-z0-9.-]+) -->.*?<!-- / -->")
_SERVED = {
    "served.cookie": "uvicorn, Starlette's signed cookie",
    "served.sqlite": "uvicorn, Coatcheck on SQLite",
    "served.redis": "uvicorn, Coatcheck on Redis",
    "served.starsessions": "uvicorn, starsessions on Redis",
    "served.litestar": "uvicorn, Litestar on Redis",
    "served.express": "Express, express-session on Redis",
    "served.h1": f"{servers.OURS}, HTTP/1.1",
    "served.h2": f"{servers.OURS}, HTTP/2",
    "served.h3": f"{servers.OURS}, HTTP/3",
}


def quotes(results: Mapping[str, Any]) -> dict[str, str]:
    """Give each figure that documents may quote, by its name, as it is written."""
    items = {item["item"]: item["contenders"] for item in results["items"]}
    read = items["logged-in read of two keys"]
    ours, theirs = read[in_process.SQLITE], read[in_process.STARLETTE]
    by_token = items[tokens.IN_REQUEST.name]
    found = {
        "read.ours": f"{ours['microseconds_over_bare']['median']:.1f} µs",
        "read.cookie": f"{theirs['microseconds_over_bare']['median']:.1f} µs",
        "read.share": f"{ours['share']['median']:.2f}",
        "read.low": f"{ours['share']['low']:.3f}",
        "read.high": f"{ours['share']['high']:.3f}",
        "bearer.ours": f"{by_token[tokens.BEARER]['microseconds_over_bare']['median']:.1f} µs",
        "bearer.pyjwt": f"{by_token[tokens.PYJWT_REQUEST]['microseconds_over_bare']['median']:.0f} µs",
    }
    for store, name in (("SQLite", "sqlite"), ("Redis", "redis"), ("PostgreSQL", "postgres")):
        found[f"end.{name}"] = f"{results['stores'][store]['revocation']['p99'] * 1e3:.2f} ms"
    found["end.cached"] = f"{results['stores']['cached_for_a_time']['p99']:.2f} s"
    for name, of in _SERVED.items():
        entry = results["servers"][of]
        whole = entry["processor_seconds"]["median"] + entry["store_seconds"]["median"]
        found[f"{name}.per-second"] = f"{entry['per_second']['median']:,.0f}"
        found[f"{name}.processor"] = f"{whole * 1e6:.0f} µs"
        found[f"{name}.p99"] = f"{entry['p99'] * 1e3:.1f} ms"
    return found


def requote(text: str, figures: Mapping[str, str]) -> str:
    """Give a document with its figures as they are now. Raises KeyError for one that is not measured."""
    return _MARKED.sub(lambda found: f"<!-- ={found[1]} -->{figures[found[1]]}<!-- / -->", text)


def requote_files(root: Path, results: Mapping[str, Any]) -> None:
    """Rewrite all documents that quote."""
    figures = quotes(results)
    for name in DOCUMENTS:
        file = root / name
        file.write_text(requote(file.read_text(), figures))
