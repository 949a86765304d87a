"""What the server says of its requests, and what it never says."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from coatcheck.accounts import Accounts, User
from coatcheck.server.logs import configure_logging
from tests.core.server.house import COOKIE, PASSWORD, House

CANARY = "canary-of-these-tests"

Form = Literal["console", "json"]


class Written:
    """Standard error, from the start of the test."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self._text = ""

    @property
    def text(self) -> str:
        self._text += self._capture.readouterr().err
        return self._text

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Iterator[Written]:
    """What is logged; logging is put back as it was afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("coatcheck")
    before = root.handlers[:], root.level, ours.level
    uvicorns = [logging.getLogger(name) for name in ("uvicorn", "uvicorn.error", "uvicorn.access")]
    configured = [(each, each.handlers[:], each.propagate, each.level) for each in uvicorns]
    for each in uvicorns:  # another test's server may have set up uvicorn's own logging in this process
        each.handlers[:], each.propagate = [], True
    yield Written(capsys)
    for each, handlers, propagate, level in configured:
        each.handlers[:], each.propagate = handlers, propagate
        each.setLevel(level)
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


async def test_a_request_is_one_line_of_method_path_status_time_and_worker(tmp_path: Path, written: Written) -> None:
    configure_logging("json")
    async with House(tmp_path) as house, house.client() as client:
        await client.get("/v1/me?token=secret")
    (line,) = written.lines()
    assert {name: line[name] for name in ("event", "level", "method", "path", "status", "worker")} == {
        "event": "request",
        "level": "info",
        "method": "GET",
        "path": "/v1/me",
        "status": 401,
        "worker": 7,
    }
    assert 0 < line["ms"] < 60_000
    assert line["timestamp"].endswith("Z")


async def test_health_checks_are_not_worth_a_line(tmp_path: Path, written: Written) -> None:
    configure_logging("json")
    async with House(tmp_path) as house, house.client() as client:
        await client.get("/healthz")
    assert written.text == ""


async def test_head_is_logged_as_head(tmp_path: Path, written: Written) -> None:
    configure_logging("json")
    async with House(tmp_path) as house, house.client() as client:
        await client.head("/v1/me")
    assert written.lines()[0]["method"] == "HEAD"


@pytest.mark.parametrize("form", ["console", "json"])
async def test_what_a_client_sends_makes_no_lines_of_its_own(tmp_path: Path, written: Written, form: Form) -> None:
    configure_logging(form)
    async with House(tmp_path) as house, house.client() as client:
        await client.get("/a%0a%1b%5b31mb%20c")
        await client.get("/" + "x" * 10_000)
    assert len(written.text.splitlines()) == 2
    assert "\x1b" not in written.text
    assert len(written.text) < 1000


@pytest.mark.parametrize("form", ["console", "json"])
def test_control_characters_in_a_message_are_shown_and_not_obeyed(written: Written, form: Form) -> None:
    configure_logging(form)
    logging.getLogger("coatcheck.x").warning("seen: %s", "a\n\x1b[31m\x9bb")
    assert len(written.text.splitlines()) == 1
    assert "\x1b" not in written.text
    assert "\x9b" not in written.text


@pytest.mark.parametrize("form", ["console", "json"])
async def test_nothing_secret_is_logged_not_even_by_a_failure(tmp_path: Path, written: Written, form: Form) -> None:
    class Failing(Accounts):
        failing = False

        async def find(self, username: str) -> User | None:
            if self.failing:
                secret = CANARY + username  # a local variable, such as a traceback might show
                raise RuntimeError(f"failed with {len(secret)} characters")
            return await super().find(username)

    configure_logging(form, level=logging.DEBUG)
    async with House(tmp_path, accounts=Failing) as house:
        client = await house.log_in("ada")
        token = client.cookies[COOKIE]
        for path, body in (
            ("/v1/login", {"username": "ada", "password": CANARY}),
            ("/v1/login", {"username": "ada", "password": [CANARY]}),
            ("/v1/reauthenticate", {"password": CANARY}),
            ("/v1/me/password", {"current_password": PASSWORD, "new_password": CANARY}),
            ("/v1/users", {"username": "bob", "password": CANARY, CANARY: 1}),
        ):
            await client.post(path, json=body)
        Failing.failing = True
        failed = await client.post("/v1/login", json={"username": "ada", "password": CANARY})
        assert failed.status_code == 500
    said = written.text
    assert "failed with" in said
    assert "Traceback" in said
    for secret in (CANARY, PASSWORD, token.partition(".")[2], client.cookies[COOKIE].partition(".")[2]):
        assert secret not in said


async def test_a_token_where_an_id_belongs_is_not_logged(tmp_path: Path, written: Written) -> None:
    configure_logging("json")
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        token = client.cookies[COOKIE]
        await client.delete(f"/v1/sessions/{token}")
        await client.delete(f"/v1/sessions/{token.replace('.', '%2E')}")
        await client.delete(f"/v1/sessions/{token.partition('.')[0]}")
    session_id, _, secret = token.partition(".")
    assert secret not in written.text
    assert [line["path"] for line in written.lines()[1:]] == [
        f"/v1/sessions/{session_id}.[hidden]",
        f"/v1/sessions/{session_id}%[hidden]",
        f"/v1/sessions/{session_id}",
    ]


def test_what_writes_down_cookies_is_never_turned_up_to_do_so(written: Written) -> None:
    configure_logging("json", level=logging.DEBUG)
    logging.getLogger().setLevel(logging.DEBUG)
    for name in ("uvicorn.error", "uvicorn", "websockets.server"):
        logging.getLogger(name).debug("< cookie: session=%s", CANARY)
        logging.getLogger(name).warning("said")
    assert [line["event"] for line in written.lines()] == ["said"] * 3


def test_lines_of_libraries_have_the_same_form_from_warnings_on(written: Written) -> None:
    configure_logging("json")
    logging.getLogger("some.library").info("not this")
    logging.getLogger("some.library").warning("but %s", "this")
    (line,) = written.lines()
    assert (line["event"], line["logger"], line["level"]) == ("but this", "some.library", "warning")


def test_configuring_twice_says_everything_once(written: Written) -> None:
    configure_logging("console")
    configure_logging("json")
    logging.getLogger("coatcheck").info("once")
    assert len(written.lines()) == 1
