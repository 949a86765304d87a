"""Every check that needs no test to run: `make check`. All of them run; the output of those that fail is shown."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv/bin"
UV = str(ROOT / "scripts/uv")

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
# Debian 12's C library, on both processors that people run it on.
PLATFORMS = ["x86_64-manylinux_2_36", "aarch64-manylinux_2_36"]

# A path of somebody's machine, at the start of a word: a URL's path has a host before it.
MACHINE_PATH = re.compile(r"(?<![\w.:/$}~-])/(?:work|root|Users/\w+|tmp/[\w.-]+)/")


def run(*command: str, stdin: str | None = None) -> str:
    """Runs a command; returns what it printed when it failed, nothing when it did well."""
    # pyright looks for packages through the python on PATH; its wrapper would ask the network for a newer version.
    path = os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)])
    environment = dict(os.environ, PATH=path, PYRIGHT_PYTHON_IGNORE_WARNINGS="1")
    result = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode == 0:
        return ""
    return result.stdout.strip() or f"{command[0]} failed (exit status {result.returncode})"


def wheels() -> str:
    """Whether all that is locked, extras and tools included, installs from wheels alone on each Python."""
    export = [UV, "export", "--quiet", "--frozen", "--no-emit-project", "--no-hashes", "--no-header"]
    export += ["--all-extras", "--all-groups"]
    locked = subprocess.run(export, cwd=ROOT, check=False, capture_output=True, text=True)
    if locked.returncode:
        return locked.stderr
    for python in PYTHONS:
        for platform in PLATFORMS:
            command = [UV, "pip", "compile", "--quiet", "--only-binary", ":all:", "--python", sys.executable]
            command += ["--python-version", python, "--python-platform", platform, "-"]
            if output := run(*command, stdin=locked.stdout):
                return f"Python {python}, {platform}:\n{output}"
    return ""


def machine_paths() -> str:
    """Tracked files that hold a path of somebody's machine."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=False, capture_output=True, text=True)
    if listed.returncode:
        return listed.stderr
    found: list[str] = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        found += [
            f"{name}:{number}: {line.strip()}"
            for number, line in enumerate(text.splitlines(), 1)
            if MACHINE_PATH.search(line)
        ]
    return "\n".join(found)


def shell_scripts() -> str:
    """Whether a plain POSIX shell can read the scripts that claim one, and git keeps them executable."""
    wrong: list[str] = []
    for path in sorted((ROOT / "scripts").iterdir()):
        if path.is_file() and path.read_bytes().startswith(b"#!/bin/sh\n"):
            wrong.append(run("sh", "-n", str(path)))
            if not os.access(path, os.X_OK):
                wrong.append(f"{path.name} is not executable")
    return "\n".join(filter(None, wrong))


CHECKS: dict[str, Callable[[], str]] = {
    "lock": lambda: run(UV, "lock", "--check"),
    "lint": lambda: run(str(BIN / "ruff"), "check", "."),
    "format": lambda: run(str(BIN / "ruff"), "format", "--check", "."),
    "shell": shell_scripts,
    "paths": machine_paths,
    "layers": lambda: run(str(BIN / "lint-imports"), "--no-logo"),
    "types": lambda: run(str(BIN / "pyright")),
    "public-types": lambda: run(str(BIN / "pyright"), "--verifytypes", "coatcheck", "--ignoreexternal"),
    "proto": lambda: run(sys.executable, "scripts/proto.py", "--check"),
    "promises": lambda: run(sys.executable, "scripts/check_promises.py"),
    "wheels": wheels,
}


def main() -> int:
    wanted = sys.argv[1:] or list(CHECKS)
    if unknown := [name for name in wanted if name not in CHECKS]:
        print(f"no such check: {', '.join(unknown)}; there are: {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    failed: list[str] = []
    for name in wanted:
        began = time.monotonic()
        output = CHECKS[name]()
        print(f"{name:14}{'failed' if output else 'ok':8}{time.monotonic() - began:5.1f} s", flush=True)
        if output:
            failed.append(name)
            print("\n".join(f"    {line}" for line in output.splitlines()), flush=True)
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
