"""What a client says about its own connection changes nothing, on any listener; and hosts we do not know are turned away."""

import json

import httpx
import pytest

from coatcheck.server.connection_facts import TRUSTED_HEADERS
from tests.clients.h3 import H3StreamReset, connect_h3
from tests.clients.raw import RawConnection, RawResponse
from tests.clients.serving import RunningServer

LISTENERS = ["plain", "tls", "h2", "h3"]
FORGED = [(name, "1.2.3.4:5") for name in TRUSTED_HEADERS] + [
    ("x-coatcheck-anything", "x"),
    ("x-envoy-retry-on", "5xx"),
]


async def ask(
    server: RunningServer, listener: str, headers: list[tuple[str, str]], host: str = "localhost"
) -> tuple[int, bytes]:
    if listener == "h3":
        async with connect_h3(server.https_port, server.ca) as client:
            answer = await client.request("GET", "/", headers, authority=host)
            return answer.status, answer.body
    if listener == "h2":
        async with httpx.AsyncClient(http1=False, http2=True, verify=server.tls()) as client:
            sent = await client.get(server.https, headers=[*headers, ("host", host)])
            return sent.status_code, sent.content
    port, tls = (server.http_port, None) if listener == "plain" else (server.https_port, server.tls())
    async with await RawConnection.open(port, tls) as connection:
        raw: RawResponse = await connection.request("GET", "/", headers, host=host)
        return raw.status, raw.body


@pytest.mark.parametrize("listener", LISTENERS)
async def test_forged_facts_change_nothing(echo: RunningServer, listener: str) -> None:
    status, body = await ask(echo, listener, FORGED)
    assert status == 200
    assert b"1.2.3.4" not in body
    answer = json.loads(body)
    assert answer["client"][0] == "127.0.0.1"
    assert answer["scheme"] == ("http" if listener == "plain" else "https")
    assert answer["protocol"] == {"h2": "HTTP/2", "h3": "HTTP/3"}.get(listener, "HTTP/1.1")
    assert (answer["tls_version"] is None) == (listener == "plain")
    names = {name for name, _ in answer["headers"]}
    assert not names & {*TRUSTED_HEADERS, "x-coatcheck-anything", "x-envoy-retry-on"}


@pytest.mark.parametrize("listener", LISTENERS)
async def test_a_header_with_an_underscore_is_refused(echo: RunningServer, listener: str) -> None:
    try:
        status, _ = await ask(echo, listener, [("x_coatcheck_client", "1.2.3.4:5")])
    except (H3StreamReset, httpx.RemoteProtocolError):
        return  # the edge may reset the stream instead of answering
    assert status == 400


@pytest.mark.parametrize("listener", LISTENERS)
async def test_an_unknown_host_is_misdirected(echo: RunningServer, listener: str) -> None:
    status, body = await ask(echo, listener, [], host="evil.example")
    assert status == 421, body


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]", "localhost:9"])
async def test_loopback_names_are_answered_whatever_the_port(echo: RunningServer, name: str) -> None:
    status, _ = await ask(echo, "plain", [], host=name)
    assert status == 200


async def test_an_escaped_slash_in_the_path_is_refused(echo: RunningServer) -> None:
    async with await RawConnection.open(echo.http_port) as connection:
        assert (await connection.request("GET", "/a%2fb")).status == 400


async def test_dots_in_the_path_are_resolved_before_it_is_routed(echo: RunningServer) -> None:
    async with await RawConnection.open(echo.http_port) as connection:
        assert (await connection.request("GET", "/a/../b/./c")).json()["path"] == "/b/c"


async def test_headers_too_long_are_431(echo: RunningServer) -> None:
    async with await RawConnection.open(echo.http_port) as connection:
        assert (await connection.request("GET", "/", [("x-long", "x" * 70_000)])).status == 431
