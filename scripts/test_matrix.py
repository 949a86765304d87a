"""Runs the core tests on each Python from 3.11 to 3.14 that is on this machine, and names those that are not.

Each gets a locked environment of its own under .venvs. Leaves getting a Python to the reader: none is downloaded.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / ".reports"
UV = str(ROOT / "scripts/uv")
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


def candidates(version: str) -> Iterator[str]:
    names = (f"python{version}", "python3")
    for folder in os.get_exec_path():
        yield from (str(Path(folder, name)) for name in names)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from (str(path) for path in sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"), reverse=True))
    search = [UV, "python", "find", "--no-project", "--no-python-downloads", version]
    found = subprocess.run(search, capture_output=True, text=True, check=False)
    if found.returncode == 0:
        yield found.stdout.strip()


def find(version: str) -> str | None:
    """The path of a CPython of this version, by asking it: a name on PATH may be a shim that runs another."""
    question = "import sys; print(sys.executable, sys.implementation.name, '%d.%d' % sys.version_info[:2])"
    for candidate in candidates(version):
        if not os.access(candidate, os.X_OK):
            continue
        answer = subprocess.run([candidate, "-c", question], capture_output=True, text=True, check=False)
        if answer.returncode == 0 and answer.stdout.split()[1:] == ["cpython", version]:
            return answer.stdout.split()[0]
    return None


def run(version: str, python: str, extra: list[str]) -> tuple[Counter[str], bool]:
    home = ROOT / ".venvs" / version
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment["UV_PROJECT_ENVIRONMENT"] = str(home)
    sync = [UV, "sync", "--frozen", "--quiet", "--python", python]
    if subprocess.run(sync, cwd=ROOT, env=environment, check=False).returncode:
        return Counter(), False
    outcomes = REPORTS / "matrix" / f"{version}.json"
    outcomes.parent.mkdir(parents=True, exist_ok=True)
    outcomes.unlink(missing_ok=True)
    command = [str(home / "bin/python"), "-m", "pytest", "-p", "scripts.outcomes", f"--outcomes={outcomes}"]
    command += ["--quiet", "-n", "2", *extra, "tests/core"]
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    counts = Counter[str](json.loads(outcomes.read_text()).values()) if outcomes.exists() else Counter[str]()
    return counts, status == 0


def main() -> int:
    total: Counter[str] = Counter()
    absent: list[str] = []
    failed: list[str] = []
    for version in PYTHONS:
        python = find(version)
        if python is None:
            absent.append(version)
            continue
        print(f"== Python {version}: {python}", flush=True)
        counts, well = run(version, python, sys.argv[1:])
        total += counts
        if not well:
            failed.append(version)
    print()
    if absent:
        print(f"not on this machine: Python {', '.join(absent)}")
    if failed:
        print(f"failed on: Python {', '.join(failed)}")
    print(f"{total['passed']} passed, {total['failed']} failed")
    return 1 if failed or not total else 0


if __name__ == "__main__":
    sys.exit(main())
