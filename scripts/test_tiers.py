"""Runs tiers of tests, each within its budget of time, and prints one line of counts at the end.

Leaves to pytest how tests run, to outcomes.py what became of each; reports go to .reports.

    python scripts/test_tiers.py [--coverage] TIER … [-- pytest's own arguments]
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / ".reports"
NO_TESTS_COLLECTED = 5


@dataclass(frozen=True)
class Tier:
    budget: float | None = None
    """Seconds on a machine of two cores, without installing things; None: as long as it takes."""
    required: bool = True
    """An empty tier fails `make test`."""
    covers: bool = False
    """Counts towards the coverage of the library."""
    packages: tuple[str, ...] = ()
    """Debian packages, as scripts/need-debian takes them."""
    pytest: tuple[str, ...] = ("-n", "2", "--dist", "loadfile")
    """By file, so that a server started for a file's tests is started once."""
    paths: tuple[str, ...] = ()
    """What pytest runs; the folder of the tier's name where nothing stands here."""


SERVICES = (
    "postgresql=/usr/lib/postgresql/*/bin/postgres",
    "pgbouncer=/usr/sbin/pgbouncer",
    "redis-server=redis-server",
)

TIERS = {
    "core": Tier(budget=90, covers=True, pytest=("-n", "2", "--dist", "worksteal")),
    "stores": Tier(budget=120, covers=True, packages=SERVICES),
    "transports": Tier(budget=150, packages=("curl=curl",)),
    "browser": Tier(
        budget=90,
        packages=(
            "chromium=chromium",
            "fonts-liberation=/usr/share/fonts/truetype/liberation*",
            "nodejs=node",
            "npm=npm",
            "curl=curl",
            "jq=jq",
        ),
    ),
    "faults": Tier(budget=100, covers=True, packages=SERVICES),
    "slow": Tier(
        required=False,
        packages=(
            "chromium=chromium",
            "curl=curl",
            "fonts-liberation=/usr/share/fonts/truetype/liberation*",
            "jq=jq",
            "nginx=/usr/sbin/nginx",
            "nodejs=node",
            "npm=npm",
            "redis-sentinel=redis-sentinel",
            "systemd=systemd-analyze",
            "tshark=tshark",
            *SERVICES,
        ),
        pytest=("-n", "0"),
    ),
    # What of the long tests runs lines of the library that no other tier can: clusters, sentinels, fail-overs.
    "engines": Tier(
        covers=True,
        packages=("redis-sentinel=redis-sentinel", *SERVICES),
        pytest=("-n", "0"),
        paths=tuple(
            f"tests/slow/test_{name}.py" for name in ("redis_topologies", "redis_cluster", "redis_model", "postgres")
        ),
    ),
}

# The layers of the library, which the coverage is of; the server and the accounts are tested from outside.
LIBRARY = (
    "errors clock ids origin cookies record values stores cache feed connections session manager credentials asgi"
    " integrations tickets"
)
COVERAGE_GOAL = 95.0


def say(text: str) -> None:
    print(text, flush=True)


def scale() -> float:
    return float(os.environ.get("COATCHECK_BUDGET_SCALE", "1"))


# Objects made, looked up and hashed, on both cores at once: what tests spend their time on.
PIECE_OF_WORK = """
import hashlib
for number in range(400):
    rows = [{"id": str(n), "value": (n, number)} for n in range(3000)]
    hashlib.sha256(repr(sorted(rows, key=lambda row: row["id"])).encode()).digest()
"""
WORK_TAKES = 0.9
"""Seconds of it on the machine that the budgets are of: two cores, nobody else on them."""
SLOWEST = 2.5


def slowness() -> float:
    """How many times as long the machine takes at this moment as the one that the budgets are of: 1 to SLOWEST.

    Others' load on a shared machine doubles what a tier takes, and says nothing about the tests (docs/decisions/0023).
    """
    began = time.monotonic()
    working = [subprocess.Popen([sys.executable, "-I", "-c", PIECE_OF_WORK]) for _ in range(2)]
    for process in working:
        process.wait()
    return min(SLOWEST, max(1.0, (time.monotonic() - began) / WORK_TAKES))


def has_tests(name: str) -> bool:
    return any((ROOT / "tests" / name).rglob("test_*.py"))


def run_tier(name: str, coverage: bool, extra: list[str]) -> tuple[Counter[str], list[str]]:
    """Runs one tier; returns how many tests came to what, and what is wrong, in sentences."""
    tier = TIERS[name]
    outcomes = REPORTS / f"{name}.json"
    outcomes.unlink(missing_ok=True)
    if not tier.paths and not has_tests(name):
        say(f"{name}: no tests yet")
        return Counter(), [f"{name}: this tier is required and holds no test"] if tier.required else []
    if subprocess.run([ROOT / "scripts/need-debian", *tier.packages], check=False).returncode:
        return Counter(), [f"{name}: cannot run without these packages"]

    command = [sys.executable, "-m", "pytest"]
    environment = dict(os.environ)
    if coverage and tier.covers:
        command = [sys.executable, "-m", "coverage", "run", "-m", "pytest"]
        environment["COVERAGE_FILE"] = str(REPORTS / "coverage" / name)
    command += ["-p", "scripts.outcomes", f"--outcomes={outcomes}", f"--junitxml={REPORTS / name}.xml"]
    command += [
        "--quiet",
        "--durations=5",
        "--durations-min=2",
        *tier.pytest,
        *extra,
        *(tier.paths or [f"tests/{name}"]),
    ]
    # Being traced, tests take longer: only as they are do they have a budget.
    limit = None if tier.budget is None or coverage else tier.budget * scale()
    say(f"== {name}" + ("" if limit is None else f" (budget {limit:.0f} s)"))

    before = slowness() if limit is not None else 1.0
    began = time.monotonic()
    pytest = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        # Tests have time-outs of their own; this is the net beneath them.
        status = pytest.wait(timeout=None if limit is None else 4 * limit * SLOWEST + 60)
    except subprocess.TimeoutExpired:
        stop(pytest)
        return Counter(), [f"{name}: hung, and was stopped"]
    seconds = time.monotonic() - began

    counts = Counter[str](json.loads(outcomes.read_text()).values()) if outcomes.exists() else Counter[str]()
    wrong: list[str] = []
    if status and not (status == NO_TESTS_COLLECTED and extra):
        wrong.append(f"{name}: pytest failed (exit status {status})")
    say(f"{name}: {line_of(counts)} in {seconds:.1f} s")
    if limit is not None:
        slow = (before + slowness()) / 2
        say(f"{name}: the machine takes {slow:.2f} times as long as the one that budgets are of")
        if seconds > limit * slow:
            wrong.append(f"{name}: took {seconds:.1f} s, over its budget of {limit:.0f} s times {slow:.2f}")
    return counts, wrong


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)  # lets pytest end the servers its fixtures started
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()


def line_of(counts: Counter[str]) -> str:
    line = f"{counts['passed']} passed, {counts['failed']} failed"
    for outcome in ("skipped", "xfailed"):
        if counts[outcome]:
            line += f", {counts[outcome]} {outcome}"
    return line


def check_coverage() -> list[str]:
    """Combines what the tiers' processes recorded; returns what is wrong, in sentences."""
    folder = REPORTS / "coverage"
    report = folder / "coverage.json"
    environment = dict(os.environ, COVERAGE_FILE=str(folder / "combined"))
    parts = [str(path) for path in folder.iterdir()] if folder.exists() else []
    include = ",".join(f"src/coatcheck/{layer}{end}" for layer in LIBRARY.split() for end in (".py", "/*"))

    def coverage(*arguments: str) -> bool:
        command = [sys.executable, "-m", "coverage", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0

    if not parts or not coverage("combine", "--quiet", *parts):
        return ["coverage: nothing was recorded"]
    if not coverage("json", "--quiet", f"--include={include}", "-o", str(report)):
        return ["coverage: no line of the library was measured"]
    measured = json.loads(report.read_text())
    totals = measured["totals"]
    branches = 100.0
    if totals["num_branches"]:
        branches = 100 * totals["covered_branches"] / totals["num_branches"]
    lines = 100 * totals["covered_lines"] / max(1, totals["num_statements"])
    if min(branches, lines) < COVERAGE_GOAL:
        coverage("report", f"--include={include}", "--show-missing", "--skip-covered", "--sort=cover")
    say(f"coverage of the library: {branches:.1f} % of branches, {lines:.1f} % of lines")
    return [
        f"coverage: {figure:.1f} % of {what}, under {COVERAGE_GOAL:.0f} %"
        for what, figure in (("branches", branches), ("lines", lines))
        if figure < COVERAGE_GOAL
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tiers", nargs="+", choices=list(TIERS), metavar="TIER", help=", ".join(TIERS))
    parser.add_argument("--coverage", action="store_true", help="measure the library's coverage and enforce it")
    # After a bare "--" comes what pytest gets; argparse by itself would take its words for tiers.
    given = sys.argv[1:]
    split = given.index("--") if "--" in given else len(given)
    own, extra = parser.parse_args(given[:split]), given[split + 1 :]

    # Whoever is started in the background ignores Ctrl-C and passes that on, also to what tests press Ctrl-C at.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    REPORTS.mkdir(exist_ok=True)
    if own.coverage:
        folder = REPORTS / "coverage"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for name in own.tiers:
        tier_counts, tier_wrong = run_tier(name, own.coverage, extra)
        counts += tier_counts
        wrong += tier_wrong
    if own.coverage:
        wrong += check_coverage()
    say("")
    for sentence in wrong:
        say(sentence)
    say(line_of(counts))
    return 1 if wrong or counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
