"""A second process that has only the keys and the feed of revocations, beside a real server with two workers."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.clients.serving import ROOT, RunningServer, start_server

PASSWORD = "correct horse battery"
AUDIENCE = "https://orders.example.com"
ROUNDS = 10


class Service:
    """The other process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def waits_until(self, state: str, token: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"until": state, "token": token}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> tuple[str, float]:
        assert self.process.stdout is not None
        said = json.loads(self.process.stdout.readline())
        return said["state"], said["at"]

    def when(self, state: str, token: str) -> float:
        self.waits_until(state, token)
        found, at = self.answer()
        assert found == state
        return at

    def refused_or_unseen(self, token: str) -> float:
        """When it is refused, where workers went: their window went too, and what is older than the next is refused unseen."""
        self.waits_until("refused", token)
        found, at = self.answer()
        assert found == "refused" or "a new one will do" in found
        return at


@contextmanager
def service(server: RunningServer, audience: str) -> Iterator[Service]:
    name = f"orders-{uuid.uuid4().hex[:8]}"
    argv = [sys.executable, "-c", "from coatcheck.cli import main; main()", "services", "add", name, "--json"]
    argv += ["--audience", AUDIENCE, "--data-dir", str(server.data_dir)]
    added = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout)
    argv = [sys.executable, "-m", "tests.transports.verifying_service"]
    argv += [server.https, str(server.ca), audience, added["id"], added["secret"]]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Service(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0


class Account:
    """Somebody with an account, and a client of any form."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.form: dict[str, Any] = {"username": f"ada-{uuid.uuid4().hex[:8]}", "password": PASSWORD}
        with self.client() as client:
            assert client.post("/v1/users", json=self.form).status_code == 201

    def client(self) -> httpx.Client:
        """A connection of its own, so that each comes to a worker of the edge's choice."""
        return httpx.Client(verify=self.server.tls(), base_url=self.server.https, timeout=20)

    def tokens(self) -> dict[str, Any]:
        with self.client() as client:
            answer = client.post("/v1/login", json={**self.form, "mode": "token"})
            assert answer.status_code == 200, answer.text
            return dict(answer.json())


def eventually_good(other: Service, account: Account) -> dict[str, Any]:
    """Tokens that the other process takes: not those from before it and the server had started."""
    until = time.monotonic() + 30
    while True:
        tokens = account.tokens()
        other.waits_until("good", tokens["access_token"])
        if other.answer()[0] == "good":
            return tokens
        assert time.monotonic() < until
        time.sleep(0.2)


def test_a_token_dies_with_its_session_in_a_process_that_has_only_the_keys_and_the_feed(server: RunningServer) -> None:
    account = Account(server)
    took: list[float] = []
    with service(server, server.https) as other:
        eventually_good(other, account)
        for _ in range(ROUNDS):
            tokens = account.tokens()
            token = tokens["access_token"]
            other.when("good", token)
            other.waits_until("refused", token)
            with account.client() as client:
                headers = {"authorization": f"Bearer {token}"}
                assert client.post("/v1/logout", headers=headers).status_code == 204
                ended = time.monotonic()
            state, at = other.answer()
            assert state == "refused"
            took.append(at - ended)
    took.sort()
    print(
        f"\nlogout answered → refused elsewhere: median {took[ROUNDS // 2] * 1e3:.1f} ms, most {took[-1] * 1e3:.1f} ms"
    )
    assert took[-1] < 1.0


def test_so_does_a_token_that_a_browser_was_given_for_that_service(server: RunningServer) -> None:
    account = Account(server)
    with service(server, AUDIENCE) as other, account.client() as browser:
        assert browser.post("/v1/login", json=account.form).status_code == 200
        until = time.monotonic() + 30
        while True:
            answer = browser.post("/v1/token", json={"audience": AUDIENCE})
            assert answer.status_code == 200, answer.text
            token = answer.json()["access_token"]
            other.waits_until("good", token)
            if other.answer()[0] == "good":
                break
            assert time.monotonic() < until
            time.sleep(0.2)
        assert browser.post("/v1/logout").status_code == 204
        ended = time.monotonic()
        assert other.when("refused", token) - ended < 1.0


def test_a_worker_that_dies_takes_nothing_with_it(tmp_path: Path) -> None:
    server = start_server(tmp_path, "--workers", "2")
    try:
        account = Account(server)
        with service(server, server.https) as other:
            for pid in server.workers():
                tokens = eventually_good(other, account)
                with account.client() as client:
                    client.get("/healthz")  # a connection that stands, so that the logout comes at once
                    os.kill(pid, signal.SIGKILL)
                    headers = {"authorization": f"Bearer {tokens['access_token']}"}
                    # What went to the worker that is no more is for the client to send again.
                    while client.post("/v1/logout", headers=headers).status_code == 503:
                        time.sleep(0.02)
                    ended = time.monotonic()
                took = other.refused_or_unseen(tokens["access_token"]) - ended
                print(f"\nlogout answered by the other worker → refused elsewhere: {took * 1e3:.1f} ms")
                assert took < 5.0  # and while the feed is lost, nobody is let in
    finally:
        server.stop()


def test_a_feed_that_is_open_holds_no_drain_and_goes_on_at_the_worker_that_comes(tmp_path: Path) -> None:
    server = start_server(tmp_path, "--workers", "2")
    try:
        account = Account(server)
        with service(server, server.https) as other:
            tokens = eventually_good(other, account)
            argv = [sys.executable, "-c", "from coatcheck.cli import main; main()", "reload"]
            subprocess.run([*argv, "--data-dir", str(server.data_dir)], check=True, timeout=60, capture_output=True)
            # New workers know nothing of before: tokens that are issued from now on are good again within seconds.
            later = eventually_good(other, account)
            for each in (tokens, later):
                with account.client() as client:
                    headers = {"authorization": f"Bearer {each['access_token']}"}
                    assert client.post("/v1/logout", headers=headers).status_code == 204
                other.refused_or_unseen(each["access_token"])
            begun = time.monotonic()
            assert server.stop() == 0, server.said()
            print(f"\nstopped with a feed open in {time.monotonic() - begun:.1f} s")
            assert time.monotonic() - begun < 10
    finally:
        server.stop()
