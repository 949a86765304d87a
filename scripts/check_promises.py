"""Holds docs/promises.md to its word: every test it names exists, and with --ran has run, and was not skipped.

Existence is asked of pytest itself, so inherited and parametrised tests count; runs are read from .reports,
which test_tiers.py fills. The format is explained at the top of docs/promises.md.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROMISES = [f"P{number}" for number in range(1, 8)]

_HEADING = re.compile(r"^## (P\d+|Issue \d+)\b", re.MULTILINE)
_NAME = re.compile(r"`(tests/[^`]+?\.py(?:::[^`]+)?)`")
_NOT_YET = re.compile(r"^\W*not yet: \S", re.IGNORECASE | re.MULTILINE)


def named_tests(document: str) -> dict[str, list[str]]:
    """The tests each promise names, in order; a test named above the first promise belongs to none."""
    _, *parts = _HEADING.split(document)
    return {promise: _NAME.findall(section) for promise, section in zip(parts[::2], parts[1::2], strict=True)}


def unkept(document: str) -> Iterator[str]:
    """A sentence for each promise that names no test and does not say why, or is not in the document."""
    _, *parts = _HEADING.split(document)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    for promise in PROMISES:
        if promise not in sections:
            yield f"{promise} has no heading"
        elif not _NAME.search(sections[promise]) and not _NOT_YET.search(sections[promise]):
            yield f'{promise} names no test, nor says "not yet: …"'
    for promise, names in named_tests(document).items():
        for name in names:
            if "::" not in name:
                yield f"{promise} names the file {name}, not a test in it"


def is_named_by(name: str, test: str) -> bool:
    """Whether `name` means `test`: the test itself, all parameters of it, or all tests of a class."""
    return test == name or test.startswith((f"{name}[", f"{name}::"))


def missing(names: Iterable[str], tests: Iterable[str]) -> list[str]:
    """Those of `names` that mean no test at all."""
    known = list(tests)
    return [name for name in names if not any(is_named_by(name, test) for test in known)]


def not_passed(names: Iterable[str], outcomes: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each of `names` of which no test ran, or one was skipped or failed."""
    for name in names:
        meant = {test: outcome for test, outcome in outcomes.items() if is_named_by(name, test)}
        if not meant:
            yield f"{name} did not run"
        for test, outcome in meant.items():
            if outcome != "passed":
                yield f"{test} {'was skipped' if outcome == 'skipped' else outcome}"


def collected(files: Iterable[str]) -> list[str]:
    """Every test in `files`, by pytest's name for it."""
    there = [file for file in files if (ROOT / file).is_file()]
    if not there:
        return []
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-p", "no:cacheprovider", *there]
    run = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if run.returncode not in (0, 5):  # 5: nothing collected
        print(run.stdout + run.stderr, file=sys.stderr)
    return [line for line in run.stdout.splitlines() if line.startswith("tests/") and "::" in line]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ran", action="store_true", help="also that each ran and passed, by .reports")
    arguments = parser.parse_args()

    document = (ROOT / "docs/promises.md").read_text()
    names = sorted({name for named in named_tests(document).values() for name in named if "::" in name})
    wrong = list(unkept(document))
    tests = collected(sorted({name.partition("::")[0] for name in names}))
    absent = missing(names, tests)
    wrong += [f"{name} does not exist" for name in absent]
    if arguments.ran:
        outcomes: dict[str, str] = {}
        for report in sorted((ROOT / ".reports").glob("*.json")):
            outcomes |= json.loads(report.read_text())
        wrong += not_passed([name for name in names if name not in absent], outcomes)
    for sentence in wrong:
        print(f"docs/promises.md: {sentence}", file=sys.stderr)
    if not wrong:
        print(f"{len(names)} tests named by docs/promises.md " + ("ran and passed" if arguments.ran else "exist"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
