"""The command itself: what it offers, and what it answers to nonsense."""

import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from coatcheck.cli import app


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_it_tells_its_version() -> None:
    assert run("--version") == (0, f"coatcheck {version('coatcheck')}\n")


def test_it_names_its_subcommands_and_what_each_is_for() -> None:
    code, help_text = run("--help")
    assert code == 0
    for name, purpose in (
        ("serve", "Run the server"),
        ("reload", "Replace the workers of the running server"),
        ("probe", "Measure what a server does"),
        ("users", "Add and list users"),
        ("sessions", "List sessions"),
        ("keys", "List, rotate and retire the keys"),
        ("services", "Add, list and remove services"),
    ):
        assert any(line.split()[:1] == [name] and purpose in line for line in help_text.splitlines()), name


def test_defaults_in_square_brackets_are_no_markup() -> None:
    assert "[127.0.0.1]" in run("serve", "--help")[1]
    assert "[our own, for localhost]" in run("serve", "--help")[1]
    assert "[SQLite in the data directory]" in run("sessions", "list", "--help")[1]


@pytest.mark.parametrize("arguments", [(), ("users",), ("sessions",), ("keys",), ("services",)])
def test_alone_it_shows_its_help(arguments: tuple[str, ...]) -> None:
    assert "Usage:" in run(*arguments)[1]


@pytest.mark.parametrize("arguments", [("nothing",), ("sessions", "nothing"), ("--nothing",), ("serve", "--nothing")])
def test_what_it_does_not_know_is_a_wrong_usage(arguments: tuple[str, ...]) -> None:
    assert run(*arguments)[0] == 2


def test_serving_loads_no_database_library_into_the_supervisor() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from coatcheck.cli import app\n"
        "assert CliRunner().invoke(app, ['serve', '--help']).exit_code == 0\n"
        "import coatcheck.server.supervisor\n"
        "print([name for name in ('sqlalchemy', 'alembic', 'argon2', 'fastapi') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
