"""Requests that two parsers could read differently: refused, or read in one way. What hides in them is never served."""

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator

import httpx
import pytest

from tests.clients.h2 import RawH2
from tests.clients.h3 import H3StreamReset, connect_h3
from tests.clients.raw import RawConnection
from tests.clients.serving import ECHO, RunningServer, start_server
from tests.transports.ambiguous import ROWS

_NEXT = "/the-next-request"

# By row, what is answered where it is not 400 before the application sees anything: by the edge, and by workers alone.
# Each 200 was served once, with all that followed the headers as its body.
OTHERWISE: dict[str, tuple[int, int]] = {
    "te-unknown-alone": (501, 501),
    "te-twice": (501, 400),
    "te-twice-other": (501, 400),
    "te-chunked-chunked": (501, 400),
    "te-gzip-chunked": (501, 501),
    "te-chunked-identity": (501, 400),
    "te-after-bare-cr": (200, 400),  # the edge drops the CR: a strange value of an unknown header
    "cl-folded": (200, 400),  # the edge unfolds (RFC 9112, section 5.2)
    "header-folded": (200, 400),
    "lines-end-in-lf": (200, 400),  # as RFC 9112, section 2.2, allows
    "host-twice": (421, 400),
    "host-with-a-path": (400, 421),
    "host-with-user": (421, 421),
    "version-1.2": (200, 400),
    "version-2.0": (200, 400),
    "version-0.9": (200, 400),
    "request-line-with-two-spaces": (200, 200),
    "request-line-with-tabs": (200, 400),
    "connect": (403, 400),
    "websocket-refused": (403, 403),
    "upgrade-to-h2c": (200, 400),
    "content-length": (200, 200),
    "chunked": (200, 200),
    "chunked-in-capitals": (200, 200),
    "chunk-extension": (200, 200),
    "trailers": (200, 200),
    "get-with-a-body": (200, 200),
}
# After these the connection goes on, and the next request on it gets the next answer.
GOES_ON = {"host-twice", "host-with-user"}
CLOSES = {"version-1.2", "version-2.0", "version-0.9"}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = start_server(tmp_path_factory.mktemp("bare"), "--workers", "2", "--no-edge", app=ECHO)
    yield running
    assert running.stop() == 0, running.said()
    assert "Traceback" not in running.said()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=5) as client:
        yield client


@pytest.mark.parametrize("listener", ["plain", "tls", "bare"])
async def test_what_is_hidden_is_never_served(
    echo: RunningServer, bare: RunningServer, client: httpx.Client, listener: str
) -> None:
    server = bare if listener == "bare" else echo
    tls = echo.tls() if listener == "tls" else None
    port = echo.https_port if listener == "tls" else server.http_port

    async def attack(row: str) -> None:
        hidden, shown = paths()
        data = ROWS[row].replace(b"{hidden}", hidden.encode()).replace(b"{shown}", shown.encode())
        expected = OTHERWISE.get(row, (400, 400))[listener == "bare"]
        async with await RawConnection.open(port, tls) as connection:
            await connection.send(data)
            answer = await connection.response()
            assert answer.status == expected, answer
            if expected >= 400 and not row.startswith("websocket"):
                assert answer.header("content-type") == "application/problem+json"
            if (expected == 200 and row not in CLOSES) or (row in GOES_ON and listener != "bare"):
                following = await connection.request("GET", _NEXT)
                assert following.json()["path"] == _NEXT
            else:
                assert await connection.closed_by_server()
        if expected == 200:
            assert answer.json()["path"] == shown
            assert answer.json()["body_bytes"] == (0 if row == "version-0.9" else 58)
            assert b"1.2.3.4" not in answer.body, "a trailer passed for a header"
        assert seen(client, server, hidden) == 0
        assert seen(client, server, shown) <= 1

    assert await failures(attack, ROWS) == {}


H2_TRICKS: dict[str, list[tuple[str, str]]] = {
    "content-length-too-short": [("content-length", "0")],
    "content-length-too-long": [("content-length", "9999")],
    "content-length-twice": [("content-length", "58"), ("content-length", "0")],
    "content-length-negative": [("content-length", "-1")],
    "transfer-encoding": [("transfer-encoding", "chunked")],
    "connection": [("connection", "transfer-encoding")],
    "te": [("te", "chunked")],
    "value-with-line-end": [("x", "y\r\ntransfer-encoding: chunked")],
    "value-with-lf": [("x", "y\ntransfer-encoding: chunked")],
    "value-with-nul": [("x", "y\0z")],
    "name-with-colon": [("x: y\r\ntransfer-encoding", "chunked")],
    "name-with-line-end": [("x\r\ntransfer-encoding", "chunked")],
    "name-in-capitals": [("Transfer-Encoding", "chunked")],
    "name-with-space": [("transfer-encoding ", "chunked")],
    "method-with-request": [(":method", "POST / HTTP/1.1\r\nhost: localhost\r\n\r\nGET")],
    "path-with-request": [(":path", "/ HTTP/1.1\r\nhost: localhost\r\n\r\nGET /x")],
    "path-with-space": [(":path", "/x HTTP/1.1")],
    "path-without-slash": [(":path", "x")],
    "authority-with-line-end": [(":authority", "localhost\r\nx: y")],
    "scheme-with-path": [(":scheme", "http://evil.example/?")],
    "pseudo-header-twice": [(":path", "/a"), (":path", "/b")],
    "pseudo-header-unknown": [(":x", "y")],
    "pseudo-header-of-responses": [(":status", "200")],
}


def head(shown: str, trick: list[tuple[str, str]]) -> list[tuple[str, str]]:
    told = {name for name, _ in trick}
    pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", shown)]
    own = [each for each in trick if each[0].startswith(":")]
    return [each for each in pseudo if each[0] not in told] + own + [each for each in trick if each not in own]


async def test_http_2_cannot_write_http_1(echo: RunningServer, client: httpx.Client) -> None:
    async def attack(trick: str) -> None:
        hidden, shown = paths()
        body = f"GET {hidden} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
        async with await RawH2.open(echo.https_port, echo.tls()) as connection:
            stream = connection.begin("GET", "/")  # the connection works
            await connection.flush()
            assert (await connection.ended(stream)).status == 200
            stream = connection.send_raw(head(shown, H2_TRICKS[trick]), body)
            await connection.flush()
            answer = await connection.ended(stream)
        assert answer.status in (0, 400), answer
        assert seen(client, echo, hidden) == seen(client, echo, shown) == 0

    assert await failures(attack, H2_TRICKS) == {}


async def test_http_3_cannot_write_http_1(echo: RunningServer, client: httpx.Client) -> None:
    async def attack(trick: str) -> None:
        hidden, shown = paths()
        body = f"GET {hidden} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
        async with connect_h3(echo.https_port, echo.ca) as connection:
            stream = connection._begin(head(shown, H2_TRICKS[trick]), (), b"", end=False)
            stream.send(body, end=True)
            try:
                status = (await stream.finish()).status
            except H3StreamReset:
                status = 0
        assert status in (0, 400)
        assert seen(client, echo, hidden) == seen(client, echo, shown) == 0

    # Over QUIC any scheme passes, and is not looked at.
    assert await failures(attack, [trick for trick in H2_TRICKS if trick != "scheme-with-path"]) == {}


async def failures(attack: Callable[[str], Awaitable[None]], names: Iterable[str]) -> dict[str, str]:
    """What went wrong, by name; a few at a time."""
    few = asyncio.Semaphore(8)

    async def one(name: str) -> tuple[str, str] | None:
        async with few:
            try:
                await attack(name)
            except Exception as error:
                return name, repr(error)
        return None

    return dict(filter(None, await asyncio.gather(*(one(name) for name in names))))


def paths() -> tuple[str, str]:
    """Two of 24 characters that nobody has asked for before."""
    nonce = secrets.token_hex(8)
    return f"/hidden-{nonce}", f"/shown--{nonce}"


def seen(client: httpx.Client, server: RunningServer, path: str) -> int:
    """How many requests for that path have reached any worker."""
    return client.get(f"{server.http}/seen", params={"path": path}).json()


def test_paths_are_as_long_as_the_rows_say() -> None:
    assert {len(path) for path in paths()} == {24}
    assert all(re.fullmatch(rb"(?s).*\{(shown|hidden)\}.*", row) for row in ROWS.values())
