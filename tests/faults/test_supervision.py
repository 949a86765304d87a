"""What the supervisor does beyond starting again what died: told connections, reloads that go wrong, an edge that hangs."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.clients.serving import RunningServer, start_server
from tests.clients.storm import APP, PASSWORD

WORKERS = ("--workers", "2")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that must be whole again after each test."""
    running = start_server(tmp_path_factory.mktemp("server"), *WORKERS, app=APP)
    yield running
    assert running.stop() == 0, running.said()


def reload(server: RunningServer, *options: str) -> tuple[int, str]:
    """`coatcheck reload`, its status and what it said."""
    command = [sys.executable, "-c", "from coatcheck.cli import main; main()", "reload", *options]
    done = subprocess.run(
        [*command, "--data-dir", str(server.data_dir)], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


def until(true: Callable[[], bool], within: float = 20.0) -> None:
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)


@contextmanager
def stopped_at_last(server: RunningServer) -> Iterator[None]:
    try:
        yield
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait(10)


@contextmanager
def log_in(server: RunningServer, username: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.https, verify=server.tls(), timeout=20) as client:
        account = {"username": username, "password": PASSWORD}
        assert client.post("/v1/users", json={**account, "name": ""}).status_code == 201
        assert client.post("/v1/login", json=account).status_code == 200
        yield client


async def open_socket(server: RunningServer, client: httpx.Client | None) -> ClientConnection:
    headers = {} if client is None else {"cookie": f"__Host-session={client.cookies['__Host-session']}"}
    socket = await connect(
        f"wss://localhost:{server.https_port}/test/socket",
        ssl=server.tls(),
        host="127.0.0.1",
        additional_headers=headers,
        origin=server.https,
    )
    assert "user" in str(await asyncio.wait_for(socket.recv(), 5))
    return socket


async def closing(socket: ClientConnection) -> tuple[float, int]:
    """When the server closed it, and with which code."""
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(socket.recv(), 20)
    assert socket.close_code is not None
    return time.monotonic(), socket.close_code


async def test_a_stop_tells_websockets_first_then_waits_for_requests_and_cuts_what_takes_too_long(
    tmp_path: Path,
) -> None:
    (tmp_path / "coatcheck.toml").write_text("[limits]\ndrain_timeout = 5\n")
    server = start_server(tmp_path, *WORKERS, app=APP)
    with stopped_at_last(server), log_in(server, "ann") as client:
        sockets = [await open_socket(server, each) for each in (client, client, None)]
        slow, endless = (
            asyncio.create_task(asyncio.to_thread(client.get, f"/test/number?seconds={seconds}")) for seconds in (3, 60)
        )
        await asyncio.sleep(0.3)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        for socket in sockets:
            when, code = await closing(socket)
            assert code == 1012
            assert when - began < 2
        assert not slow.done()
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.http)
        assert (await slow).status_code == 200
        with pytest.raises(httpx.HTTPError):
            await endless
        assert await asyncio.to_thread(server.ended) == 0
        assert 5 <= time.monotonic() - began < 5 + 5
    said = [line for line in server.said().splitlines() if line.startswith("coatcheck:")]
    assert said == ["coatcheck: requests that did not end within 5 s and were cut: 1"]


def test_a_reload_that_cannot_work_leaves_a_server_that_does(server: RunningServer) -> None:
    config = server.output.parent / "coatcheck.toml"
    before = set(server.workers())
    config.write_text('registration = "perhaps"\n')
    code, said = reload(server)
    assert (code, "registration" in said) == (1, True)
    assert set(server.workers()) == before
    config.write_text('store = "nowhere://"\n')
    code, said = reload(server)
    config.unlink()
    assert (code, "worker 0 did not come up" in said) == (1, True)
    assert len(before & set(server.workers())) == 1
    # What did not come up is started again, with the settings that are known to work.
    with httpx.Client(timeout=10) as client:
        until(lambda: {client.get(f"{server.http}/v1/connection").json()["worker"] for _ in range(8)} == {0, 1})


async def test_a_reload_takes_new_settings_and_closes_websockets_with_1012(server: RunningServer) -> None:
    config = server.output.parent / "coatcheck.toml"
    with log_in(server, "ann") as client:
        sockets = [await open_socket(server, each) for each in (client, client, client, client, None, None)]
        config.write_text('registration = "closed"\ntrusted_proxies = 1\n')
        code, said = await asyncio.to_thread(reload, server)
        config.unlink()
        assert (code, said.startswith("Every worker of the server on 127.0.0.1:")) == (0, True), said
        assert {(await closing(socket))[1] for socket in sockets} == {1012}
        # The sessions live on.
        await (await open_socket(server, client)).close()
        late = {"username": "late", "password": PASSWORD, "name": ""}
        assert {client.post("/v1/users", json=late).status_code for _ in range(6)} == {403}
    assert "trusted_proxies: what was changed takes effect at the next start" in server.said()


def test_an_edge_that_hangs_is_replaced(server: RunningServer) -> None:
    hung = server.edge()
    os.kill(hung, signal.SIGSTOP)
    until(lambda: "the edge (Envoy) does not answer and is killed" in server.said(), 30)
    until(lambda: hung not in server.children())

    def works() -> bool:
        try:
            return httpx.get(f"{server.http}/readyz", timeout=5).json() == {
                "status": "ok",
                "store": "ok",
                "feed": "ok",
                "edge": "ok",
            }
        except httpx.HTTPError:
            return False

    until(works)


def test_a_worker_that_dies_at_once_is_started_again_less_and_less_often(server: RunningServer) -> None:
    said = len(server.said())

    def pauses() -> list[float]:
        return [float(found) for found in re.findall(r"starting it again in ([\d.]+) s", server.said()[said:])]

    victim = min(server.workers())
    number = re.search(r"--worker-id (\d)", server.children()[victim])
    assert number is not None

    def current() -> list[int]:
        return [pid for pid, command in server.children().items() if f"--worker-id {number[1]}" in command]

    while len(pauses()) < 4:
        for pid in current():
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    assert pauses() == sorted(pauses())
    assert pauses()[-1] >= 4 * pauses()[0]
    assert httpx.get(f"{server.http}/v1/connection").status_code == 200
    until(lambda: len(server.workers()) == 2)
