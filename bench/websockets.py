"""Idle WebSockets on one worker: what each takes, and how soon all of a user's are closed by one end. Needs the tests' client."""

import asyncio
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

__all__ = ["MOST_BYTES", "MOST_SECONDS", "MOST_SINGLE", "measure", "misses", "run", "table"]

MOST_BYTES, MOST_SECONDS, MOST_SINGLE = 32 * 1024, 1.0, 0.020
PER_SESSION = 100
SINGLES = 200


async def run(*, sizes: tuple[int, ...], tell: Callable[[str], None]) -> list[dict[str, float]]:
    """Give a row for each number of WebSockets."""
    from tests.clients.idle_websockets import LIVE
    from tests.clients.serving import start_server

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rows: list[dict[str, float]] = []
    for size in sizes:
        tell(f"{size} WebSockets")
        with tempfile.TemporaryDirectory(prefix="coatcheck-bench-") as directory:
            server = start_server(Path(directory), "--no-edge", "--workers", "1", app=LIVE)
            try:
                rows.append(await measure(server, size))
            finally:
                server.stop()
    return rows


async def measure(server: Any, size: int) -> dict[str, float]:
    """Open so many, end some one by one and then the rest together; give the row. All are gone when it returns."""
    from tests.clients.idle_websockets import Idle, log_in

    async with httpx.AsyncClient(base_url=server.http, timeout=60) as client:
        cookies = [await log_in(client, "many") for _ in range(size // PER_SESSION)]
        first = await Idle.open(server, cookies[0])
        before = (await client.get("/live")).json()["resident"]
        many = [first]
        for cookie in cookies:
            many += await asyncio.gather(*(Idle.open(server, cookie) for _ in range(PER_SESSION)))
        live = (await client.get("/live")).json()
        if live["live"] != size + 1:
            raise RuntimeError(f"{live['live']} of {size + 1} WebSockets are open")
        singles: list[float] = []
        for number in range(SINGLES):
            cookie = await log_in(client, f"single-{number}")
            single = await Idle.open(server, cookie)
            began = time.perf_counter()
            ending = asyncio.ensure_future(client.post("/end_user", params={"user": f"single-{number}"}))
            singles.append(await single.closed - began)
            await ending
        began = time.perf_counter()
        ending = asyncio.ensure_future(client.post("/end_user", params={"user": "many"}))
        last = max(await asyncio.gather(*(each.closed for each in many))) - began
        await ending
        async with asyncio.timeout(10):
            while (await client.get("/live")).json()["live"]:
                await asyncio.sleep(0.05)
        return {
            "open": size,
            "bytes_each": (live["resident"] - before) / size,
            "one_p50": statistics.median(singles),
            "one_p99": statistics.quantiles(singles, n=100)[98],
            "all": last,
        }


def misses(rows: list[dict[str, float]]) -> list[str]:
    """Give each target that is not met with the most WebSockets."""
    last = rows[-1]
    found: list[str] = []
    if last["bytes_each"] > MOST_BYTES:
        found.append(f"an idle WebSocket takes {last['bytes_each'] / 1024:.1f} KiB, and the target is 32")
    if last["all"] > MOST_SECONDS:
        found.append(f"{last['open']:.0f} WebSockets are closed in {last['all']:.2f} s, and the target is 1")
    if last["one_p99"] > MOST_SINGLE:
        found.append(f"one of them is closed in {last['one_p99'] * 1e3:.1f} ms, 99 times of 100, and the target is 20")
    return found


def table(rows: list[dict[str, float]]) -> str:
    """Give it in Markdown."""
    lines = [
        "### Idle WebSockets on one worker",
        "",
        "| open | memory of each | one is closed, p50 | p99 | all of the user's are closed |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['open']:,.0f} | {row['bytes_each'] / 1024:.1f} KiB | {row['one_p50'] * 1e3:.1f} ms | "
        f"{row['one_p99'] * 1e3:.1f} ms | {row['all']:.2f} s |"
        for row in rows
    ]
    lines += [
        "",
        "From the request that ends the session or the user to the close frame at the client, in other processes.",
        "",
    ]
    return "\n".join(lines)
