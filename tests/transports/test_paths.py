"""Addresses written with tricks: the application sees one plain path, or nothing at all."""

from collections.abc import Iterator

import pytest

from tests.clients.h2 import RawH2
from tests.clients.h3 import H3StreamReset, connect_h3
from tests.clients.raw import RawConnection
from tests.clients.serving import ECHO, RunningServer, start_server

# By target: what the edge makes of it, and workers alone; a number is a refusal, a text the path as the application sees it.
TARGETS: dict[str, tuple[int | str, int | str]] = {
    "/a%2fb": (400, 400),
    "/a%2Fb": (400, 400),
    "/a%5cb": (400, 400),
    "/%2e%2e/b": ("/b", 400),
    "/a/%2e%2e/b": ("/b", 400),
    "/a/%2E./b": ("/b", 400),
    "/a/../b": ("/b", 400),
    "/a/./b": ("/a/b", 400),
    "/../../b": ("/b", 400),
    "/a/..": ("/", 400),
    "/a/..;/b": ("/b", "/a/..;/b"),
    # Decoded once, by the worker, and never again.
    "/%252e%252e/b": ("/%2e%2e/b", "/%2e%2e/b"),
    "/a%252fb": ("/a%2fb", "/a%2fb"),
    "/%25%32%66": ("/%2f", "/%2f"),
    "/a\\b": ("/a/b", 400),
    "/a%00b": (400, 400),
    "/%": ("/%", "/%"),
    "/%zz": ("/%zz", "/%zz"),
    "//evil.example/b": ("//evil.example/b", "//evil.example/b"),
    "//b": ("//b", "//b"),
    "/a//b": ("/a//b", "/a//b"),
    "/a#b": (400, 400),
    "/a?x=/../%2f\\": ("/a", "/a"),
    "/%c0%ae%c0%ae/b": ("/\ufffd\ufffd\ufffd\ufffd/b", "/\ufffd\ufffd\ufffd\ufffd/b"),
    "*": (400, 400),
    "a": (400, 400),
    "?": (400, 400),
    "http://localhost/a": ("/a", 400),
    "http://localhost/a/../b": ("/b", 400),
    "http://localhost": ("/", 400),
    "http://evil.example/a": (421, 400),
    "http://localhost@evil.example/a": (421, 400),
    "ftp://localhost/a": (400, 400),
    "//localhost/a": ("//localhost/a", "//localhost/a"),
}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = start_server(tmp_path_factory.mktemp("bare"), "--workers", "2", "--no-edge", app=ECHO)
    yield running
    assert running.stop() == 0, running.said()
    assert "Traceback" not in running.said()


@pytest.mark.parametrize("listener", ["plain", "tls", "bare"])
async def test_a_path_is_plain_or_refused(echo: RunningServer, bare: RunningServer, listener: str) -> None:
    server = bare if listener == "bare" else echo
    port, tls = (echo.https_port, echo.tls()) if listener == "tls" else (server.http_port, None)
    found: dict[str, int | str] = {}
    for target in TARGETS:
        async with await RawConnection.open(port, tls) as connection:
            answer = await connection.request("GET", target)
            found[target] = answer.json()["path"] if answer.status == 200 else answer.status
    assert found == {target: expected[listener == "bare"] for target, expected in TARGETS.items()}


async def test_the_same_over_http_2_and_3(echo: RunningServer) -> None:
    wrong: dict[str, object] = {}
    async with await RawH2.open(echo.https_port, echo.tls()) as over_2, connect_h3(echo.https_port, echo.ca) as over_3:
        for target, (expected, _) in TARGETS.items():
            if "//" in target[:8] and not target.startswith("/"):
                continue  # there is no absolute form: the authority has a place of its own
            stream = over_2.begin("GET", target)
            await over_2.flush()
            second = await over_2.ended(stream)
            found: list[int | str] = [second.json()["path"] if second.status == 200 else second.status]
            try:
                third = await over_3.request("GET", target)
                found.append(third.json()["path"] if third.status == 200 else third.status)
            except H3StreamReset:
                found.append(0)
            # A stream may be reset instead of being answered.
            if any(each not in (0, expected) for each in found):
                wrong[target] = found
    assert wrong == {}


async def test_a_host_that_is_named_twice_decides_nothing(echo: RunningServer) -> None:
    """RFC 9112, section 3.2.2: an absolute form's host is the one that counts."""
    async with await RawConnection.open(echo.http_port) as connection:
        answer = await connection.request("GET", "http://localhost/a", host="evil.example")
        assert dict(answer.json()["headers"])["host"] == "localhost"
        assert (await connection.request("GET", "http://evil.example/a", host="localhost")).status == 421
