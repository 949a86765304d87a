"""Every refusal is a problem document, and none of them repeats what was sent."""

import json
from pathlib import Path
from typing import Any

import httpx

from coatcheck.accounts import Accounts, AccountsUnavailable, User
from tests.core.server.house import PASSWORD, House

CANARY = "hunter2-canary"
JSON = {"content-type": "application/json"}


def assert_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"].endswith(".")
    assert CANARY not in answer.text
    return dict(problem)


async def test_an_address_that_is_not_there(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        for path in ("/nothing", "/v1", "/v1/me/", "/v1//me", "/V1/me", "/v1/verify/", "/../etc/passwd", "/%2e%2e/x"):
            assert_problem(await client.get(path), 404)


async def test_a_method_that_the_address_does_not_know(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        answer = await client.get("/v1/login")
        assert_problem(answer, 405)
        assert answer.headers["allow"] == "POST"


async def test_head_is_get_without_a_body(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        for path in ("/v1/me", "/v1/sessions", "/healthz", "/openapi.json", "/docs", "/", "/nothing"):
            got, head = await client.get(path), await client.head(path)
            assert head.content == b""
            assert head.status_code == got.status_code
            assert head.headers["content-length"] == got.headers["content-length"]
        assert (await client.head("/v1/login")).status_code == 405


UNREADABLE = [
    (b'{"username":"ada","password":"' + CANARY.encode(), JSON, 422),
    (b"\xff\xfe" + CANARY.encode(), JSON, 422),
    (b"[" * 50_000, JSON, 400),
    (b'{"username":"ada","password":["' + CANARY.encode() + b'"]}', JSON, 422),
    (b'{"username":"ada","password":{"x":"' + CANARY.encode() + b'"}}', JSON, 422),
    (b'{"username":"ada","password":null,"' + CANARY.encode() + b'":1}', JSON, 422),
    (b'{"username":["' + CANARY.encode() + b'"],"password":"x"}', JSON, 422),
    (b'"' + CANARY.encode() + b'"', JSON, 422),
    (b'{"username":"ada","password":"' + CANARY.encode() + b'","remember":"' + CANARY.encode() + b'"}', JSON, 422),
    (b'{"username":"ada","password":"' + CANARY.encode() + b'"}', {"content-type": "text/plain"}, 422),
    (b'{"username":"ada","password":"' + CANARY.encode() + b'"}', {}, 422),
    (b"username=ada&password=" + CANARY.encode(), {"content-type": "application/x-www-form-urlencoded"}, 422),
    (b"", JSON, 422),
    (b'{"username":"ada","password":"' + CANARY.encode() + b'"}', JSON, 401),
]


async def test_what_cannot_be_read_is_refused_and_never_repeated(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        await house.register("ada")
        for body, headers, status in UNREADABLE:
            assert_problem(await client.post("/v1/login", content=body, headers=headers), status)


async def test_a_body_that_is_too_long_is_refused_whether_it_says_so_or_not(tmp_path: Path) -> None:
    async def endless() -> Any:
        for _ in range(10_000):
            yield b" " * 1000
        raise AssertionError("all of it was read")

    async with House(tmp_path) as house, house.client() as client:
        for content in (b" " * 65_537, endless()):
            assert_problem(await client.post("/v1/login", content=content, headers=JSON), 413)
        just = json.dumps({"username": "ada", "password": PASSWORD}).encode().ljust(65_536)
        assert_problem(await client.post("/v1/login", content=just, headers=JSON), 401)


async def test_many_wrong_fields_are_told_in_a_short_answer(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        form = {f"f{n}": 1 for n in range(1000)}
        answer = await client.post("/v1/login", json=form)
        assert_problem(answer, 422)
        assert len(answer.content) < 5000


class Failing(Accounts):
    """Accounts that fail in the middle of a request."""

    error: Exception = RuntimeError(CANARY)

    async def find(self, username: str) -> User | None:
        raise self.error


async def test_a_failure_of_ours_tells_nothing_of_itself(tmp_path: Path) -> None:
    async with House(tmp_path, accounts=Failing) as house, house.client() as client:
        answer = await client.post("/v1/login", json={"username": "ada", "password": CANARY})
        assert_problem(answer, 500)
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_accounts_that_cannot_be_asked_are_503(tmp_path: Path) -> None:
    class Away(Failing):
        error = AccountsUnavailable(CANARY, retry_after=3)

    async with House(tmp_path, accounts=Away) as house, house.client() as client:
        answer = await client.post("/v1/login", json={"username": "ada", "password": CANARY})
        assert_problem(answer, 503)
        assert answer.headers["retry-after"] == "3"


async def test_a_worker_beyond_loopback_shows_neither_its_number_nor_the_docs(tmp_path: Path) -> None:
    async with House(tmp_path, host="0.0.0.0") as house, house.client() as client:
        answer = await client.get("/v1/me")
        assert answer.status_code == 401
        assert "x-coatcheck-worker" not in answer.headers
        assert_problem(await client.get("/docs"), 404)
        assert (await client.get("/openapi.json")).status_code == 200


async def test_the_docs_load_nothing_from_anywhere(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        answer = await client.get("/docs")
        assert "://" not in answer.text
        assert "src=" not in answer.text
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        for path in (await client.get("/openapi.json")).json()["paths"]:
            assert path in answer.text


async def test_a_405_names_every_method_that_the_address_knows(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        for path, methods in (("/v1/sessions", "DELETE, GET"), ("/v1/sessions/x", "DELETE, PATCH"), ("/v1/me", "GET")):
            answer = await client.request("PUT", path)
            assert (answer.status_code, answer.headers["allow"]) == (405, methods)
