"""What each store does: from an end on one node to its refusal on another, cold reads, creations, and how both grow with what is stored.

Nodes are processes; Redis and PostgreSQL are Debian's on loopback, and write to the disk as they come but for what is said. Leaves the cost
of warm requests to `in_process` and `comparison`.
"""

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from bench import machine
from bench.comparison import POSTGRES
from coatcheck import Sessions
from coatcheck.record import Changes, SessionRecord, decode_record, encode_record
from coatcheck.stores import open_store
from coatcheck.stores.contract import Store
from coatcheck.stores.postgres import PostgresStore

__all__ = ["STORES", "TARGETS", "misses", "run", "table"]

TARGETS = {"SQLite": 0.002, "Redis": 0.002, "PostgreSQL": 0.010}
"""From the end's return on one node to the refusal on another: seconds, for 99 of 100."""
MOST_GROWTH = 1.5
CREATIONS = 5000
"""On SQLite, durable, with concurrent callers: so many a second at least."""
BYTES_CACHED = 1024
CALLERS = 100
TTL = 1.0
"""Seconds for which a cache remembers that is compared with the feed: shorter than most are told to."""
READS = 2000
PACKAGES = {"Redis": machine.REDIS, "PostgreSQL": machine.POSTGRES}


@asynccontextmanager
async def urls(only: tuple[str, ...]) -> AsyncIterator[dict[str, str]]:
    """Start what is needed, and give each store's address."""
    # The tests' own servers: real ones, in directories of their own.
    from tests.clients.postgres_server import PostgresServer, make_template
    from tests.clients.redis_server import RedisServer

    machine.need(*(package for store, package in PACKAGES.items() if store in only))
    with tempfile.TemporaryDirectory(prefix="coatcheck-bench-", dir=os.environ.get("BENCH_DIR")) as directory:
        found = {"SQLite": f"sqlite:///{directory}/sessions.sqlite3"}
        exits = ExitStack()
        redis = exits.enter_context(RedisServer()) if "Redis" in only else None
        postgres = PostgresServer(make_template(Path(directory)), **POSTGRES) if "PostgreSQL" in only else None
        try:
            if redis is not None:
                found["Redis"] = redis.url
            if postgres is not None:
                found["PostgreSQL"] = postgres.url()
                store = PostgresStore(postgres.url())
                await store.migrate()
                await store.close()
            yield {name: found[name] for name in only}
        finally:
            if postgres is not None:
                postgres.close()
            exits.close()


STORES = ("SQLite", "Redis", "PostgreSQL")


async def run(*, quick: bool, most: int, tell: Callable[[str], None], only: tuple[str, ...] = STORES) -> dict[str, Any]:
    """Give the figures of each store. `most` is how many sessions are stored in the end."""
    results: dict[str, Any] = {}
    async with urls(only) as found:
        for name, url in found.items():
            tell(f"{name}: from an end to its refusal elsewhere")
            entry: dict[str, Any] = {"revocation": await revocation(url, 100 if quick else 500)}
            tell(f"{name}: creations and cold reads")
            entry["scale"] = await scale(url, most)
            results[name] = entry
        if "Redis" in found:
            tell("a cache with a time to live, beside that")
            results["cached_for_a_time"] = {"seconds": TTL} | await revocation(
                found["Redis"], 5 if quick else 30, ttl=TTL
            )
    tell("memory of cached sessions")
    results["memory"] = {"bytes_cached": cached_bytes(20_000 if quick else 50_000)}
    return results


# ---- from an end on one node to its refusal on another


async def revocation(url: str, times: int, *, ttl: float = 0.0) -> dict[str, float]:
    """Give the seconds from the return of `end` here until another process refuses the session, and closes what it had open.

    With `ttl` the other process is one that remembers for so many seconds what its store has said, as caches of sessions, of
    token introspection and of an authorising proxy's answers do.
    """
    command = [sys.executable, "-m", "bench.stores", "--node", url, str(ttl)]
    node = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert node.stdin is not None and node.stdout is not None
    told = node.stdout
    refused: list[float] = []
    closed: list[float] = []
    try:
        async with Sessions(url, max_per_user=None) as sessions:
            for _ in range(times):
                session = await sessions.load(None)
                await session.log_in("user123")
                assert session.id is not None and session.cookie_change is not None
                node.stdin.write(f"{session.cookie_change.token}\n")
                node.stdin.flush()
                answer = await asyncio.to_thread(told.readline)
                if answer != "open\n":
                    raise RuntimeError(f"the other node said {answer!r}")
                await asyncio.sleep(random.uniform(0, ttl or 0.005))
                waiting = asyncio.ensure_future(asyncio.to_thread(told.readline))
                await asyncio.sleep(0)
                await sessions.end(session.id)
                ended = time.monotonic()
                for taken, at in zip((refused, closed), (await waiting).split(), strict=True):
                    taken.append(max(0.0, float(at) - ended))
    finally:
        node.stdin.close()
        node.wait(20)
    return {
        "p50": statistics.median(refused),
        "p99": statistics.quantiles(refused, n=100)[98],
        "close_p50": statistics.median(closed),
        "close_p99": statistics.quantiles(closed, n=100)[98],
        "times": float(times),
    }


async def be_a_node(url: str, ttl: float) -> None:
    """Open a live connection for each session that standard input names, and tell when it is closed and refused."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    store = open_store(url)
    remembered: dict[str, tuple[float, bool]] = {}
    async with Sessions(url, max_per_user=None) as sessions:
        if ttl:
            await store.start()

        async def accepted(token: bytes) -> bool:
            if not ttl:
                return (await sessions.load(token)).user_id is not None
            session_id = token[:22].decode()
            at, found = remembered.get(session_id, (float("-inf"), False))
            if time.monotonic() - at >= ttl:
                found = isinstance(await store.read(session_id), SessionRecord)
                remembered[session_id] = time.monotonic(), found
            return found

        while line := await lines.readline():
            token = line.strip()
            session = await sessions.load(token)
            assert session.record is not None and await accepted(token)
            closed = loop.create_future()
            sessions.watch(
                session.record, kind="websocket", close=lambda _, done=closed: done.set_result(time.monotonic())
            )
            print("open", flush=True)
            # When the first check began that was refused: what it took to be looked up is no longer an acceptance.
            at = time.monotonic()
            while await accepted(token):
                await asyncio.sleep(0)
                at = time.monotonic()
            print(at, await closed, flush=True)
        if ttl:
            await store.close()


# ---- how it grows


async def scale(url: str, most: int) -> list[dict[str, float]]:
    """Store ten thousand sessions, then ten times as many up to `most`: creations a second, and the time of one cold read.

    Of sessions that nobody has read yet, and of the same ones once more, when the store has their pages at hand.
    """
    store = open_store(url)
    await store.start()
    rows: list[dict[str, float]] = []
    ids: list[str] = []
    draw = random.Random(1)
    try:
        size = 10_000
        while size <= most:
            began = time.monotonic()
            count = size - len(ids)
            ids += await _create(store, count, draw)
            created = count / (time.monotonic() - began)
            some = draw.sample(ids, READS)
            first, again = await _reads(store, some), await _reads(store, some)
            rows.append(
                {
                    "stored": size,
                    "creations_per_second": created,
                    "first_read_seconds": first,
                    "cold_read_seconds": again,
                }
            )
            size *= 10
        began = time.monotonic()
        changed = draw.sample(ids, 5000)

        async def change(number: int) -> None:
            for session_id in changed[number::CALLERS]:
                await store.apply(session_id, Changes(set={"visits": b"\x01"}))

        await asyncio.gather(*(change(number) for number in range(CALLERS)))
        rows[-1]["changes_per_second"] = len(changed) / (time.monotonic() - began)
    finally:
        await store.close()
    return rows


async def _reads(store: Store, ids: list[str]) -> float:
    """Give the median of the seconds that reading each takes, of which this node has no copy."""
    took: list[float] = []
    for session_id in ids:
        at = time.perf_counter()
        if await store.read(session_id) is None:
            raise RuntimeError("a session is not there")
        took.append(time.perf_counter() - at)
    return statistics.median(took)


async def _create(store: Store, count: int, draw: random.Random) -> list[str]:
    ids = [f"{draw.getrandbits(126):021x}"[:21].rjust(22, "A") for _ in range(count)]

    async def create(number: int) -> None:
        for session_id in ids[number::CALLERS]:
            await store.create(record(session_id))

    await asyncio.gather(*(create(number) for number in range(CALLERS)))
    return ids


def record(session_id: str, user_id: str | None = None) -> SessionRecord:
    """A session of five keys in about a hundred bytes. One that is somebody's cannot be stored without an epoch."""
    now = time.time()
    values = {"user": "user123", "theme": "dark", "locale": "en-GB", "cart": ["apple", "pear", "plum"], "visits": 12}
    return SessionRecord(
        id=session_id,
        secret_hash=os.urandom(32),
        created_at=now,
        last_seen_at=now,
        expires_at=now + 30 * 86_400,
        user_id=user_id,
        authenticated_at=None if user_id is None else now,
        values={key: msgspec.msgpack.encode(value) for key, value in values.items()},
    )


def cached_bytes(count: int) -> float:
    """Give what a cached session takes that was read from a store, each of another user, its places in both indexes included."""
    import gc
    import tracemalloc

    from coatcheck.cache import NearCache
    from coatcheck.clock import SystemClock

    gc.collect()
    tracemalloc.start()
    cache = NearCache(max_entries=count, max_bytes=1 << 40, max_staleness=2.0, clock=SystemClock())
    cache.lease_until = float("inf")
    before = tracemalloc.get_traced_memory()[0]
    for number in range(count):
        session_id = f"{number:022d}"
        stored = encode_record(record(session_id, f"{number:022d}"))
        read = decode_record(stored, id=session_id, version=1, last_seen_at=time.time())
        cache.finish(session_id, cache.begin(session_id), read)
    each = (tracemalloc.get_traced_memory()[0] - before) / count
    tracemalloc.stop()
    if len(cache) != count:
        raise RuntimeError(f"{len(cache)} of {count} sessions were cached")
    return each


# ---- what comes of it


def misses(results: dict[str, Any]) -> list[str]:
    """Give each target that is not met."""
    found = [
        f"{name}: 99 of 100 ends are known elsewhere within {results[name]['revocation']['p99'] * 1e3:.2f} ms, "
        f"and the target is {target * 1e3:.0f} ms"
        for name, target in TARGETS.items()
        if name in results and results[name]["revocation"]["p99"] > target
    ]
    rows = results.get("SQLite", {"scale": ()})["scale"]
    created = max((row["creations_per_second"] for row in rows), default=CREATIONS)
    if created < CREATIONS:
        found.append(f"SQLite: {created:.0f} creations a second, and the target is {CREATIONS}")
    for name in filter(results.__contains__, TARGETS):
        reads = [row["cold_read_seconds"] for row in results[name]["scale"] if "cold_read_seconds" in row]
        if reads and reads[-1] > MOST_GROWTH * reads[0]:
            found.append(f"{name}: a cold read grows {reads[-1] / reads[0]:.2f}-fold, and the target is {MOST_GROWTH}")
    if results["memory"]["bytes_cached"] > BYTES_CACHED:
        found.append(
            f"a cached session takes {results['memory']['bytes_cached']:.0f} bytes, and the target is {BYTES_CACHED}"
        )
    return found


def table(results: dict[str, Any]) -> str:
    """Give it in Markdown."""
    lines = [
        "### From an end on one node to its refusal on another, and to the close of what was open there",
        "",
        "| store | refused, p50 | p99 | target | closed, p50 | p99 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, target in TARGETS.items():
        if name not in results:
            continue
        found = results[name]["revocation"]
        shown = [f"{found[each] * 1e3:.2f} ms" for each in ("p50", "p99", "close_p50", "close_p99")]
        lines.append(f"| {name} | {shown[0]} | {shown[1]} | {target * 1e3:.0f} ms | {shown[2]} | {shown[3]} |")
    if "cached_for_a_time" in results:
        found = results["cached_for_a_time"]
        shown = [f"{found[each] * 1e3:,.0f} ms" for each in ("p50", "p99")]
        lines.append(f"| a cache that remembers for {found['seconds']:g} s, on Redis | {shown[0]} | {shown[1]} | | | |")
    lines += [
        "",
        "0.00 ms: before the end had returned. "
        f"Between two processes, {max(results[name]['revocation']['times'] for name in TARGETS if name in results):.0f} times each.",
        "",
        "### What is stored, and what that costs",
        "",
        "| store | sessions stored | creations a second | a cold read | its pages at hand | changes a second |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in filter(results.__contains__, TARGETS):
        for row in results[name]["scale"]:
            changes = f"{row['changes_per_second']:,.0f}" if "changes_per_second" in row else ""
            lines.append(
                f"| {name} | {row['stored']:,.0f} | {row['creations_per_second']:,.0f} | "
                f"{_micros(row, 'first_read_seconds')} | {_micros(row, 'cold_read_seconds')} | {changes} |"
            )
    lines += [
        "",
        f"{CALLERS} concurrent callers in one process; SQLite and PostgreSQL have each on the disk before they answer, Redis "
        "keeps nothing on the disk here.",
        "",
        f"A cached session of five keys takes {results['memory']['bytes_cached']:,.0f} bytes, logged in, its places in both indexes included.",
        "",
    ]
    return "\n".join(lines)


def _micros(row: Mapping[str, float], key: str) -> str:
    return f"{row[key] * 1e6:,.0f} µs" if key in row else ""


if __name__ == "__main__":
    if sys.argv[1:2] != ["--node"]:
        print(json.dumps(asyncio.run(run(quick=True, most=10_000, tell=print)), indent=2))
    else:
        asyncio.run(be_a_node(sys.argv[2], float(sys.argv[3])))
