"""`coatcheck reload` where there is nothing to reload, or nobody who may; with a real server: tests/transports."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coatcheck.cli import app
from coatcheck.server.presence import Presence


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["reload", *arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.output


class Server:
    """This process, listed as a server: what it does when it is asked is the test's."""

    def __init__(self, presence: Presence) -> None:
        self.presence = presence
        self.asked = 0
        self.trouble = ""
        self.answers = True

    def hang_up(self, *_: Any) -> None:
        self.asked += 1
        if self.answers:
            self.presence.reload_begins()
            self.presence.reload_ends(self.trouble)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Presence(tmp_path, "127.0.0.1:8080") as presence:
        found = Server(presence)
        before = signal.signal(signal.SIGHUP, found.hang_up)
        yield found
        signal.signal(signal.SIGHUP, before)


def test_without_a_server_it_says_so(tmp_path: Path) -> None:
    assert run("--data-dir", str(tmp_path)) == (
        1,
        f"coatcheck: no server runs on {tmp_path}; name its data directory with --data-dir\n",
    )
    assert list(tmp_path.iterdir()) == []


def test_it_waits_until_the_workers_are_replaced(tmp_path: Path, server: Server) -> None:
    code, said = run("--data-dir", str(tmp_path))
    assert (code, server.asked) == (0, 1)
    assert said.startswith("Every worker of the server on 127.0.0.1:8080 (process ")


def test_it_fails_when_the_reload_stops_halfway(tmp_path: Path, server: Server) -> None:
    server.trouble = "worker 0 did not come up"
    code, said = run("--data-dir", str(tmp_path))
    assert code == 1
    assert said.endswith("stopped: worker 0 did not come up\n")


def test_it_need_not_wait(tmp_path: Path, server: Server) -> None:
    server.answers = False
    assert run("--data-dir", str(tmp_path), "--wait", "0")[0] == 0
    code, said = run("--data-dir", str(tmp_path), "--wait", "0.1")
    assert (code, server.asked) == (1, 2)
    assert "has not ended yet" in said


def test_a_reload_that_was_under_way_already_does_not_count(tmp_path: Path, server: Server) -> None:
    server.presence.reload_begins()
    server.answers = False
    assert "has not ended yet" in run("--data-dir", str(tmp_path), "--wait", "0.1")[1]
    server.presence.reload_ends()
    server.answers = True
    assert run("--data-dir", str(tmp_path))[0] == 0


def test_one_of_several_can_be_chosen(tmp_path: Path, server: Server) -> None:
    assert "no server with the process id 1 runs" in run("--data-dir", str(tmp_path), "--pid", "1")[1]
    assert server.asked == 0


def test_a_server_in_another_container_is_not_signalled_by_a_number_that_is_somebody_elses(
    tmp_path: Path, server: Server
) -> None:
    (entry,) = (path for path in (tmp_path / "servers").iterdir() if not path.suffix)
    entry.write_text(json.dumps({**json.loads(entry.read_text()), "namespace": 1}))
    code, said = run("--data-dir", str(tmp_path))
    assert (code, server.asked) == (1, 0)
    assert "in another container" in said
