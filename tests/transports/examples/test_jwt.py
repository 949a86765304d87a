"""The tutorial's login with tokens does what its README says, with our own client too; browser and axios: tests/browser."""

import base64
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from coatcheck.integrations.httpx import SessionOver, TokenAuth, Tokens
from tests.clients.examples import EXAMPLES, served
from tests.starlette_client import TestClient
from tests.transports.examples.test_examples import load

PASSWORD = "a coat, a hat, an umbrella"
LOGIN = {"username": "john", "password": PASSWORD}
JOHN = {"id": "123", "name": "John Doe"}


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.chdir(tmp_path)
    with TestClient(load("fastapi_jwt"), base_url="https://testserver") as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def log_in(client: TestClient) -> dict[str, Any]:
    answer = client.post("/login", json=LOGIN)
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


def test_login_gives_a_pair_and_the_profile_knows_its_bearer(client: TestClient) -> None:
    given = log_in(client)
    assert given.keys() == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert (given["token_type"], given["expires_in"]) == ("Bearer", 300)
    assert client.get("/profile", headers=bearer(given["access_token"])).json() == JOHN


def test_wrong_passwords_and_unknown_names_are_401(client: TestClient) -> None:
    for wrong in ({"password": "x"}, {"username": "nobody"}):
        assert client.post("/login", json={**LOGIN, **wrong}).status_code == 401


def test_no_token_and_a_forged_one_are_401(client: TestClient) -> None:
    none = client.get("/profile")
    assert (none.status_code, none.headers["www-authenticate"]) == (401, "Bearer")
    header, payload, signature = log_in(client)["access_token"].split(".")
    claims = {**json.loads(base64.urlsafe_b64decode(payload + "==")), "sub": "124"}
    other = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    for forged in (f"{header}.{other}.{signature}", f"{header}.{payload}.{'A' * 86}", f"{header}.{payload}."):
        answer = client.get("/profile", headers=bearer(forged))
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')


def test_refreshing_goes_on_and_a_token_used_again_within_the_grace_logs_nobody_out(client: TestClient) -> None:
    given = log_in(client)
    fresh = client.post("/refresh", json={"refresh_token": given["refresh_token"]}).json()
    again = client.post("/refresh", json={"refresh_token": given["refresh_token"]}).json()
    assert again["refresh_token"] == fresh["refresh_token"] != given["refresh_token"]
    assert client.get("/profile", headers=bearer(fresh["access_token"])).json() == JOHN
    never = client.post("/refresh", json={"refresh_token": "x"})
    assert (never.status_code, never.json()) == (400, {"error": "invalid_grant"})


def test_logging_out_ends_both_tokens_at_once(client: TestClient) -> None:
    given = log_in(client)
    assert client.post("/logout", headers=bearer(given["access_token"])).status_code == 204
    assert client.get("/profile", headers=bearer(given["access_token"])).status_code == 401
    assert client.post("/refresh", json={"refresh_token": given["refresh_token"]}).json() == {"error": "invalid_grant"}


def test_the_client_page_and_its_modules_are_served(client: TestClient) -> None:
    assert "tokens" in client.get("/client/browser.html").text.lower()
    for script in ("browser.js", "tokens.js"):
        assert client.get(f"/client/{script}").headers["content-type"].startswith("text/javascript")


def test_on_a_real_server_tokens_outlive_its_restart_and_our_own_client_renews_them(tmp_path: Path) -> None:
    with served("fastapi_jwt", tmp_path) as url:
        given = httpx.post(f"{url}/login", json=LOGIN).json()
    assert stat.S_IMODE((tmp_path / "signing-keys.json").stat().st_mode) == 0o600
    stored: list[Tokens] = []
    with served("fastapi_jwt", tmp_path) as url:
        assert httpx.get(f"{url}/profile", headers=bearer(given["access_token"])).json() == JOHN
        worn = given["access_token"][:-4] + "AAAA"
        auth = TokenAuth(
            f"{url}/refresh", access_token=worn, refresh_token=given["refresh_token"], on_tokens=stored.append
        )
        with httpx.Client(base_url=url, auth=auth) as client:
            assert client.get("/profile").json() == JOHN
            assert stored == [auth.tokens]
            assert client.post("/logout").status_code == 204
            with pytest.raises(SessionOver):
                client.get("/profile")


def test_the_lock_file_of_the_axios_client_names_no_registry_and_pins_every_package() -> None:
    lock = json.loads((EXAMPLES / "jwt_clients" / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert "node_modules/axios" in packages
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert not any("resolved" in package for package in packages.values())
