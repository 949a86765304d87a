import asyncio
from pathlib import Path

import pytest

from coatcheck.accounts import Accounts, AccountsUnavailable, User
from coatcheck.server import edge_feed
from coatcheck.server.context import EDGE_STATISTICS_FILE
from coatcheck.server.edge_feed import write_statistics
from coatcheck.server.rest import health
from tests.core.server.house import WORKER, House
from tests.slow.server.test_rest_problems import assert_problem


async def test_the_connection_is_described_to_anybody(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        first, second = (await client.get("/v1/connection")).json(), (await client.get("/v1/connection")).json()
        assert first["protocol"] == "HTTP/1.1"
        assert first["scheme"] == "https"
        assert (first["client_address"], first["client_port"]) == ("192.0.2.7", 50000)
        assert first["worker"] == WORKER
        assert first["connection_id"] == second["connection_id"]
        assert (first["requests"], second["requests"]) == (1, 2)


async def test_what_a_client_says_of_its_connection_is_not_believed(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        forged = {
            "x-coatcheck-protocol": "HTTP/9",
            "x-coatcheck-client": "198.51.100.1:1",
            "x-coatcheck-tls-version": "TLSv9",
        }
        told = (await client.get("/v1/connection", headers=forged)).json()
        assert (told["protocol"], told["client_address"], told["tls"]) == ("HTTP/1.1", "192.0.2.7", None)


async def test_a_worker_is_alive_until_it_is_told_to_leave(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        house.worker.draining = True
        assert_problem(await client.get("/healthz"), 503)
        assert_problem(await client.get("/readyz"), 503)


async def test_a_worker_without_its_store_is_alive_but_not_ready(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        assert (await client.get("/readyz")).json() == {"status": "ok", "store": "ok", "feed": "ok", "edge": "none"}
        house.store.down = True
        assert (await client.get("/healthz")).status_code == 200
        answer = await client.get("/readyz")
        assert_problem(answer, 503)
        assert answer.headers["retry-after"]
        house.store.down = False
        assert (await client.get("/readyz")).status_code == 200


async def test_a_worker_that_hears_of_no_changes_is_not_ready(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        assert house.sessions._feed is not None
        house.sessions._feed._failing = True
        answer = await client.get("/readyz")
        assert_problem(answer, 503)
        assert "not heard of" in answer.json()["detail"]


async def test_a_worker_whose_edge_is_away_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with House(tmp_path) as house, house.client() as client:
        house.worker.edge = True
        assert_problem(await client.get("/readyz"), 503)
        write_statistics(tmp_path / EDGE_STATISTICS_FILE, {"http.tls.downstream_rq_total": 7})
        assert (await client.get("/readyz")).json()["edge"] == "ok"
        known = house.worker.edge_statistics()
        assert known is not None and known.counters == {"http.tls.downstream_rq_total": 7} and known.age < 5
        monkeypatch.setattr(edge_feed, "_TOO_OLD", 0.0)
        assert_problem(await client.get("/readyz"), 503)
        (tmp_path / EDGE_STATISTICS_FILE).write_text("{half")
        assert_problem(await client.get("/readyz"), 503)


async def test_a_worker_without_its_accounts_is_not_ready(tmp_path: Path) -> None:
    class Away(Accounts):
        async def get(self, user_id: str) -> User | None:
            raise AccountsUnavailable("away")

    async with House(tmp_path, accounts=Away) as house, house.client() as client:
        assert_problem(await client.get("/readyz"), 503)


async def test_a_database_that_does_not_answer_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_PATIENCE", 0.05)
    async with House(tmp_path) as house, house.client() as client:
        gate = house.store.hold("list_user", "before")
        asked = asyncio.create_task(client.get("/readyz"))
        await gate.arrived.wait()
        assert_problem(await asked, 503)
        gate.release()


async def test_what_the_edge_says_of_tls_is_shown(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        house.worker.edge = True
        said = {
            "x-coatcheck-connection": "b-1",
            "x-coatcheck-protocol": "HTTP/3",
            "x-coatcheck-client": "[2001:db8::7]:4433",
            "x-coatcheck-tls-version": "TLSv1.3",
            "x-coatcheck-tls-cipher": "TLS_AES_128_GCM_SHA256",
            "x-coatcheck-server-name": "localhost",
            "x-coatcheck-age-ms": "12",
            "x-forwarded-proto": "https",
        }
        assert (await client.get("/v1/connection", headers=said)).json() == {
            "protocol": "HTTP/3",
            "connection_id": "b-1",
            "requests": 1,
            "scheme": "https",
            "tls": {"version": "TLSv1.3", "cipher": "TLS_AES_128_GCM_SHA256", "server_name": "localhost"},
            "age_ms": 12,
            "client_address": "2001:db8::7",
            "client_port": 4433,
            "worker": WORKER,
        }
