"""GraphQL judged by others: graphql-http's audit of the server, and the reference clients of graphql-ws and graphql-sse."""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.clients.serving import ROOT, RunningServer, start_server

FOLDER = Path(__file__).parent / "graphql_http"
PASSWORD = "a long enough pass phrase"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with its packages from npm, as package-lock.json has them."""
    folder = tmp_path_factory.mktemp("npm") / FOLDER.name
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    made = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="module")
def graphql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = start_server(tmp_path_factory.mktemp("graphql"), "--workers", "2")
    yield running
    assert running.stop() == 0, running.said()


def run(folder: Path, server: RunningServer, script: str, *arguments: str) -> str:
    environment = {**os.environ, "NODE_EXTRA_CA_CERTS": str(server.ca)}
    command = ["node", script, f"{server.https}/graphql", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_audit_of_graphql_over_http_finds_no_error_and_no_warning(node: Path, graphql: RunningServer) -> None:
    results = json.loads(run(node, graphql, "audit.js"))
    print(
        {status: sum(result["status"] == status for result in results) for status in ("ok", "notice", "warn", "error")}
    )
    page = (ROOT / "docs" / "reference" / "graphql.md").read_text()
    assert f"{len(results)} rules" in page
    assert [result for result in results if result["status"] != "ok"] == []


def test_the_reference_clients_hear_of_the_sessions_end(node: Path, graphql: RunningServer) -> None:
    name = f"user-{uuid.uuid4().hex[:12]}"
    with httpx.Client(base_url=graphql.https, verify=graphql.tls()) as client:
        assert client.post("/v1/users", json={"username": name, "password": PASSWORD}).status_code == 201
        assert client.post("/v1/login", json={"username": name, "password": PASSWORD}).status_code == 200
        cookie = f"__Host-session={client.cookies['__Host-session']}"
    said = run(node, graphql, "clients.js", cookie, name, PASSWORD).splitlines()
    print("\n".join(said))
    assert said[:2] == ["graphql-ws: BEGIN", "graphql-sse: BEGIN"]
    # The streams may end before the answer to the logout is there.
    assert set(said[2:5]) == {
        'logout: {"data":{"logout":true}}',
        "graphql-ws: 4401 session ended: logout",
        'graphql-sse: Invalid stream event "session-ended"',
    }
    assert said[5:] == [
        "connection_init: BEGIN",
        "connection_init: 4401 session ended: logout",
        "codes: 4403,4401",
    ]
