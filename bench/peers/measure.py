"""`python -m bench.peers.measure`, in the environment of this folder: times all contenders in one interleaved run, writes JSON.

Leaves what is made of the times to `bench.comparison`, which starts it with the servers' addresses.
"""

import argparse
import asyncio
import gc
import json
import logging
import sys
import tempfile
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.peers.contenders import Contender, contenders
from bench.rounds import measure, sizes

ITEMS = {
    "anonymous request": ("/anonymous", 200, 1.0),
    "logged-in read of two keys": ("/read", 200, 1.0),
    "logged-in write of one key": ("/write", 20, 0.4),
    "login, without hashing a password": ("/login", 20, 0.4),
    "login and logout": ("/login /logout", 20, 0.4),
}
"""Item to the path, the most requests in a round, and which part of the rounds."""
BLOCK = 0.0012
"""Seconds that each contender has in a round."""
PACKAGES = (
    "django",
    "flask",
    "flask-session",
    "itsdangerous",
    "litestar",
    "pyjwt",
    "redis",
    "starlette",
    "starsessions",
)


def cookie_in(headers: Any) -> list[tuple[bytes, bytes]]:
    """What a client sends next, by what an answer's Set-Cookie said; for ASGI's headers and WSGI's."""
    for name, value in headers:
        if name.lower() in (b"set-cookie", "set-cookie"):
            line = value if isinstance(value, bytes) else value.encode()
            return [(b"cookie", line.partition(b";")[0])]
    return []


async def cookie_of(contender: Contender) -> list[tuple[bytes, bytes]]:
    """Log in, and give the headers of the credential; raises RuntimeError where it is worth nothing."""
    if contender.bearer is not None:
        headers = [(b"authorization", b"Bearer " + contender.bearer.encode())]
    else:
        _, answered = await contender.call("/login", [])
        headers = cookie_in(answered)
        if not headers:
            raise RuntimeError(f"{contender.name}: a login set no cookie")
    status, _ = await contender.call("/read", headers)
    if status != 200:
        raise RuntimeError(f"{contender.name}: the session is worth nothing, {status}")
    return headers


def block(contender: Contender, paths: str, headers: list[tuple[bytes, bytes]]) -> Callable[[int], Awaitable[None]]:
    """So many of what the item asks for."""
    call = contender.call
    if paths == "/login /logout":

        async def both(size: int) -> None:
            for _ in range(size):
                _, answered = await call("/login", [])
                await call("/logout", cookie_in(answered))

        return both
    sent = [] if paths in ("/anonymous", "/login") else headers

    async def one(size: int) -> None:
        for _ in range(size):
            await call(paths, sent)

    return one


async def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with contenders(Path(directory), options.redis, options.postgres) as found:
            credentials = {each.name: [] if each.bare is None else await cookie_of(each) for each in found}
            results: dict[str, dict[str, list[float]]] = {}
            for item, (paths, size, pace) in ITEMS.items():
                print(f"  … {item}", file=sys.stderr, flush=True)
                blocks = {
                    each.name: block(each, paths, credentials[each.name])
                    for each in found
                    # By a token nobody writes, logs in or out.
                    if each.bearer is None or paths in ("/anonymous", "/read")
                }
                gc.collect()
                gc.freeze()
                gc.disable()
                results[item] = await measure(
                    blocks,
                    rounds=max(10, int(options.rounds * pace)),
                    size=await sizes(blocks, seconds=BLOCK, most=size),
                    seed=options.seed,
                )
                gc.enable()
                gc.unfreeze()
            about = {"versions": {name: version(name) for name in PACKAGES}}
            bares = {each.name: each.bare for each in found}
    Path(options.json).write_text(json.dumps({"about": about, "bares": bares, "samples": results}))


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser()
    parser.add_argument("--redis", required=True)
    parser.add_argument("--postgres", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", required=True)
    asyncio.run(main(parser.parse_args()))
