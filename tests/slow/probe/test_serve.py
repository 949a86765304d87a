"""The probe on the real `coatcheck serve`, as a newcomer runs it: every version, a login's cookie, WebSockets."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import jsonschema_rs
import pytest
from typer.testing import CliRunner, Result

from coatcheck.cli import app
from coatcheck.probe import probe, report_schema
from tests.clients.serving import ECHO, RunningServer, start_server


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["probe", *arguments], env={"COLUMNS": "100"})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = start_server(tmp_path_factory.mktemp("server"), "--workers", "2")
    yield running
    assert running.stop() == 0, running.said()


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = start_server(tmp_path_factory.mktemp("echo"), "--workers", "1", app=ECHO)
    yield running
    assert running.stop() == 0, running.said()


@pytest.fixture(scope="module")
def login(server: RunningServer) -> str:
    with httpx.Client(base_url=server.https, verify=server.tls()) as client:
        form = {"username": f"probe-{uuid.uuid4().hex[:8]}", "password": "a long enough pass phrase"}
        assert client.post("/v1/users", json={**form, "name": "Ada"}).status_code == 201
        assert client.post("/v1/login", json=form).status_code == 200
        return client.cookies["__Host-session"]


async def test_every_version_is_measured_and_the_login_is_known_over_each(server: RunningServer, login: str) -> None:
    url, cookies = f"{server.https}/v1/me", (("__Host-session", login),)
    report = await probe(url, ca=server.ca, cookies=cookies, only=("h1.0", "h1.1", "h2", "h3"))
    connections = {name: (version.requests, version.connections) for name, version in report.versions.items()}
    assert connections == {"h1.0": (20, 20), "h1.1": (20, 1), "h2": (20, 1), "h3": (20, 1)}
    at_once = {name: version.at_once and version.at_once.connections for name, version in report.versions.items()}
    assert at_once == {"h1.0": 10, "h1.1": 10, "h2": 1, "h3": 1}
    assert {version.status for version in report.versions.values()} == {200}
    assert report.versions["h3"].via == "alt-svc"
    migration = report.versions["h3"].migration
    assert migration is not None and (migration.port, migration.address) == (True, True)
    for name in ("h2", "h3"):
        streams, headers = report.versions[name].streams, report.versions[name].headers
        assert streams is not None and headers is not None and headers.request_later is not None
        assert (streams.announced, streams.reached) == (100, 10)
        assert headers.request_later < 30 < headers.request_first
    for name in ("h1.1", "h2", "h3"):
        tls = report.versions[name].tls
        assert tls is not None and tls.version == "TLSv1.3"
        assert tls.resumption is not None and tls.resumption.accepted
    session = report.session
    assert session.known_again == "yes"
    assert set(session.survives_version.values()) == {"yes"}
    assert (session.survives_connection, session.survives_address) == ("yes", "yes")
    assert session.adopts_made_up == "no"
    assert not report.fails("warn"), report.findings
    assert login not in report.to_json().decode()


async def test_websockets_are_tried_over_each_version_that_carries_them(echo: RunningServer) -> None:
    report = await probe(f"wss://localhost:{echo.https_port}/", ca=echo.ca)
    assert set(report.websockets) == {"h1.1", "h2", "h3"}
    for version, facts in report.websockets.items():
        assert facts.spoken, (version, facts.failure)
        assert facts.status == (101 if version == "h1.1" else 200)
        assert facts.pongs == 3 and facts.ping_ms is not None
        assert facts.messages == 1
        assert (facts.closed_by, facts.close_code, facts.close_answered) == ("us", 1000, True)
    assert report.websockets["h1.1"].connection_closed_by == "server"


async def test_a_websocket_that_is_refused_says_with_what(echo: RunningServer) -> None:
    report = await probe(echo.https + "/x", ca=echo.ca, requests=1, only=("h2", "ws"), websocket_path="/refused")
    assert set(report.websockets) == {"h2"}
    assert report.websockets["h2"].failure == "the handshake was answered with 403"


def test_the_command_prints_json_of_its_schema_and_an_html_file(
    server: RunningServer, login: str, tmp_path: Path
) -> None:
    secret = tmp_path / "cookies"
    secret.write_text(f"__Host-session={login}\n")
    html = tmp_path / "report.html"
    done = run(
        f"{server.https}/v1/me",
        *("--ca", str(server.ca), "--cookie", f"@{secret}", "--requests", "4", "--concurrency", "3"),
        *("--json", "--html", str(html), "--fail-on", "warn"),
    )
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    jsonschema_rs.validator_for(report_schema()).validate(found)
    assert found["schema"] == "coatcheck-probe/1"
    assert found["versions"]["h1.1"]["connections"] == 1
    assert found["session"]["known_again"] == "yes"
    page = html.read_text()
    assert "<svg" in page and "<script" not in page
    assert login not in done.stdout + page
    assert found["answer"] in page.replace("&#x27;", "'")


def test_on_a_fresh_machine_it_says_what_a_newcomer_wants_to_know(server: RunningServer) -> None:
    done = run(server.https, "--requests", "5", "--only", "h1.0,h1.1,h2")
    assert done.exit_code == 0, done.stderr
    assert "No: over HTTP/1.1 and HTTP/2 one connection carried all 5 requests." in " ".join(
        done.stdout.replace("│", " ").split()
    )
    assert "This machine does not trust the certificate" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
