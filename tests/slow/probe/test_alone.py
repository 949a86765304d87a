"""`coatcheck[probe]` alone: the command works without the server's packages, and what is missing is said in one line."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

# What the extra `probe` does not bring (Typer brings pydantic) is made to look as if it were not installed.
PROGRAM = """
import importlib.abc, sys

class NotInstalled(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInstalled())
sys.argv = ["coatcheck", *{arguments!r}]
from coatcheck.cli import main
main()
"""

SERVER = [
    "alembic",
    "apsw",
    "argon2",
    "envoy",
    "fastapi",
    "grpc",
    "httptools",
    "joserfc",
    "pydantic_settings",
    "sqlalchemy",
    "starlette",
    "strawberry",
    "structlog",
    "uvicorn",
    "uvloop",
    "websockets",
]


def run(missing: list[str], *arguments: str) -> tuple[int, str, str]:
    program = PROGRAM.format(missing=set(missing), arguments=list(arguments))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_command_works_without_the_servers_packages_and_the_others_say_what_to_install() -> None:
    code, out, err = run(SERVER, "--help")
    assert (code, err) == (0, "")
    assert "Measure what a server does with connections" in " ".join(out.split())
    assert "not installed: pip install 'coatcheck[server]'" in " ".join(out.split())
    code, out, err = run(SERVER, "probe", "http://127.0.0.1:1/")
    assert (code, out) == (1, "") and "refused the connection" in err
    code, out, err = run(SERVER, "serve", "--data-dir", "x")
    assert (code, out) == (1, "")
    assert err.startswith("coatcheck: coatcheck serve needs the package pydantic") and err.count("\n") == 1


@pytest.mark.parametrize("package", ["aioquic", "h2", "wsproto", "rich"])
def test_without_its_own_packages_it_says_what_to_install(package: str) -> None:
    code, out, err = run([package], "probe", "https://example.com/")
    assert (code, out) == (1, "")
    assert f"the package {package}: pip install 'coatcheck[probe]'" in err and err.count("\n") == 1


def test_without_any_extra_the_command_itself_says_what_to_install() -> None:
    code, out, err = run(["typer"], "probe")
    assert (code, out) == (1, "")
    assert "pip install 'coatcheck[server]', or 'coatcheck[probe]'" in err and err.count("\n") == 1


def test_what_the_probe_imports_is_what_its_extra_names() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["probe"]
    named = {requirement.partition(">")[0] for requirement in extra}
    imported: set[str] = set()
    files = [*(ROOT / "src/coatcheck/probe").glob("*.py"), ROOT / "src/coatcheck/cli/probe.py"]
    for line in (line for file in files for line in file.read_text().splitlines()):
        words = line.split()
        if len(words) > 1 and words[0] in ("from", "import"):
            imported.add(words[1].partition(".")[0])
    others = imported - set(sys.stdlib_module_names) - {"coatcheck", "msgspec"}
    # aioquic itself needs cryptography.
    assert others - {"cryptography"} <= named
