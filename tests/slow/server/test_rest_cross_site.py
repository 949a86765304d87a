"""The rule of DESIGN.md on other sites, with what browsers were seen to send, on every unsafe route that there is."""

import itertools
import re
from pathlib import Path

import httpx
import pytest

from tests.core.server.house import COOKIE, ORIGIN, PASSWORD, PLAIN_ORIGIN, House
from tests.slow.server.test_rest_verify import BROWSERS, browser


async def unsafe_routes(client: httpx.AsyncClient) -> list[tuple[str, str]]:
    paths = (await client.get("/openapi.json")).json()["paths"]
    found = [(method.upper(), path) for path, operations in paths.items() for method in operations if method != "get"]
    assert ("POST", "/v1/login") in found
    assert ("POST", "/v1/users") in found
    return found


HARMLESS = {
    ("POST", "/v1/logout"),
    ("DELETE", "/v1/sessions"),
    ("POST", "/v1/tickets"),
    ("POST", "/v1/passkeys/options"),
    ("POST", "/v1/login/passkey/options"),
    ("POST", "/v1/recovery-codes"),
}


@pytest.mark.parametrize("with_cookie", [True, False])
async def test_every_unsafe_route_refuses_what_another_site_caused(tmp_path: Path, with_cookie: bool) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada") if with_cookie else house.client()
        routes = await unsafe_routes(client)
        for (method, path), (site, origin, passes) in itertools.product(routes, BROWSERS):
            # An empty form: what passes the rule is refused for that, and changes nothing.
            target = re.sub(r"{\w+_id}", "A" * 22, path)
            if passes and ((method, path) in HARMLESS or path.startswith("/v1/admin/")):
                continue  # there is nothing to be wrong with it, or it is refused to whoever is no administrator
            answer = await client.request(method, target, headers=browser(site, origin))
            assert (answer.status_code == 403) is not passes, (method, path, site, origin)
            assert answer.headers["content-type"] == "application/problem+json"
        if with_cookie:
            assert (await client.get("/v1/me")).status_code == 200


async def test_a_cross_site_login_or_registration_changes_nothing(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        await house.register("ada")
        foreign = browser("cross-site", "https://other.example")
        form = {"username": "ada", "password": PASSWORD}
        answer = await client.post("/v1/login", json=form, headers=foreign)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
        await client.post("/v1/users", json={"username": "eve", "password": PASSWORD}, headers=foreign)
        assert [user.username for user in await house.accounts.list()] == ["ada"]


async def test_the_host_header_makes_no_origin_ours(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        headers = {"host": "other.example", "origin": "https://other.example"}
        assert (await client.post("/v1/logout", headers=headers)).status_code == 403


async def test_a_configured_origin_is_ours(tmp_path: Path) -> None:
    async with House(tmp_path, public_origins=("https://login.example.com",)) as house, house.client() as client:
        assert (await client.post("/v1/logout", headers={"origin": "https://login.example.com"})).status_code == 204
        assert (await client.post("/v1/logout", headers={"origin": "https://login.example.org"})).status_code == 403


async def test_links_from_other_sites_may_be_followed(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        assert (await client.get("/v1/me", headers=browser("cross-site", None))).status_code == 200


async def test_no_cross_origin_header_invites_anybody(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        answer = await client.get("/v1/me", headers={"origin": "https://other.example"})
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        preflight = await client.options("/v1/me", headers={"origin": ORIGIN, "access-control-request-method": "POST"})
        assert not [name for name in preflight.headers if name.startswith("access-control-")]


async def test_a_page_of_the_plain_listener_is_one_of_ours_on_loopback(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada", PLAIN_ORIGIN)
        assert COOKIE not in client.cookies
        assert (await client.post("/v1/logout", headers=browser("same-origin", PLAIN_ORIGIN))).status_code == 204
