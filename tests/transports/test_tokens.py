"""Tokens against the running server and both its workers: a login without a cookie, the end of it, and keys that change."""

import base64
import json
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from coatcheck.clock import SystemClock
from coatcheck.tokens import KeyRing
from coatcheck.tokens.key_file import KeyFile
from coatcheck.tokens.keys import JWKS_MAX_AGE
from tests.clients.serving import RunningServer
from tests.transports.test_one_login import VERSIONS, Curl, Reply

CREDENTIALS = {"password": "a long enough pass phrase", "mode": "token"}
KEYS = [sys.executable, "-c", "from coatcheck.cli import main; main()", "keys"]


@pytest.fixture
def curl(server: RunningServer, tmp_path: Path) -> Curl:
    return Curl(server, tmp_path)


def log_in(curl: Curl) -> dict[str, Any]:
    name = f"user-{uuid.uuid4().hex[:12]}"
    form = {"username": name, "password": CREDENTIALS["password"]}
    assert curl.run("--http2", "/v1/users", data=form)[0].status == 201
    (reply,) = curl.run("--http2", "/v1/login", data={"username": name, **CREDENTIALS})
    assert reply.status == 200
    assert "set-cookie" not in reply.headers
    assert reply.headers["cache-control"] == ["no-store"]
    return dict(reply.body)


def ask(curl: Curl, token: str, path: str = "/v1/me", version: str = "--http1.1", times: int = 1) -> list[Reply]:
    return curl.run(version, *[path] * times, options=("--header", f"authorization: Bearer {token}"))


def of_each_worker(curl: Curl, token: str, version: str = "--http1.1") -> list[Reply]:
    """Answers of `/v1/me`, at least one of each worker."""
    replies: list[Reply] = []
    for _ in range(20):
        replies += ask(curl, token, version=version, times=6)
        if {reply.worker for reply in replies} == {0, 1}:
            return replies
    raise AssertionError(f"only { ({reply.worker for reply in replies}) } have answered")


@pytest.mark.parametrize("version", VERSIONS)
def test_an_access_token_works_on_each_worker_until_its_logout_and_on_none_from_then_on(
    curl: Curl, version: str
) -> None:
    tokens = log_in(curl)
    replies = of_each_worker(curl, tokens["access_token"], version)
    assert {reply.body["id"] for reply in replies} == {tokens["user"]["id"]}
    (refreshed,) = curl.run(version, "/v1/token/refresh", data={"refresh_token": tokens["refresh_token"]})
    assert refreshed.status == 200
    access, refresh = refreshed.body["access_token"], refreshed.body["refresh_token"]
    for token in (tokens["access_token"], access):
        assert {reply.status for reply in of_each_worker(curl, token, version)} == {200}
    header = ("--header", f"authorization: Bearer {access}", "--request", "POST")
    assert curl.run(version, "/v1/logout", options=header)[0].status == 204
    for token in (access, tokens["access_token"]):
        for reply in of_each_worker(curl, token, version):
            assert reply.status == 401
            assert reply.headers["www-authenticate"] == ['Bearer error="invalid_token"']
    (over,) = curl.run(version, "/v1/token/refresh", data={"refresh_token": refresh})
    assert (over.status, over.body["error"]) == (400, "invalid_grant")
    assert not curl.jar.exists() or "__Host-session" not in curl.jar.read_text()


def keys(server: RunningServer, *arguments: str) -> str:
    argv = [*KEYS, *arguments, "--data-dir", str(server.data_dir)]
    done = subprocess.run(argv, cwd=server.data_dir, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def states(server: RunningServer) -> dict[str, str]:
    return {key["kid"]: key["state"] for key in json.loads(keys(server, "list", "--json"))}


def kid_of(token: str) -> str:
    header = token.split(".")[0]
    return str(json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))["kid"])


class Owner:
    """Refreshes every half second, and shows every token that it has to whichever worker answers."""

    def __init__(self, client: httpx.Client, tokens: dict[str, Any]) -> None:
        self.client = client
        self.access = [tokens["access_token"]]
        self.refresh_token = tokens["refresh_token"]
        self.accepted: dict[str, set[str]] = {}
        """Which workers have accepted tokens of which key."""

    def refresh(self) -> str:
        answer = self.client.post("/v1/token/refresh", json={"refresh_token": self.refresh_token})
        assert answer.status_code == 200, answer.text
        self.access.append(answer.json()["access_token"])
        self.refresh_token = answer.json()["refresh_token"]
        return self.access[-1]

    def live(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.refresh()
            pause = time.monotonic() + 0.5  # no more exchanges at a time than a session has
            while time.monotonic() < pause:
                for token in (self.access[0], *self.access[-3:]):
                    answer = self.client.get("/v1/me", headers={"authorization": f"Bearer {token}"})
                    assert answer.status_code == 200, (answer.text, kid_of(token), answer.headers)
                    self.accepted.setdefault(kid_of(token), set()).add(answer.headers["x-coatcheck-worker"])


class Earlier(SystemClock):
    """The clock of somebody who did something a while ago."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def time(self) -> float:
        return super().time() - self._seconds


def test_keys_change_without_a_token_failing_and_a_retired_one_fails_on_each_worker(
    server: RunningServer, curl: Curl
) -> None:
    with httpx.Client(base_url=server.https, verify=server.tls(), http2=True, timeout=20) as client:
        owner = Owner(client, log_in(curl))
        first = kid_of(owner.access[0])
        said = keys(server, "rotate")
        announced = said.split()[1].rstrip(".")
        assert states(server) == {first: "signing", announced: "announced"}
        owner.live(1.5)
        # Both workers know of it, and nobody signs with it for as long as copies of the JWKS may be old.
        for _ in range(8):
            shown = client.get("/.well-known/jwks.json")
            assert {key["kid"] for key in shown.json()["keys"]} == {first, announced}
        assert set(owner.accepted) == {first}
        # The same rotation as it would have been ten minutes ago, but for three seconds.
        ring = KeyRing(KeyFile(server.data_dir / "signing-keys.json"), clock=Earlier(2 * JWKS_MAX_AGE - 3))
        second = ring.rotate().kid
        owner.live(6)
        assert states(server)[first] == "retired"
        assert {kid: sorted(workers) for kid, workers in owner.accepted.items()} == {
            first: ["0", "1"],
            second: ["0", "1"],
        }
        # A stolen key: its tokens fail, and what the other one signs does not, though a worker may not have looked yet.
        keys(server, "retire", second)
        fresh = owner.refresh()
        for _ in range(20):
            while kid_of(fresh) == second:
                time.sleep(0.1)
                fresh = owner.refresh()
            assert client.get("/v1/me", headers={"authorization": f"Bearer {fresh}"}).status_code == 200
        time.sleep(1.1)  # that is how often a worker looks
        stolen = next(token for token in owner.access if kid_of(token) == second)
        assert {reply.status for reply in of_each_worker(curl, stolen)} == {401}
        assert {reply.status for reply in of_each_worker(curl, fresh)} == {200}
