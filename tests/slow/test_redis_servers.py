"""Two servers, as on two machines, with sessions in Redis, and accounts, throttling and keys in PostgreSQL: they behave as one."""

import asyncio
import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from coatcheck.accounts import Accounts
from tests.clients.postgres_server import PostgresServer
from tests.clients.redis_server import RedisServer
from tests.clients.serving import RunningServer, start_server

WHO = {"username": "ada", "password": "tangerine bicycle"}
WITHIN = 5.0


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer(appendonly="yes", appendfsync="always") as server:
        yield server


@pytest.fixture(scope="module")
def servers(
    redis: RedisServer, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[RunningServer]]:
    postgres.by_hand("CREATE DATABASE behind_redis")
    accounts = postgres.url(database="behind_redis")
    asyncio.run(Accounts(accounts).migrate())
    environment = {"COATCHECK_MASTER_SECRET": base64.b64encode(os.urandom(32)).decode(), "COATCHECK_KEYS": "database"}
    environment["COATCHECK_ISSUER"] = "https://login.example.com"
    running: list[RunningServer] = []
    for number in range(2):
        directory = tmp_path_factory.mktemp(f"machine{number}")
        options = ("--no-edge", "--workers", "1", "--metrics-port", "0", "--store", redis.url, "--accounts", accounts)
        running.append(start_server(directory, *options, env=environment))
    yield running
    for server in running:
        assert server.stop() == 0, server.said()


@pytest.fixture
def ada(servers: list[RunningServer]) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """A browser that speaks to both servers, with one cookie; it is logged in by the second."""
    here, there = (httpx.Client(base_url=server.http, timeout=20) for server in servers)
    with here, there:
        assert here.post("/v1/users", json={**WHO, "name": ""}).status_code in (201, 409)
        assert there.post("/v1/login", json=WHO).status_code == 200
        here.cookies.update(there.cookies)
        yield here, there


def soon(true: Callable[[], bool], within: float = 1.0) -> float:
    """Come again until it is so; give the seconds that it took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() < began + within
    return time.monotonic() - began


def socket_on(server: RunningServer, client: httpx.Client, *protocols: str) -> ClientConnection:
    headers = {} if protocols else {"cookie": "; ".join(f"{name}={value}" for name, value in client.cookies.items())}
    return connect(
        f"ws://localhost:{server.http_port}/v1/events",
        additional_headers=headers,
        subprotocols=[Subprotocol(each) for each in protocols] or None,
    )


def told(socket: ClientConnection, kind: str, session: str) -> dict[str, Any]:
    """What a socket tells of the first thing of a kind that happens to a session; of others it tells as well."""
    while True:
        message = json.loads(socket.recv(WITHIN))
        if message.get("session") == session and message.get("event") == kind:
            return message


def test_a_login_on_one_is_known_on_the_other_and_an_end_on_one_refused_there(
    servers: list[RunningServer], ada: tuple[httpx.Client, httpx.Client]
) -> None:
    here, there = ada
    for client in ada:
        assert client.get("/readyz").json()["feed"] == "ok"
    for client in (here, there, here):
        assert client.get("/v1/me").json()["username"] == "ada"
    assert there.post("/v1/users", json={**WHO, "name": ""}).status_code == 409
    assert here.post("/v1/logout").status_code == 204
    assert soon(lambda: there.get("/v1/me").status_code == 401) < 0.5


def test_access_tokens_of_one_are_good_on_the_other_until_their_session_ends(
    servers: list[RunningServer], ada: tuple[httpx.Client, httpx.Client]
) -> None:
    here, there = ada
    assert here.get("/.well-known/jwks.json").json() == there.get("/.well-known/jwks.json").json()
    pair = httpx.post(f"{servers[1].http}/v1/login", json={**WHO, "mode": "token"}, timeout=20).json()

    def may_enter(number: int, token: str) -> bool:
        headers = {"authorization": f"Bearer {token}"}
        return httpx.get(f"{servers[number].http}/v1/me", headers=headers, timeout=20).status_code == 200

    assert may_enter(0, pair["access_token"])
    assert may_enter(1, pair["access_token"])
    refreshed = httpx.post(
        f"{servers[0].http}/v1/token/refresh", json={"refresh_token": pair["refresh_token"]}, timeout=20
    )
    assert refreshed.status_code == 200, refreshed.text
    assert may_enter(1, refreshed.json()["access_token"])
    assert here.delete("/v1/sessions").status_code in (200, 204)  # all but the browser's
    soon(lambda: not may_enter(1, refreshed.json()["access_token"]))
    assert not may_enter(0, pair["access_token"])
    assert there.get("/v1/me").status_code == 200


def test_what_is_open_on_one_is_closed_by_an_end_on_the_other(
    servers: list[RunningServer], ada: tuple[httpx.Client, httpx.Client]
) -> None:
    here, there = ada
    with socket_on(servers[0], here) as near, socket_on(servers[1], there) as far:
        assert here.get("/v1/me").status_code == 200
        began = time.monotonic()
        assert there.post("/v1/logout").status_code == 204
        for socket in (near, far):
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(WITHIN)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4401
        assert time.monotonic() - began < 2


def test_a_ticket_of_one_opens_one_connection_on_the_other(
    servers: list[RunningServer], ada: tuple[httpx.Client, httpx.Client]
) -> None:
    here, _ = ada
    ticket = here.post("/v1/tickets").json()["ticket"]
    with socket_on(servers[1], here, "coatcheck", f"coatcheck.ticket.{ticket}") as socket:
        socket.send('{"id": 1, "type": "list"}')
        assert [each["current"] for each in json.loads(socket.recv(WITHIN))["result"]["sessions"]].count(True) == 1
    for server in servers:
        with pytest.raises(InvalidStatus) as refused:
            socket_on(server, here, "coatcheck", f"coatcheck.ticket.{ticket}")
        assert refused.value.response.status_code == 401


def test_what_happens_on_one_is_told_on_the_other(
    servers: list[RunningServer], ada: tuple[httpx.Client, httpx.Client]
) -> None:
    here, there = ada
    with socket_on(servers[1], there) as socket:
        socket.send('{"id": 1, "type": "subscribe", "topics": ["sessions"]}')
        assert json.loads(socket.recv(WITHIN))["type"] == "reply"
        other = httpx.Client(base_url=servers[0].http, timeout=20)
        with other:
            made = other.post("/v1/login", json=WHO).json()["session"]["id"]
            assert told(socket, "created", made)
            assert other.post("/v1/logout").status_code == 204
            assert told(socket, "ended", made)
    listed = here.get("/v1/sessions").json()
    assert made not in json.dumps(listed)


def test_guesses_are_counted_for_both_together(servers: list[RunningServer]) -> None:
    form = {"username": "grace", "password": "a nanosecond of wire"}
    assert httpx.post(f"{servers[0].http}/v1/users", json={**form, "name": ""}, timeout=20).status_code == 201
    wrong = {**form, "password": "marmalade submarine"}
    answers = [
        httpx.post(f"{server.http}/v1/login", json=wrong, timeout=20).status_code
        for _ in range(7)
        for server in servers
    ]
    assert sorted(set(answers)) == [401, 429]
    assert answers.count(401) == 10


def test_while_redis_is_away_both_say_so_and_both_are_back_by_themselves(
    servers: list[RunningServer], ada: tuple[httpx.Client, httpx.Client], redis: RedisServer
) -> None:
    here, there = ada
    redis.kill()
    for client in ada:
        soon(lambda client=client: client.get("/v1/me").status_code == 503, within=10)
        assert int(client.get("/v1/me").headers["retry-after"]) >= 1
    redis.start()
    for client in ada:
        soon(lambda client=client: client.get("/v1/me").status_code == 200, within=10)
    assert here.post("/v1/logout").status_code == 204
    soon(lambda: there.get("/v1/me").status_code == 401)
