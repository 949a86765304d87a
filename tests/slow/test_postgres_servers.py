"""Two servers, as on two machines, with sessions, accounts, throttling and signing keys in one database: they behave as one."""

import asyncio
import base64
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from coatcheck.accounts import Accounts
from coatcheck.stores.postgres import PostgresStore
from tests.clients.postgres_server import PgBouncer, PostgresServer
from tests.clients.serving import RunningServer, start_server

WHO = {"username": "ada", "password": "tangerine bicycle"}


@pytest.fixture
def servers(
    postgres: PostgresServer, pgbouncer: PgBouncer, schema: str, tmp_path: Path
) -> Iterator[list[RunningServer]]:
    """One of them behind PgBouncer, the other one not."""
    postgres.by_hand(f"CREATE DATABASE {schema}")
    direct = postgres.url(database=schema)
    behind = pgbouncer.url(database=schema)
    asyncio.run(PostgresStore(direct).migrate())
    asyncio.run(Accounts(direct).migrate())
    environment = {"COATCHECK_MASTER_SECRET": base64.b64encode(os.urandom(32)).decode(), "COATCHECK_KEYS": "database"}
    environment["COATCHECK_ISSUER"] = "https://login.example.com"
    running: list[RunningServer] = []
    for number, (store, accounts) in enumerate(
        [(direct, direct), (f"{behind}?feed_url=//127.0.0.1:{postgres.port}", behind)]
    ):
        directory = tmp_path / str(number)
        directory.mkdir()
        options = ("--no-edge", "--workers", "1", "--metrics-port", "0", "--store", store, "--accounts", accounts)
        running.append(start_server(directory, *options, env=environment))
    yield running
    for server in running:
        assert server.stop() == 0, server.said()


def test_servers_on_one_database_are_one(servers: list[RunningServer]) -> None:
    here, there = (httpx.Client(base_url=server.http, timeout=20) for server in servers)
    with here, there:
        for client in (here, there):
            assert client.get("/readyz").json()["feed"] == "ok"
        assert here.post("/v1/users", json={**WHO, "name": ""}).status_code == 201
        assert there.post("/v1/users", json={**WHO, "name": ""}).status_code == 409
        assert there.post("/v1/login", json=WHO).status_code == 200
        here.cookies.update(there.cookies)
        for client in (here, there, here):
            assert client.get("/v1/me").json()["username"] == "ada"
        token = httpx.post(f"{servers[1].http}/v1/login", json={**WHO, "mode": "token"}, timeout=20).json()[
            "access_token"
        ]
        bearer = {"authorization": f"Bearer {token}"}

        def may_enter(number: int) -> bool:
            return httpx.get(f"{servers[number].http}/v1/me", headers=bearer, timeout=20).status_code == 200

        assert may_enter(0)
        assert may_enter(1)
        assert here.delete("/v1/sessions").status_code in (200, 204)  # all but this one
        ended = time.monotonic()
        while may_enter(1):
            assert time.monotonic() < ended + 1
        assert here.post("/v1/logout").status_code == 204
        ended = time.monotonic()
        while there.get("/v1/me").status_code != 401:
            assert time.monotonic() < ended + 1
        # Guesses are counted for both together.
        wrong = {**WHO, "password": "marmalade submarine"}
        answers = [
            httpx.post(f"{server.http}/v1/login", json=wrong, timeout=20).status_code
            for _ in range(7)
            for server in servers
        ]
        assert sorted(set(answers)) == [401, 429]
        assert answers.count(401) == 10
