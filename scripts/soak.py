"""Load with faults in random order, on the server and on every store, for as long as told: `make soak SECONDS=3600`.

One round after the other: `coatcheck serve` through its edge, whose workers and edge are killed, stopped and replaced; or
three nodes on one store, to which everything is done that tests/history/stage.py knows. Prints what each fault cost and what
the histories show; fails if anything was lost that no documented setting allows, anything ended was accepted beyond its
bound, or a request failed without an excuse. Everything is on loopback and in temporary directories.

    python scripts/soak.py [SECONDS] [--seed N] [--round SECONDS] [--only server,redis,…]
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.clients.postgres_server import make_template
from tests.clients.storm import FAULTS, calm, storm, suffer
from tests.history.stage import STORES, faults_of, under_load

SERVER = "server"
MOST_SHOWN = 20
CALM = (0.5, 3.0)
AWAY = (1.5, 1.5, 1.5, 10.0)
"""For how long a store is kept away, one of these each round."""


async def on_server(directory: Path, seed: int, until: float) -> list[str]:
    """A round of the whole server; give what is wrong."""
    order = random.Random(seed)  # noqa: S311 - to be repeatable
    async with storm(directory, seed=seed) as found:
        await calm(2)
        while time.monotonic() < until:
            fault = order.choice(FAULTS)
            try:
                await suffer(found, [fault], order.uniform(*CALM))
            except AssertionError as error:
                return [f"{fault}: {error}"]
            say(fault, len(found.faults), len(found.history))
    print(found.summary(), flush=True)
    return found.wrong()


async def on_store(name: str, directory: Path, template: Path, seed: int, until: float) -> list[str]:
    """A round of nodes on one store; give what is wrong."""
    order = random.Random(seed)  # noqa: S311 - to be repeatable
    store = STORES[name](template)
    async with under_load(store, directory, seed=seed, away=order.choice(AWAY)) as stage:
        await calm(1)
        while time.monotonic() < until:
            fault = order.choice(list(faults_of(store)))
            try:
                await stage.suffer(fault)
            except (AssertionError, TimeoutError) as error:
                return [f"{fault}: there was no service afterwards: {error!r}"]
            await calm(order.uniform(*CALM))
            say(fault, len(stage.faults), len(stage.history))
    print(stage.report(), flush=True)
    return stage.verdict().wrong


def say(fault: str, faults: int, requests: int) -> None:
    print(f"{time.monotonic() - BEGAN:7.0f} s, {faults} faults, {requests} requests: {fault}", flush=True)


def soak(home: Path, options: argparse.Namespace) -> int:
    seeds = random.Random(options.seed)  # noqa: S311 - to be repeatable
    names = options.only.split(",") if options.only else [SERVER, *STORES]
    template = make_template(home)
    end = BEGAN + options.seconds
    wrong: list[str] = []
    waiting: list[str] = []
    while time.monotonic() < end:
        waiting = waiting or seeds.sample(names, len(names))
        name, seed = waiting.pop(), seeds.randrange(2**32)
        until = min(end, time.monotonic() + options.round)
        print(f"== {name}, seed {seed}", flush=True)
        with tempfile.TemporaryDirectory(prefix="soak-") as directory:
            place = Path(directory)
            run = on_server(place, seed, until) if name == SERVER else on_store(name, place, template, seed, until)
            found = asyncio.run(run)
            if found and name == SERVER:
                print("\n".join(["the server's last words:", *(place / "output.txt").read_text().splitlines()[-30:]]))
        for each in found[:MOST_SHOWN]:
            print(each)
        wrong += found
    print(f"{len(wrong)} things are wrong; seed {options.seed}" if wrong else f"nothing is wrong; seed {options.seed}")
    return 1 if wrong else 0


BEGAN = time.monotonic()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", nargs="?", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--round", type=float, default=60.0, help="seconds on the server or on one store at a time")
    parser.add_argument("--only", default="", help=f"some of {', '.join([SERVER, *STORES])}")
    options = parser.parse_args()
    if unknown := set(filter(None, options.only.split(","))) - {SERVER, *STORES}:
        parser.error(f"--only knows no {', '.join(sorted(unknown))}: it knows {', '.join([SERVER, *STORES])}")
    with tempfile.TemporaryDirectory(prefix="soak-") as home:
        return soak(Path(home), options)


if __name__ == "__main__":
    sys.exit(main())
