"""What is known about a connection, from whom, and how requests are counted."""

from collections.abc import Awaitable, MutableMapping
from pathlib import Path
from typing import Any

import pytest

from coatcheck.server.connection_facts import (
    LOCAL_CONNECTION,
    TRUSTED_HEADERS,
    ConnectionFacts,
    ConnectionFactsMiddleware,
    LocalConnection,
    connection_of,
)
from coatcheck.server.connection_table import ConnectionTable
from coatcheck.server.context import WorkerContext

FROM_EDGE = [
    (b"host", b"localhost"),
    (b"x-coatcheck-connection", b"b007-18446744073709551615"),
    (b"x-coatcheck-protocol", b"HTTP/3"),
    (b"x-coatcheck-tls-version", b"TLSv1.3"),
    (b"x-coatcheck-tls-cipher", b"TLS_AES_128_GCM_SHA256"),
    (b"x-coatcheck-server-name", b"-"),
    (b"x-coatcheck-age-ms", b"12"),
    (b"x-coatcheck-client", b"[::1]:50123"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-for", b"::1"),
    (b"cookie", b"a=b"),
]


async def through(worker: WorkerContext, scope: dict[str, Any]) -> dict[str, Any]:
    """What the application sees."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    await ConnectionFactsMiddleware(app, worker)(scope, nothing, nothing)
    return seen[0]


def nothing(*arguments: Any) -> Awaitable[MutableMapping[str, Any]]:
    raise AssertionError("nobody receives or sends here")


def request(headers: list[tuple[bytes, bytes]], **more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "scheme": "http",
        "client": ("127.0.0.1", 5),
        "headers": headers,
        "state": {},
        **more,
    }


async def test_behind_the_edge_its_headers_are_facts_and_are_not_passed_on(tmp_path: Path) -> None:
    scope = await through(WorkerContext(tmp_path, worker_id=3, edge=True), request(FROM_EDGE, client=None))
    assert scope["headers"] == [(b"host", b"localhost"), (b"cookie", b"a=b")]
    assert (scope["client"], scope["scheme"]) == (("::1", 50123), "https")
    facts = connection_of(scope)
    assert (facts.protocol, facts.connection_id) == ("HTTP/3", "b007-18446744073709551615")
    assert (facts.tls_version, facts.tls_cipher, facts.server_name) == ("TLSv1.3", "TLS_AES_128_GCM_SHA256", None)
    assert (facts.age_ms, facts.client_host, facts.client_port, facts.worker_id) == (12, "::1", 50123, 3)
    assert facts.requests() == 1


async def test_a_websocket_gets_the_schemes_of_websockets(tmp_path: Path) -> None:
    worker = WorkerContext(tmp_path, edge=True)
    scope = await through(worker, request(FROM_EDGE, type="websocket", scheme="ws"))
    assert scope["scheme"] == "wss"
    assert connection_of(scope).scheme == "https"


async def test_the_edges_own_questions_have_no_connection_and_are_not_counted(tmp_path: Path) -> None:
    facts = connection_of(await through(WorkerContext(tmp_path, edge=True), request([], client=None)))
    assert (facts.connection_id, facts.requests(), facts.scheme) == ("", 0, "http")


async def test_without_an_edge_nobody_is_believed(tmp_path: Path) -> None:
    forged = [(name.encode(), b"9.9.9.9:9") for name in TRUSTED_HEADERS]
    forged += [(name.replace("-", "_").title().encode(), b"9.9.9.9:9") for name in TRUSTED_HEADERS]
    scope = await through(WorkerContext(tmp_path), request([*forged, (b"accept", b"*/*")]))
    assert scope["headers"] == [(b"accept", b"*/*")]
    assert (scope["client"], scope["scheme"]) == (("127.0.0.1", 5), "http")
    assert "9.9.9.9" not in repr(connection_of(scope))


async def test_without_an_edge_the_worker_tells_connections_apart(tmp_path: Path) -> None:
    worker = WorkerContext(tmp_path, boot_id="b007")

    async def ask(serial: int) -> ConnectionFacts:
        state = {LOCAL_CONNECTION: LocalConnection(serial, 0.0), "theirs": 1}
        scope = await through(worker, request([], state=state))
        assert scope["state"] == {"theirs": 1}
        return connection_of(scope)

    first, second, other = await ask(1), await ask(1), await ask(2)
    assert first.connection_id == second.connection_id != other.connection_id
    assert (second.requests(), other.requests()) == (2, 1)
    assert first.age_ms is not None


async def test_a_request_without_client_or_state_still_has_facts(tmp_path: Path) -> None:
    scope = {"type": "http", "http_version": "2", "headers": []}
    facts = connection_of(await through(WorkerContext(tmp_path), scope))
    assert (facts.protocol, facts.client_host, facts.client_port, facts.age_ms) == ("HTTP/2", "", 0, None)


async def test_other_scopes_pass_untouched(tmp_path: Path) -> None:
    scope = {"type": "lifespan"}
    assert await through(WorkerContext(tmp_path), scope) == {"type": "lifespan"}


def test_counts_are_summed_over_the_workers_regions(tmp_path: Path) -> None:
    path = tmp_path / "table"
    ConnectionTable.create(path, 3)
    assert path.stat().st_mode & 0o777 == 0o600
    tables = [ConnectionTable.open(path, region) for region in range(3)]
    key = ConnectionTable.key("b007-1")
    for table, times in zip(tables, (1, 2, 3), strict=True):
        for _ in range(times):
            table.add(key)
    assert [table.total(key) for table in tables] == [6, 6, 6]
    assert tables[0].total(ConnectionTable.key("b007-2")) == 0
    for table in tables:
        table.close()


def test_a_worker_that_starts_again_goes_on_counting_where_it_died(tmp_path: Path) -> None:
    path = tmp_path / "table"
    ConnectionTable.create(path, 1)
    key = ConnectionTable.key("b007-1")
    first = ConnectionTable.open(path, 0)
    first.add(key)
    first.close()
    second = ConnectionTable.open(path, 0)
    second.add(key)
    assert second.total(key) == 2
    second.close()


def test_a_region_that_is_not_there_is_refused(tmp_path: Path) -> None:
    ConnectionTable.create(tmp_path / "table", 1)
    with pytest.raises(ValueError, match="has no region 1"):
        ConnectionTable.open(tmp_path / "table", 1)


def test_the_table_is_bounded_and_the_stalest_makes_way(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr("coatcheck.server.connection_table.monotonic", lambda: clock)
    table = ConnectionTable.alone()
    same_bucket = [1 + 1024 * number for number in range(9)]
    for key in same_bucket[:8]:
        table.add(key)
        clock += 1
    table.add(same_bucket[0])  # no longer the stalest
    clock += 1
    table.add(same_bucket[8])
    assert table.total(same_bucket[8]) == 1
    assert table.total(same_bucket[1]) == 0
    assert table.total(same_bucket[0]) == 2
    assert [table.total(key) for key in same_bucket[2:8]] == [1] * 6
