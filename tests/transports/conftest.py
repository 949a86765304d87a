"""One real server for each process that runs tests, on free ports, in a temporary directory."""

from collections.abc import Iterator

import pytest

from tests.clients.serving import ECHO, RunningServer, start_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Coatcheck as users run it, with two workers."""
    running = start_server(tmp_path_factory.mktemp("server"), "--workers", "2")
    yield running
    assert running.stop() == 0, running.said()


@pytest.fixture(scope="session")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The same edge and workers before an application that says what reached it."""
    running = start_server(tmp_path_factory.mktemp("echo"), "--workers", "2", app=ECHO)
    yield running
    assert running.stop() == 0, running.said()
