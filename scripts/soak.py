"""Steady load on a server, and every fault in random order, for as long as told: `make soak SECONDS=3600`.

Prints what each fault cost and what the history shows; fails if anything acknowledged was lost, anything ended was
accepted, or a request failed without an excuse. Everything is on loopback and in a temporary directory.

    python scripts/soak.py [SECONDS] [--seed N] [--actors N] [--calm SECONDS]
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.clients.storm import FAULTS, calm, storm, suffer

MOST_SHOWN = 20


async def soak(directory: Path, options: argparse.Namespace) -> int:
    order = random.Random(options.seed)  # noqa: S311 - to be repeatable
    began = time.monotonic()
    async with storm(directory, actors=options.actors, seed=options.seed) as found:
        await calm(options.calm)
        while time.monotonic() - began < options.seconds:
            fault = order.choice(FAULTS)
            try:
                await suffer(found, [fault], options.calm)
            except AssertionError as error:
                print(f"{fault}: {error}", flush=True)
                return 1
            done = len(found.faults)
            print(
                f"{time.monotonic() - began:7.0f} s, {done} faults, {len(found.history)} requests: {fault}", flush=True
            )
    wrong = found.wrong()
    print(found.summary())
    for each in wrong[:MOST_SHOWN]:
        print(each)
    print(f"{len(wrong)} things are wrong; seed {options.seed}" if wrong else f"nothing is wrong; seed {options.seed}")
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", nargs="?", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--actors", type=int, default=4, help="people at once, three connections each")
    parser.add_argument("--calm", type=float, default=2.0, help="seconds without a fault after each")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        status = asyncio.run(soak(Path(directory), options))
        if status:
            said = (Path(directory) / "output.txt").read_text().splitlines()
            print("\n".join(["the server's last words:", *said[-30:]]))
    return status


if __name__ == "__main__":
    sys.exit(main())
