"""`python -m bench`: one interleaved run, a table, JSON if asked for, and a verdict if asked for."""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from bench import in_process, machine, report, tokens

ROUNDS = 4000
QUICK_ROUNDS = 800
# So few that a block is over in a fraction of the scheduler's time slice: longer blocks of a slow contender would be
# interrupted more often than those of a quick one.
SIZE = 25


def main(arguments: list[str] | None = None) -> int:
    """Measure; return 1 where `--check` found a target missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under 20 seconds, wider intervals")
    parser.add_argument("--rounds", type=int, help=f"how many rounds ({ROUNDS}, or {QUICK_ROUNDS} with --quick)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--check", action="store_true", help="fail where an interval does not lie below its target")
    parser.add_argument(
        "--gc", choices=["on", "off"], default="off", help="the garbage collector while measuring (off)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the rounds' random order (1)")
    options = parser.parse_args(arguments)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)

    began = time.monotonic()
    about = {
        **machine.describe(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounds": f"{rounds} in random order (fewer where the disk is written), {SIZE} requests per contender in each",
        "collector": "on; what set-up made is frozen out of it" if options.gc == "on" else "off while measuring",
        "loop": "asyncio's own; the application is called in process, without server or socket",
    }
    for name, value in about.items():
        print(f"{name + ':':12}{value}")

    def tell(item: str) -> None:
        print(f"  … {item}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="coatcheck-bench-") as directory:

        async def measure() -> dict[str, dict[str, list[float]]]:
            samples: dict[str, dict[str, list[float]]] = {}
            for part in (in_process, tokens):
                samples |= await part.run(
                    Path(directory), rounds=rounds, size=SIZE, seed=options.seed, collect=options.gc == "on", tell=tell
                )
            return samples

        samples = asyncio.run(measure())
    summary = report.summarise(samples, (*in_process.ITEMS, *tokens.ITEMS))
    print(report.table(summary))
    print(
        f"\nMedians of per-round figures with 95 % block-bootstrap intervals; {time.monotonic() - began:.0f} seconds."
    )
    if options.json is not None:
        options.json.write_text(json.dumps({"about": about, "items": summary}, indent=2) + "\n")
    missed = report.misses(summary)
    if options.check:
        for miss in missed:
            print(f"missed: {miss}", file=sys.stderr)
    return 1 if missed and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
