"""`python -m bench.h3_load PORT CA COOKIE SECONDS (--rate N | --at-once N)`: load over HTTP/3, one QUIC connection, as JSON.

Leaves what it means to `servers`. An aioquic client in Python is slower than the server it asks: its own throughput is not the
server's, which is why the server's processor time is what is compared.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

__all__ = ["load"]


async def load(port: int, ca: Path, cookie: str, seconds: float, *, rate: float | None, at_once: int) -> dict[str, Any]:
    """Ask for `/read` at a rate, or so many at once; give the seconds that each took, and how long all of it did."""
    from tests.clients.h3 import connect_h3

    took: list[float] = []
    async with connect_h3(port, ca) as client:

        async def ask() -> None:
            began = time.perf_counter()
            answer = await client.request("GET", "/read", [("cookie", cookie)])
            took.append(time.perf_counter() - began)
            if answer.status != 200:
                raise RuntimeError(f"/read was answered with {answer.status}")

        async def ask_on(until: float) -> None:
            while time.perf_counter() < until:
                await ask()

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            if rate is None:
                for _ in range(at_once):
                    group.create_task(ask_on(began + seconds))
            else:
                for number in range(int(rate * seconds)):
                    await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
                    group.create_task(ask())
        return {"seconds": time.perf_counter() - began, "took": took}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("ca", type=Path)
    parser.add_argument("cookie")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--at-once", type=int, default=16)
    given = parser.parse_args()
    print(
        json.dumps(
            asyncio.run(load(given.port, given.ca, given.cookie, given.seconds, rate=given.rate, at_once=given.at_once))
        )
    )
