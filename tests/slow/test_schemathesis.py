"""schemathesis against the running server: whatever /openapi.json says is sent, and a good deal that it does not say.

Every finding is mended or stands in EXPLAINED, which `docs/reference/schemathesis.md` tells people; one that stands there
and is not found any more fails as well.
"""

import fnmatch
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.clients.serving import RunningServer, start_server

TIMEOUT = 600
SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"
PASSWORD = "a long enough pass phrase"
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "schemathesis.md"

EXPLAINED: dict[str, tuple[str, ...]] = {
    # Wrong response to undeclared method.
    "ST204": ("QUERY *",),
    # API accepts invalid authentication: a made-up cookie beside the token that was given, which wins.
    "ST401": ("*",),
    # Schema-valid request rejected.
    "ST202": (
        "POST /v1/login",
        "POST /v1/token/refresh",
        "POST /v1/users",
        "POST /v1/token",
        "PATCH /v1/sessions/{session_id}",
        "PATCH /v1/passkeys/{passkey_id}",
        "GET /v1/activity",
        "POST /v1/login/passkey",
        "POST /v1/login/recovery",
        "POST /v1/passkeys",
        "POST /v1/reauthenticate/passkey/options",
    ),
    # Allow header mismatch.
    "ST205": ("OPTIONS /v1/passkeys/options",),
}
"""Codes of findings that are right as they are, and for which operations; the reasons stand in the page."""

# They end the session that asks, or have no end; what they answer is tested elsewhere, by the who-may-what matrix too.
ENDING = ("/v1/logout", "/v1/me/password", "/v1/reauthenticate", "/v1/sessions", "/v1/token/revoke")
ENDLESS = ("/v1/revocations", "/v1/events")
ROOM = {
    f"COATCHECK_THROTTLING__{name}": "100000"
    for name in ("ACCOUNT_ATTEMPTS", "ADDRESS_ATTEMPTS", "DEVICE_ATTEMPTS", "REGISTRATIONS")
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = start_server(tmp_path_factory.mktemp("schemathesis"), "--workers", "2", env=ROOM)
    form = {"username": "ada", "password": PASSWORD}
    assert httpx.post(f"{running.http}/v1/users", json=form).status_code == 201
    yield running
    assert running.stop() == 0, running.said()


def credential(server: RunningServer, who: str) -> list[str]:
    if who == "nobody":
        return []
    form = {"username": "ada", "password": PASSWORD, "mode": "token" if who == "bearer" else "cookie"}
    answer = httpx.post(f"{server.http}/v1/login", json=form)
    assert answer.status_code == 200
    if who == "bearer":
        return ["-H", f"Authorization: Bearer {answer.json()['access_token']}"]
    return ["-H", f"Cookie: session={answer.cookies['session']}"]


@pytest.mark.parametrize("who", ["nobody", "cookie", "bearer"])
def test_every_finding_is_explained(server: RunningServer, tmp_path: Path, who: str) -> None:
    report = tmp_path / "report.json"
    excluded = (*ENDLESS, *(ENDING if who != "nobody" else ()))
    command = [str(SCHEMATHESIS), "run", f"{server.http}/openapi.json", "--checks", "all", "--max-examples", "25"]
    command += [
        "--continue-on-failure",
        "--request-timeout",
        "10",
        "--no-color",
        "--seed",
        "1",
        *credential(server, who),
    ]
    command += ["--report-json-path", str(report)]
    for path in excluded:
        command += ["--exclude-path", path]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=500, check=False)
    assert report.exists(), ran.stdout + ran.stderr
    summary = json.loads(report.read_text())
    found = [(one["code"], operation, one["title"]) for one in summary["failures"] for operation in one["operations"]]
    print(f"\n{who}: {summary['test_cases']['generated']} requests, {len(found)} findings")
    for one in found:
        print("  ", *one)
    assert summary["complete"] and not summary["errors"], summary["errors"]
    assert summary["operations"]["tested"] == summary["operations"]["selected"] > 10
    assert [one for one in found if not explained(one[0], one[1])] == []


def explained(code: str, operation: str) -> bool:
    return any(fnmatch.fnmatchcase(operation, pattern) for pattern in EXPLAINED.get(code, ()))


def test_what_is_explained_is_told() -> None:
    text = PAGE.read_text()
    assert [code for code in EXPLAINED if f"`{code}`" not in text] == []
