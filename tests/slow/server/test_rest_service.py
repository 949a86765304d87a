"""A service's credential over HTTP: how it is presented, and what counts as none."""

import base64
from pathlib import Path

import pytest

from coatcheck.accounts import ServiceAccounts
from tests.core.server.house import House
from tests.slow.server.test_rest_problems import assert_problem

URL = "https://orders.example.com"


def basic(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


async def test_a_service_learns_who_it_is(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        service, secret = await ServiceAccounts(house.accounts).add("orders", [URL, f"{URL}/v2"])
        answer = await client.get("/v1/service", auth=(service.id, secret))
        assert answer.json() == {"id": service.id, "name": "orders", "audiences": [URL, f"{URL}/v2"]}
        assert "set-cookie" not in answer.headers
        assert secret not in answer.text


@pytest.mark.parametrize(
    "form",
    ["Basic {good}", "basic {good}", "BASIC   {good}"],
)
async def test_the_schemes_name_is_read_in_any_case(tmp_path: Path, form: str) -> None:
    async with House(tmp_path) as house, house.client() as client:
        service, secret = await ServiceAccounts(house.accounts).add("orders", [URL])
        headers = {"authorization": form.format(good=basic(f"{service.id}:{secret}"))}
        assert (await client.get("/v1/service", headers=headers)).status_code == 200


async def test_what_is_no_credential_is_401_with_a_challenge(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        service, secret = await ServiceAccounts(house.accounts).add("orders", [URL])
        good = basic(f"{service.id}:{secret}")
        for given in (
            [],
            [""],
            ["Basic"],
            ["Basic "],
            [f"Bearer {good}"],
            [f"Bearer {service.id}.{secret}"],
            [f"Basic {good}x"],
            [f"Basic {good[:-4]}"],
            [f"Basic {good}, Basic {good}"],
            [f"Basic {good}", f"Basic {good}"],
            [f"Basic {basic(service.id)}"],
            [f"Basic {basic(f'{service.id}:')}"],
            [f"Basic {basic(f':{secret}')}"],
            [f"Basic {basic(f'orders:{secret}')}"],
            [f"Basic {basic(f'{service.id}:{secret}:')}"],
            [f"Basic {basic(f' {service.id}:{secret}')}"],
            [f"Basic {basic(f'{service.id}:'.encode() + bytes([0xFF, 0xFE]))}"],
            ["Basic caf\xe9"],
            [f"Basic {service.id}:{secret}"],
        ):
            answer = await client.get(
                "/v1/service", headers=[("authorization", value.encode("latin-1")) for value in given]
            )
            assert_problem(answer, 401)
            # What is wrong as a bearer is told that wherever it comes; two credentials are none.
            bearer = len(given) == 2 or (given[:1] and given[0].startswith("Bearer"))
            challenge = "Bearer error=" if bearer else 'Basic realm="coatcheck services", charset="UTF-8"'
            assert answer.headers["www-authenticate"].startswith(challenge), given
            assert secret not in answer.text


async def test_a_service_that_was_removed_is_refused_at_the_next_request(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        services = ServiceAccounts(house.accounts)
        service, secret = await services.add("orders", [URL])
        client.auth = (service.id, secret)
        assert (await client.get("/v1/service")).status_code == 200
        await services.remove("orders")
        assert (await client.get("/v1/service")).status_code == 401


async def test_accounts_that_cannot_be_asked_are_503_and_no_refusal(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        service, secret = await ServiceAccounts(house.accounts).add("orders", [URL])
        database = house.accounts.database
        for file in tmp_path.glob("accounts.sqlite3*"):
            file.rename(tmp_path / f"away-{file.name}")
        await database.engine.dispose()
        (tmp_path / "accounts.sqlite3").mkdir()
        assert_problem(await client.get("/v1/service", auth=(service.id, secret)), 503)


async def test_the_page_of_routes_says_which_need_a_login_and_which_a_service(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        rows = (await client.get("/docs")).text.split("<tr>")
    needs = {row.partition("</code>")[0].removeprefix("<td><code>"): row.split("<td>")[-2] for row in rows[2:]}
    assert needs["GET /v1/me"].startswith("login")
    assert needs["GET /v1/service"] == "service"
    assert needs["GET /v1/connection"] == ""
