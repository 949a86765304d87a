"""The composition: what starts and stops with the application, and what it makes of its settings."""

import stat
from pathlib import Path
from typing import Any

import pytest

from coatcheck.accounts import AccountsSchemaTooNew
from coatcheck.server.app import compose, create_app
from coatcheck.server.context import WorkerContext
from coatcheck.server.settings import Settings
from tests.core.server.house import PASSWORD, House, token_of
from tests.core.server.test_logs import written  # noqa: F401  # a fixture: create_app sets up logging


async def run_lifespan(app: Any) -> list[dict[str, Any]]:
    messages = iter(["lifespan.startup", "lifespan.shutdown"])
    answers: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": next(messages)}

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    await app({"type": "lifespan"}, receive, send)
    return answers


@pytest.mark.usefixtures("written")
async def test_settings_alone_make_a_whole_application(tmp_path: Path) -> None:
    data = tmp_path / "data"
    app = create_app(Settings(data_dir=data, workers=2), WorkerContext(runtime_dir=tmp_path))
    answers = await run_lifespan(app)
    assert [answer["type"] for answer in answers] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert {"sessions.sqlite3", "accounts.sqlite3"} <= {path.name for path in data.iterdir()}
    for path in data.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


async def test_what_keeps_the_accounts_from_starting_is_one_line(tmp_path: Path) -> None:
    house = House(tmp_path)

    async def start() -> None:
        raise AccountsSchemaTooNew("the accounts were changed by a newer Coatcheck")

    house.accounts.start = start  # type: ignore[method-assign]
    (answer,) = await run_lifespan(house.app)
    assert answer["type"] == "lifespan.startup.failed"
    assert answer["message"] == "the accounts were changed by a newer Coatcheck"


async def test_a_store_that_is_away_at_the_start_is_asked_again_by_each_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "sessions.sqlite3").mkdir()  # in the store's way
    house = House(tmp_path)
    answers: list[str] = []

    async def receive() -> dict[str, Any]:
        if not answers:
            return {"type": "lifespan.startup"}
        client = house.client()
        await house.register("ada")
        form = {"username": "ada", "password": PASSWORD}
        assert (await client.post("/v1/login", json=form)).status_code == 503
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/healthz")).status_code == 200
        (tmp_path / "sessions.sqlite3").rmdir()
        assert (await client.post("/v1/login", json=form)).status_code == 200
        return {"type": "lifespan.shutdown"}

    async def send(message: dict[str, Any]) -> None:
        answers.append(message["type"])

    await house.app({"type": "lifespan"}, receive, send)  # type: ignore[arg-type]
    assert answers == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert "the session store is away" in caplog.text


async def test_two_workers_on_one_directory_know_the_same_sessions(tmp_path: Path) -> None:
    async with House(tmp_path) as one, House(tmp_path) as other:
        client = await one.log_in("ada")
        token = token_of(client)
        there = other.client(headers={"cookie": f"__Host-session={token}"})
        assert (await there.get("/v1/me")).json()["username"] == "ada"
        assert (await client.post("/v1/logout")).status_code == 204
        assert (await there.get("/v1/me")).status_code == 401


async def test_a_websocket_is_refused_where_there_is_none(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        for path in ("/v1/verify", "/v1/me", "/nothing"):
            scope = {
                "type": "websocket",
                "path": path,
                "headers": [],
                "scheme": "wss",
                "query_string": b"",
                "root_path": "",
            }
            await house.app(scope, receive, send)
            assert sent.pop()["type"] == "websocket.close"


def test_composing_reads_and_writes_nothing(tmp_path: Path) -> None:
    house = House(tmp_path)
    compose(house.services)
    assert list(tmp_path.iterdir()) == []
