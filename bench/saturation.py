"""`python -m bench.saturation`: what each node costs the store's server, and what that comes to with a thousand of them.

Real stores listen in another process, one of them changes sessions here, and what is counted is the processor time of the
server alone, so others' load on the machine matters little. Between changes only the nodes' probes keep the server busy:
that is the idle cost. Both are fitted to straight lines over the number of nodes (for NOTIFY, whose probes wake every node,
the idle cost to a parabola), and the lines are continued. Leaves what to do about it to docs/scale.md.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from bench import machine
from coatcheck.record import Changes, SessionRecord
from coatcheck.stores import open_store
from coatcheck.stores.contract import Store
from coatcheck.stores.postgres import PostgresStore
from tests.clients.postgres_server import PostgresServer, make_template
from tests.clients.redis_server import RedisServer

NODES = (1, 5, 10, 25, 50)
CONTINUED = (10, 50, 100, 300, 1000)
IDLE_SECONDS = 4.0
CHANGES = 1000
ROUNDS = 3
STEPS = 5000
CALLERS = 100


def processor_seconds(pids: Sequence[int]) -> float:
    """What these processes have used (Linux, nanoseconds by thread; ticks of 10 ms would be too coarse)."""
    total = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                total += int(thread.read_text().split()[0])
            except OSError:
                continue  # it has just ended
    return total * 1e-9


async def listen(url: str, count: int) -> None:
    """Be so many nodes, until standard input ends."""
    stores = [open_store(url) for _ in range(count)]
    for store in stores:
        await store.start()
    streams = [store.changes() for store in stores]

    async def follow(number: int) -> None:
        while True:
            await streams[number].wait()
            streams[number].poll(lambda change: None)

    following = [asyncio.ensure_future(follow(number)) for number in range(count)]
    print("ready", flush=True)
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, over.set)
    await over.wait()
    for task in following:
        task.cancel()
    for store in stores:
        await store.close()


async def measure(url: str, pids: Callable[[], list[int]], nodes: int) -> tuple[float, float]:
    """Give the server's seconds of processor time per second of doing nothing, and per change beside that."""
    child = None
    if nodes > 1:
        command = [sys.executable, "-m", "bench.saturation", "--listen", url, str(nodes - 1)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert await asyncio.to_thread(child.stdout.readline)
    store: Store = open_store(url)
    await store.start()
    stream = store.changes()
    try:
        await asyncio.sleep(0.5)
        ids = [f"{random.getrandbits(128):022x}"[:22] for _ in range(20)]
        for session_id in ids:
            await store.create(_record(session_id))
            await store.apply(session_id, Changes(set={"n": b"\x00"}))
        idle, seconds = await _used(pids, asyncio.sleep(IDLE_SECONDS))
        at_rest = idle / seconds

        async def change() -> None:
            for number in range(CHANGES):
                await store.apply(ids[number % 20], Changes(set={"n": b"\xcd" + number.to_bytes(2, "big")}))
                stream.poll(lambda change: None)

        used, seconds = await _used(pids, change())
        return at_rest, (used - at_rest * seconds) / CHANGES
    finally:
        await store.close()
        if child is not None:
            assert child.stdin is not None
            child.stdin.close()
            child.wait(20)


async def _used(pids: Callable[[], list[int]], work: Awaitable[object]) -> tuple[float, float]:
    before, began = processor_seconds(pids()), time.monotonic()
    await work
    return processor_seconds(pids()) - before, time.monotonic() - began


def _record(session_id: str) -> SessionRecord:
    now = time.time()
    values = {name: bytes(20) for name in ("a", "b", "c", "d")}
    return SessionRecord(
        id=session_id,
        secret_hash=os.urandom(32),
        created_at=now,
        expires_at=now + 86400,
        last_seen_at=now,
        values=values,
    )


async def steps(url: str, pids: Callable[[], list[int]]) -> dict[str, tuple[float, float]]:
    """Give, for each step, how many a second one process gets done, and the server's processor seconds for one."""
    store: Store = open_store(url)
    await store.start()
    ids = [f"{random.getrandbits(128):022x}"[:22] for _ in range(STEPS)]
    work: dict[str, Callable[[str], Awaitable[object]]] = {
        "create": lambda session_id: store.create(_record(session_id)),
        "read, not cached": store.read,
        "change": lambda session_id: store.apply(session_id, Changes(set={"n": b"\x01"})),
        "end": lambda session_id: store.end([session_id], reason="x", now=time.time()),
    }
    found: dict[str, tuple[float, float]] = {}
    try:
        for name, step in work.items():
            waiting = iter(ids)

            async def caller(waiting=waiting, step=step) -> None:
                for session_id in waiting:
                    await step(session_id)

            used, seconds = await _used(pids, asyncio.gather(*(caller() for _ in range(CALLERS))))
            found[name] = (STEPS / seconds, used / STEPS)
    finally:
        await store.close()
    return found


async def redis_memory(server: RedisServer) -> float:
    """Bytes that a session of five keys and a hundred bytes of a user of its own takes."""
    store = open_store(server.url)
    await store.start()

    def used() -> int:
        return int(server.cli("INFO", "memory").partition("used_memory:")[2].split()[0])

    try:
        before = await asyncio.to_thread(used)
        for first in range(0, STEPS, CALLERS):
            users = [f"user{number}" for number in range(first, first + CALLERS)]
            epochs = await asyncio.gather(*(store.epoch(user) for user in users))
            records = [
                msgspec.structs.replace(_record(f"{random.getrandbits(128):022x}"[:22]), user_id=user, epoch=epoch)
                for user, epoch in zip(users, epochs, strict=True)
            ]
            await asyncio.gather(*(store.create(record) for record in records))
        return (await asyncio.to_thread(used) - before) / STEPS
    finally:
        await store.close()


def show_steps(found: dict[str, tuple[float, float]]) -> None:
    print(f"\n| step, {CALLERS} callers in one process | a second | the server's time, µs |\n|---|---|---|")
    for name, (rate, cost) in found.items():
        print(f"| {name} | {rate:,.0f} | {cost * 1e6:.0f} |")


def fit(points: Sequence[tuple[float, float]], powers: Sequence[int]) -> list[float]:
    """Least squares by one or two powers, each square weighed by what was measured: relative errors count."""
    weighed = [(x, y, 1.0 / max(y, 1e-9) ** 2) for x, y in points]
    first, second = powers
    a = sum(w * x ** (2 * first) for x, _, w in weighed)
    b = sum(w * x ** (first + second) for x, _, w in weighed)
    c = sum(w * x ** (2 * second) for x, _, w in weighed)
    d = sum(w * y * x**first for x, y, w in weighed)
    e = sum(w * y * x**second for x, y, w in weighed)
    determinant = a * c - b * b
    return [(d * c - e * b) / determinant, (a * e - b * d) / determinant]


def medians(found: dict[int, list[tuple[float, float]]]) -> list[tuple[int, float, float]]:
    return [
        (nodes, statistics.median(each[0] for each in pairs), statistics.median(each[1] for each in pairs))
        for nodes, pairs in sorted(found.items())
    ]


async def rounds(
    url: str, pids: Callable[[], list[int]], options: argparse.Namespace
) -> list[tuple[int, float, float]]:
    found: dict[int, list[tuple[float, float]]] = {nodes: [] for nodes in NODES}
    order = random.Random(options.seed)
    for _ in range(1 if options.quick else ROUNDS):
        for nodes in order.sample(NODES, len(NODES)):
            found[nodes].append(await measure(url, pids, nodes))
    return medians(found)


def show(name: str, rows: list[tuple[int, float, float]], idle_powers: Sequence[int]) -> dict[str, object]:
    """Print what was measured and what it comes to; give it for JSON."""
    print(f"\n{name}\n\n| nodes | idle, % of a core | a change, µs |\n|---|---|---|")
    for nodes, idle, change in rows:
        print(f"| {nodes} | {idle * 100:.2f} | {change * 1e6:.0f} |")
    idle = fit([(nodes, at_rest) for nodes, at_rest, _ in rows], idle_powers)
    change = fit([(nodes, cost) for nodes, _, cost in rows], (0, 1))
    shape = " + ".join(f"{value * 1e6:.1f}·n^{power}" for value, power in zip(idle, idle_powers, strict=True))
    print(f"\nidle: {shape} µs a second; a change: {change[0] * 1e6:.0f} + {change[1] * 1e6:.1f}·n µs\n")
    print(
        "| nodes | idle, % of a core | a change, ms | changes a second in what is left of one core |\n|---|---|---|---|"
    )
    for nodes in CONTINUED:
        at_rest = sum(value * nodes**power for value, power in zip(idle, idle_powers, strict=True))
        cost = change[0] + change[1] * nodes
        left = f"{(1 - at_rest) / cost:,.0f}" if at_rest < 1 else "none"
        print(f"| {nodes} | {at_rest * 100:.1f} | {cost * 1e3:.2f} | {left} |")
    return {"measured": rows, "idle": dict(zip(map(str, idle_powers), idle, strict=True)), "change": change}


async def main(options: argparse.Namespace) -> None:
    result: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **machine.describe()}
    for name, value in result.items():
        print(f"{name}: {value}")
    if "redis" in options.only:
        machine.need(machine.REDIS)
        with RedisServer() as redis:
            rows = await rounds(redis.url, lambda: [redis.pid], options)
            result["redis"] = show("Redis, client tracking", rows, (0, 1))
            result["redis steps"] = await steps(redis.url, lambda: [redis.pid])
            show_steps(result["redis steps"])
            redis.cli("FLUSHALL")
            result["redis bytes"] = await redis_memory(redis)
            print(f"\n{result['redis bytes']:.0f} bytes a session and user")
    if "postgresql" in options.only:
        machine.need(machine.POSTGRES)
        with tempfile.TemporaryDirectory() as home:
            postgres = PostgresServer(make_template(Path(home)), max_connections="400")
            try:
                url = postgres.url(pool_size=2)
                await PostgresStore(url).migrate()
                rows = await rounds(url, lambda: [postgres.pid, *postgres.backends()], options)
                result["postgresql"] = show("PostgreSQL, NOTIFY", rows, (1, 2))
                result["postgresql steps"] = await steps(
                    postgres.url(pool_size=10), lambda: [postgres.pid, *postgres.backends()]
                )
                show_steps(result["postgresql steps"])
            finally:
                postgres.close()
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.saturation", description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="one round instead of three")
    parser.add_argument("--only", default="redis,postgresql", help="one of the two")
    parser.add_argument("--seed", type=int, default=1, help="of the rounds' random order (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--listen", nargs=2, metavar=("URL", "COUNT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.listen:
        asyncio.run(listen(given.listen[0], int(given.listen[1])))
    else:
        asyncio.run(main(given))
