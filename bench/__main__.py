"""`python -m bench`: one interleaved run of each part, tables, JSON, a report, and a verdict if asked for."""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import comparison, in_process, machine, page, quotes, report, servers, stores, tokens, websockets

ROUNDS = 4000
QUICK_ROUNDS = 800
# So few that a block is over in a fraction of the scheduler's time slice: longer blocks of a slow contender would be
# interrupted more often than those of a quick one.
SIZE = 25
PARTS = ("middleware", "comparison", "servers", "stores", "websockets")
"""What there is to be measured, in the report's order."""
KEYS = {"middleware": "items"}
"""Parts whose figures go by another name."""
Tell = Callable[[str], None]


def _amount(options: argparse.Namespace) -> str:
    return "--full" if options.full else "--quick" if options.quick else "the usual amount"


def main(arguments: list[str] | None = None) -> int:
    """Measure; return 1 where `--check` found a target missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under two minutes, wider intervals")
    parser.add_argument("--full", action="store_true", help="ten million stored sessions; takes an hour")
    parser.add_argument("--only", metavar="PARTS", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--stores", default=",".join(stores.STORES), help="of which stores, in that part")
    parser.add_argument("--rounds", type=int, help=f"how many rounds ({ROUNDS}, or {QUICK_ROUNDS} with --quick)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write REPORT.md, report.html and results.json there"
    )
    parser.add_argument(
        "--from",
        type=Path,
        metavar="FILE",
        dest="earlier",
        help="what FILE (of --json) has is taken from there, but for what --only names",
    )
    parser.add_argument("--quote", action="store_true", help="write the figures into the documents that quote them too")
    parser.add_argument("--check", action="store_true", help="fail where an interval does not lie below its target")
    parser.add_argument(
        "--gc", choices=["on", "off"], default="off", help="the garbage collector while measuring (off)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the rounds' random order (1)")
    options = parser.parse_args(arguments)
    earlier = {} if options.earlier is None else json.loads(options.earlier.read_text())
    had = earlier.get("measured", {})
    parts = [part for part in PARTS if part not in had] if options.only is None else options.only.split(",")
    if not set(parts) <= set(PARTS):
        parser.error(f"--only takes {', '.join(PARTS)}")
    if not set(options.stores.split(",")) <= set(stores.STORES):
        parser.error(f"--stores takes {', '.join(stores.STORES)}")
    if options.quote and set(parts) | set(had) != set(PARTS):
        parser.error("--quote needs every part")
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)

    began = time.monotonic()
    about = {
        **machine.describe(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounds": f"{rounds} in random order (fewer where the disk is written), {SIZE} requests per contender in each",
        "collector": "on; what set-up made is frozen out of it" if options.gc == "on" else "off while measuring",
        "loop": "asyncio's own where the application is called in process, uvloop behind servers",
    }
    for name, value in about.items():
        print(f"{name + ':':12}{value}")
    results = {"about": about, "measured": {}} | measure(parts, rounds, options)
    for part in PARTS:
        key = KEYS.get(part, part)
        if part in parts:
            results["measured"][part] = f"{about['time']}, {_amount(options)}"
        elif part in had:
            results["measured"][part] = had[part]
            results[key] = earlier[key]
    if "stores" in parts and "stores" in had:
        results["stores"] = earlier["stores"] | results["stores"]
    about["took"] = f"{time.monotonic() - began:.0f} seconds"
    print(page.markdown(results))
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    if options.report is not None:
        page.write(options.report, results)
    if options.quote:
        quotes.requote_files(machine.ROOT, results)
    missed = misses(results)
    if options.check:
        for miss in missed:
            print(f"missed: {miss}", file=sys.stderr)
    return 1 if missed and options.check else 0


def measure(parts: list[str], rounds: int, options: argparse.Namespace) -> dict[str, Any]:
    """Give the figures of each part."""

    def tell(item: str) -> None:
        print(f"  … {item}", file=sys.stderr, flush=True)

    results: dict[str, Any] = {}
    if "middleware" in parts:
        with tempfile.TemporaryDirectory(prefix="coatcheck-bench-") as directory:

            async def inside() -> dict[str, dict[str, list[float]]]:
                samples: dict[str, dict[str, list[float]]] = {}
                for part in (in_process, tokens):
                    samples |= await part.run(
                        Path(directory),
                        rounds=rounds,
                        size=SIZE,
                        seed=options.seed,
                        collect=options.gc == "on",
                        tell=tell,
                    )
                return samples

            results["items"] = report.summarise(asyncio.run(inside()), (*in_process.ITEMS, *tokens.ITEMS))
    if "comparison" in parts:
        found = comparison.compare(rounds=max(20, rounds // 8), seed=options.seed, tell=tell)
        results["comparison"] = {"about": found["about"], "items": comparison.summarise(found)}
    if "servers" in parts:
        amount = {"rounds": 2, "seconds": 1.0} if options.quick else {"rounds": 10, "seconds": 2.0}
        results["servers"] = servers.summarise(servers.run(**amount, seed=options.seed, tell=tell))
    if "stores" in parts:
        most = 10_000_000 if options.full else 100_000 if options.quick else 1_000_000
        results["stores"] = asyncio.run(
            stores.run(quick=options.quick, most=most, tell=tell, only=tuple(options.stores.split(",")))
        )
    if "websockets" in parts:
        sizes = (100, 1000) if options.quick else (100, 1000, 10_000)
        results["websockets"] = asyncio.run(websockets.run(sizes=sizes, tell=tell))
    return results


def misses(results: dict[str, Any]) -> list[str]:
    """Give each target that is not met."""
    return [
        *(report.misses(results["items"]) if "items" in results else ()),
        *(comparison.misses(results["comparison"]["items"]) if "comparison" in results else ()),
        *(stores.misses(results["stores"]) if "stores" in results else ()),
        *(websockets.misses(results["websockets"]) if "websockets" in results else ()),
    ]


if __name__ == "__main__":
    sys.exit(main())
