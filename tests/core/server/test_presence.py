"""Which servers run on a data directory: listed while they live, forgotten when they do not, never mistaken."""

import json
import os
import subprocess
import sys
from pathlib import Path

from coatcheck.server.presence import Presence, RunningServer, running_servers


def test_a_server_is_found_from_its_start_to_its_end(tmp_path: Path) -> None:
    assert running_servers(tmp_path) == []
    with Presence(tmp_path, "127.0.0.1:8080") as presence:
        (found,) = running_servers(tmp_path)
        assert found == RunningServer(found.name, os.getpid(), "127.0.0.1:8080", 0, 0, "")
        presence.reload_begins()
        assert [(each.reloads_begun, each.reloads_ended) for each in running_servers(tmp_path)] == [(1, 0)]
        presence.reload_ends("worker 0 did not come up")
        (found,) = running_servers(tmp_path)
        assert (found.reloads_begun, found.reloads_ended, found.trouble) == (1, 1, "worker 0 did not come up")
        presence.reload_begins()
        assert running_servers(tmp_path)[0].trouble == ""
    assert running_servers(tmp_path) == []
    assert list((tmp_path / "servers").iterdir()) == []


def test_several_servers_may_share_a_data_directory(tmp_path: Path) -> None:
    with Presence(tmp_path, "127.0.0.1:1"), Presence(tmp_path, "127.0.0.1:2"):
        assert sorted(each.address for each in running_servers(tmp_path)) == ["127.0.0.1:1", "127.0.0.1:2"]


def test_a_killed_server_is_forgotten_whoever_has_its_number_now(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from coatcheck.server.presence import Presence\n"
        "Presence(Path(sys.argv[1]), 'gone').__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=30, check=False)
    assert list((tmp_path / "servers").iterdir()), "it left its entry"
    assert running_servers(tmp_path) == []
    assert list((tmp_path / "servers").iterdir()) == []


def test_a_server_in_another_container_is_listed_without_a_number(tmp_path: Path) -> None:
    with Presence(tmp_path, "127.0.0.1:1"):
        (entry,) = (path for path in (tmp_path / "servers").iterdir() if not path.suffix)
        entry.write_text(json.dumps({**json.loads(entry.read_text()), "namespace": 1}))
        assert [each.pid for each in running_servers(tmp_path)] == [None]


def test_only_its_owner_may_look(tmp_path: Path) -> None:
    with Presence(tmp_path, "127.0.0.1:1"):
        assert (tmp_path / "servers").stat().st_mode & 0o777 == 0o700


def test_an_entry_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    with Presence(tmp_path, "127.0.0.1:1") as presence:
        for path in (tmp_path / "servers").iterdir():
            path.unlink()
        (tmp_path / "servers").rmdir()
        presence.reload_begins()
        presence.reload_ends()
