"""Behind a load balancer: the client is whom it names, its word on TLS counts, and nobody else's does."""

from collections.abc import Iterator

import pytest

from coatcheck.server.settings import Limits
from tests.clients.edge_alone import EdgeAlone, edge_alone
from tests.clients.raw import RawConnection, RawResponse
from tests.clients.serving import ECHO, RunningServer, start_server

PUBLIC = "login.example.com"
ORIGIN = f"https://{PUBLIC}:8443"
ENV = {"COATCHECK_HSTS_MAX_AGE": "77"}
TWO = ["--workers", "1", "--trusted-proxies", "2", "--public-origin", ORIGIN]


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A whole server that is told of two proxies."""
    running = start_server(tmp_path_factory.mktemp("edge"), *TWO, app=ECHO, env=ENV)
    yield running
    assert running.stop() == 0, running.said()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Workers alone that are told of two proxies."""
    running = start_server(tmp_path_factory.mktemp("bare"), *TWO, "--no-edge", app=ECHO, env=ENV)
    yield running
    assert running.stop() == 0, running.said()


@pytest.fixture(params=["edge", "bare"])
def server(request: pytest.FixtureRequest) -> RunningServer:
    return request.getfixturevalue(request.param)


async def ask(
    server: RunningServer | EdgeAlone, *forwarded_for: str, proto: str | None = None, host: str = "localhost"
) -> RawResponse:
    headers = [("x-forwarded-for", value) for value in forwarded_for]
    headers += [("x-forwarded-proto", proto)] if proto is not None else []
    async with await RawConnection.open(server.http_port) as connection:
        return await connection.request("GET", "/", headers, host=host)


@pytest.mark.parametrize(
    ("entries", "client"),
    [
        (("203.0.113.9, 10.0.0.1",), "203.0.113.9"),
        (("6.6.6.6, 7.7.7.7, 203.0.113.9, 10.0.0.1",), "203.0.113.9"),
        (("6.6.6.6", "203.0.113.9", "10.0.0.1"), "203.0.113.9"),
        (("2001:db8::7, 10.0.0.1",), "2001:db8::7"),
        (("::ffff:203.0.113.9, 10.0.0.1",), "203.0.113.9"),
        (("203.0.113.9, garbage",), "203.0.113.9"),  # what the nearest says of the one before it is not looked at
        (("203.0.113.9",), "127.0.0.1"),
        ((), "127.0.0.1"),
        (("",), "127.0.0.1"),
        (("garbage, 10.0.0.1",), "127.0.0.1"),
        (("203.0.113.9:443, 10.0.0.1",), "127.0.0.1"),
        (("203.0.113.9, garbage, 10.0.0.1",), "127.0.0.1"),
    ],
)
async def test_the_client_is_counted_from_the_right(
    server: RunningServer, entries: tuple[str, ...], client: str
) -> None:
    answer = (await ask(server, *entries)).json()
    assert answer["client"][0] == answer["asgi_client"][0] == client
    assert (answer["client"][1] == 0) == (client != "127.0.0.1")
    assert not [name for name, _ in answer["headers"] if name.startswith("x-forwarded")]


@pytest.mark.parametrize(
    ("entries", "proto", "scheme"),
    [
        ("203.0.113.9, 10.0.0.1", "https", "https"),
        ("203.0.113.9, 10.0.0.1", "http", "http"),
        ("203.0.113.9, 10.0.0.1", None, "http"),
        ("203.0.113.9, 10.0.0.1", "https,http", "http"),
        ("203.0.113.9, 10.0.0.1", "gopher", "http"),
        ("203.0.113.9", "https", "http"),
        ("garbage, 10.0.0.1", "https", "http"),
        ("1.2.3, 10.0.0.1", "https", "http"),
        ("203.0.113.999, 10.0.0.1", "https", "http"),
        ("203.0.113.9:80, 10.0.0.1", "https", "http"),
    ],
)
async def test_tls_at_the_proxy_counts_only_with_as_many_hops(
    server: RunningServer, entries: str, proto: str | None, scheme: str
) -> None:
    assert (await ask(server, entries, proto=proto)).json()["scheme"] == scheme


async def test_a_public_host_is_served_if_it_came_over_tls_and_else_sent_there(server: RunningServer) -> None:
    through = await ask(server, "203.0.113.9, 10.0.0.1", proto="https", host=PUBLIC)
    assert through.json()["scheme"] == "https"
    assert through.header("strict-transport-security") == "max-age=77"
    for entries, proto in (("203.0.113.9, 10.0.0.1", "http"), ("203.0.113.9", "https")):
        plain = await ask(server, entries, proto=proto, host=PUBLIC)
        assert (plain.status, plain.header("location")) == (308, f"{ORIGIN}/")
        assert plain.header("strict-transport-security") is None


async def test_an_unknown_host_is_misdirected_but_for_the_question_whether_all_is_well(server: RunningServer) -> None:
    assert (await ask(server, "203.0.113.9, 10.0.0.1", proto="https", host="10.0.0.5")).status == 421
    async with await RawConnection.open(server.http_port) as connection:
        assert (await connection.request("GET", "/readyz", host="10.0.0.5")).status == 200


# -- requests by address, which take a client that is not on loopback --------------------------------------------------


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeAlone]:
    limits = Limits(requests_per_second=1, requests_burst=5)
    with edge_alone(tmp_path_factory.mktemp("strict"), trusted_proxies=1, limits=limits) as edge:
        yield edge


async def statuses(edge: EdgeAlone, *clients: str) -> list[int]:
    return [(await ask(edge, client)).status for client in clients]


async def test_too_many_requests_from_one_address_are_429_and_others_are_served(strict: EdgeAlone) -> None:
    found = await statuses(strict, *["198.51.100.1"] * 12)
    assert found[:5] == [200] * 5
    assert 429 in found
    refused = await ask(strict, "198.51.100.1")
    assert (refused.status, refused.header("content-type")) == (429, "application/problem+json")
    assert refused.header("retry-after") == "1"
    assert refused.header("x-content-type-options") == "nosniff"
    assert refused.json()["status"] == 429
    assert await statuses(strict, "198.51.100.2") == [200]


async def test_an_ipv6_address_stands_for_its_network(strict: EdgeAlone) -> None:
    assert 429 in await statuses(strict, *(f"2001:db8:1:1::{number:x}" for number in range(12)))
    assert await statuses(strict, "2001:db8:1:2::1") == [200]


async def test_this_machine_itself_is_not_counted(strict: EdgeAlone) -> None:
    assert set(await statuses(strict, *["127.0.0.1"] * 12, *["::1"] * 12)) == {200}
    async with await RawConnection.open(strict.https_port, strict.tls()) as connection:
        assert {(await connection.request("GET", "/")).status for _ in range(12)} == {200}
