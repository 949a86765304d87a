"""Starting, dying, being replaced and stopping: what an operator does to a server, and what happens to it."""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.clients.serving import ECHO, RunningServer, free_port, spawn_server, start_server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RunningServer]:
    """A server for one test, which may do to it what it likes."""
    running = start_server(tmp_path, "--workers", "2", app=ECHO)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def robust(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that is harmed in several tests and must be whole again after each."""
    running = start_server(tmp_path_factory.mktemp("robust"), "--workers", "2", app=ECHO)
    yield running
    assert running.stop() == 0, running.said()


def until(true: Callable[[], bool], within: float = 15.0) -> None:
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def works(server: RunningServer) -> bool:
    try:
        return httpx.get(server.http, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def both_serve(server: RunningServer) -> bool:
    with httpx.Client(timeout=5) as client:
        return {client.get(server.http).json()["worker"] for _ in range(12)} == {0, 1}


def reload(server: RunningServer) -> None:
    """Have the workers replaced, and wait until they are."""
    done = "every worker was replaced"
    before = server.said().count(done)
    server.process.send_signal(signal.SIGHUP)
    until(lambda: server.said().count(done) > before, 30)


def test_start_up_says_in_a_few_lines_what_is_served_where(echo: RunningServer) -> None:
    lines = echo.said().splitlines()
    assert len(lines) <= 6, lines
    assert echo.https in echo.said()
    assert echo.http in echo.said()
    assert str(echo.ca) in echo.said()


def test_nothing_listens_beyond_loopback(echo: RunningServer) -> None:
    inodes: set[str] = set()
    for pid in [echo.process.pid, *echo.children()]:
        for entry in (Path("/proc") / str(pid) / "fd").iterdir():
            try:
                target = os.readlink(entry)
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    listening: list[tuple[str, int]] = []
    for table, states in (("tcp", {"0A"}), ("tcp6", {"0A"}), ("udp", {"07"}), ("udp6", {"07"})):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            cells = line.split()
            if cells[9] in inodes and cells[3] in states:
                address, port = cells[1].split(":")
                listening.append((address, int(port, 16)))
    loopback = "0100007F"
    assert sorted(listening) == sorted(
        [(loopback, echo.http_port), (loopback, echo.https_port), (loopback, echo.https_port)]
    )


@pytest.mark.parametrize("taken", ["http", "https"])
def test_a_second_start_on_the_same_port_is_one_line(echo: RunningServer, tmp_path: Path, taken: str) -> None:
    http_port = echo.http_port if taken == "http" else free_port()
    https_port = echo.https_port if taken == "https" else free_port()
    second = spawn_server(tmp_path, http_port, https_port, app=ECHO)
    assert second.ended() == 1
    port = http_port if taken == "http" else https_port
    option = f"--{taken}-port"
    assert second.said() == (
        f"coatcheck: TCP port {port} on 127.0.0.1 is taken; stop what uses it, or choose another with {option}\n"
    )


def test_a_udp_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    port = free_port()
    with socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", port))
        server = spawn_server(tmp_path, free_port(), port, app=ECHO)
        assert server.ended() == 1
    assert server.said().startswith(f"coatcheck: UDP port {port} on 127.0.0.1 is taken")
    assert server.said().count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tls-cert", "/nowhere/cert.pem", "--tls-key", "/nowhere/key.pem"], "/nowhere/cert.pem cannot be read"),
        (["--tls-cert", "cert.pem"], "tls_cert and tls_key belong together"),
        (["--host", "example.org"], "not an IP address"),
        (["--app", "tests.transports.broken_app:create_app"], "did not come up"),
    ],
)
def test_what_keeps_it_from_starting_is_said(tmp_path: Path, options: list[str], words: str) -> None:
    server = spawn_server(tmp_path, free_port(), free_port(), *options)
    assert server.ended() == 1
    assert words in server.said().splitlines()[-1]
    assert "Traceback" not in server.said()


def test_an_unknown_setting_in_the_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "coatcheck.toml").write_text("workerz = 3\n")
    server = spawn_server(tmp_path, free_port(), free_port())
    assert server.ended() == 1
    assert server.said() == "coatcheck: coatcheck.toml: workerz: there is no such setting; did you mean 'workers'?\n"


def test_a_killed_worker_is_replaced_while_the_others_serve(robust: RunningServer) -> None:
    before = set(robust.workers())
    os.kill(min(before), signal.SIGKILL)
    for _ in range(20):
        assert works(robust)
    until(lambda: len(robust.workers()) == 2 and min(before) not in robust.workers())
    until(lambda: both_serve(robust))
    assert "was ended by SIGKILL; starting it again" in robust.said()


def test_a_worker_that_hangs_is_replaced_and_nobody_waits_for_it(robust: RunningServer) -> None:
    hung = min(robust.workers())
    os.kill(hung, signal.SIGSTOP)
    # At first the edge does not know, and a request may wait until it has asked in vain.
    until(lambda: "does not answer and is killed" in robust.said(), 30)
    for _ in range(10):
        assert works(robust)
    until(lambda: len(robust.workers()) == 2 and hung not in robust.workers())
    until(lambda: both_serve(robust))


def test_a_killed_edge_is_replaced_and_connections_get_new_names(robust: RunningServer) -> None:
    first = httpx.get(robust.http).json()["connection_id"]
    edge = robust.edge()
    os.kill(edge, signal.SIGKILL)
    until(lambda: works(robust))
    assert robust.edge() != edge
    assert httpx.get(robust.http).json()["connection_id"].split("-")[0] != first.split("-")[0]


def test_sigterm_lets_a_request_under_way_end_and_leaves_nothing_behind(own: RunningServer) -> None:
    children = own.children()
    answers: list[int] = []
    asking = threading.Thread(
        target=lambda: answers.append(httpx.get(f"{own.http}/slow?seconds=1", timeout=10).status_code)
    )
    asking.start()
    time.sleep(0.3)
    began = time.monotonic()
    assert own.stop() == 0, own.said()
    assert time.monotonic() - began < 5
    asking.join(5)
    assert answers == [200]
    assert not [pid for pid in children if alive(pid)]
    # Stopping is no event worth a line.
    assert own.said().splitlines()[-1] == "Stop it with Ctrl-C."


def test_a_second_signal_stops_at_once(own: RunningServer) -> None:
    children = own.children()

    def ask() -> None:
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{own.http}/slow?seconds=20", timeout=30)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.3)
    own.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert own.process.poll() is None, "the request under way is waited for"
    began = time.monotonic()
    own.stop()
    assert time.monotonic() - began < 3
    asking.join(5)
    assert not [pid for pid in children if alive(pid)]


def test_nothing_outlives_a_killed_supervisor(own: RunningServer, tmp_path: Path) -> None:
    children = own.children()
    assert len(children) == 3
    left = runtime_dir(own)
    own.stop(signal.SIGKILL)
    until(lambda: not [pid for pid in children if alive(pid)])
    # The next start clears away what is left.
    again = start_server(tmp_path, app=ECHO)
    again.stop()
    assert not left.exists()


def test_sighup_replaces_the_workers_one_by_one_without_a_failed_request(robust: RunningServer) -> None:
    before = set(robust.workers())
    stop = threading.Event()
    statuses: list[int] = []

    def load() -> None:
        with httpx.Client(timeout=10) as client:
            while not stop.is_set():
                statuses.append(client.post(robust.http, content=b"x").status_code)

    asking = threading.Thread(target=load)
    asking.start()
    try:
        reload(robust)
    finally:
        stop.set()
        asking.join(15)
    assert set(robust.workers()).isdisjoint(before)
    assert len(statuses) > 100
    assert set(statuses) == {200}


def test_a_second_start_reuses_the_data_directory(own: RunningServer, tmp_path: Path) -> None:
    authority = own.ca.read_bytes()
    own.stop()
    again = start_server(tmp_path, app=ECHO)
    try:
        assert again.ca.read_bytes() == authority
        assert httpx.get(again.https, verify=again.tls()).status_code == 200
    finally:
        again.stop()


def test_secrets_are_their_owners_alone(echo: RunningServer) -> None:
    assert echo.data_dir.stat().st_mode & 0o777 == 0o700
    for key in (echo.data_dir / "tls").glob("*.key"):
        assert key.stat().st_mode & 0o777 == 0o600
    words = next(command for command in echo.children().values() if "--config-path" in command).split()
    of_the_edge = Path(words[words.index("--config-path") + 1]).parent
    assert (of_the_edge / "admin.sock").stat().st_mode & 0o777 == 0o600
    for directory in (runtime_dir(echo), of_the_edge):
        assert directory.stat().st_mode & 0o777 == 0o700


def test_workers_are_not_told_where_the_edge_is_administered(echo: RunningServer) -> None:
    words = next(command for command in echo.children().values() if "--config-path" in command).split()
    of_the_edge = str(Path(words[words.index("--config-path") + 1]).parent)
    for pid in echo.workers():
        for told in ("cmdline", "environ"):
            assert of_the_edge not in (Path("/proc") / str(pid) / told).read_text()
    told = [path for path in runtime_dir(echo).iterdir() if path.is_file()]
    assert told
    for path in told:
        assert of_the_edge.encode() not in path.read_bytes()
        assert b"admin" not in path.read_bytes()


def test_a_replaced_certificate_is_taken_up_by_the_edge(robust: RunningServer) -> None:
    async def serial() -> int:
        _, writer = await asyncio.open_connection("localhost", robust.https_port, ssl=robust.tls())
        found = int(writer.get_extra_info("peercert")["serialNumber"], 16)
        writer.close()
        return found

    first = asyncio.run(serial())
    for name in ("localhost.pem", "localhost.key"):
        (robust.data_dir / "tls" / name).unlink()
    reload(robust)
    until(lambda: asyncio.run(serial()) != first)


def runtime_dir(server: RunningServer) -> Path:
    words = next(command for command in server.children().values() if "--runtime-dir" in command).split()
    return Path(words[words.index("--runtime-dir") + 1])
