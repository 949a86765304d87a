"""The examples do what their README says; and moving from Starlette's middleware takes two lines."""

import importlib.util
import sys
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask

from tests.clients.examples import EXAMPLES, served
from tests.starlette_client import TestClient

OURS = ["fastapi_login", "starlette_login", "litestar_login", "flask_login"]
ALL = [*OURS, "starlette_before"]

Client = TestClient | httpx.Client


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where Litestar looks for what its annotations mean
    spec.loader.exec_module(module)
    return module.app


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    app = load(request.param)
    if isinstance(app, Flask):
        with httpx.Client(transport=httpx.WSGITransport(app), base_url="https://testserver") as client:
            yield client
        app.extensions["coatcheck"].thread.close()
    else:
        with TestClient(app, base_url="https://testserver") as client:
            yield client


@pytest.mark.parametrize("client", ALL, indirect=True)
def test_one_can_log_in_be_known_and_log_out(client: Client) -> None:
    stranger = client.get("/profile")
    assert (stranger.status_code, stranger.text) == (401, "Unauthorized")
    assert client.post("/login").text == "Logged in"
    assert client.get("/profile").text == "Hello, user123"
    assert client.post("/logout").text == "Logged out"
    left = client.get("/profile")
    assert (left.status_code, left.text) == (401, "Unauthorized")
    assert client.get("/user/123").json() == {"id": "123", "name": "John Doe"}


def replay_after_logout(client: Client) -> httpx.Response:
    client.post("/login")
    cookie = "; ".join(f"{cookie.name}={cookie.value}" for cookie in client.cookies.jar)
    assert client.get("/profile").status_code == 200
    client.post("/logout")
    client.cookies.clear()
    return client.get("/profile", headers={"cookie": cookie})


@pytest.mark.parametrize("client", ["starlette_before"], indirect=True)
def test_a_signed_cookie_still_works_after_logout(client: Client) -> None:
    assert replay_after_logout(client).text == "Hello, user123"


@pytest.mark.parametrize("client", OURS, indirect=True)
def test_our_cookie_is_worth_nothing_after_logout(client: Client) -> None:
    assert replay_after_logout(client).status_code == 401


def test_moving_from_starlettes_middleware_changes_the_import_and_add_middleware_and_nothing_else() -> None:
    before = (EXAMPLES / "starlette_before.py").read_text().splitlines()
    after = (EXAMPLES / "starlette_login.py").read_text().splitlines()
    changes = [line for line in unified_diff(before, after, n=0) if line[0] in "+-" and line[:3] not in ("+++", "---")]
    assert [line.split("(")[0] for line in changes] == [
        "-from starlette.middleware.sessions import SessionMiddleware",
        "+from coatcheck import SessionMiddleware",
        "-app.add_middleware",
        "+app.add_middleware",
    ]


@pytest.mark.parametrize("client", ["fastapi_login", "litestar_login", "flask_login"], indirect=True)
def test_log_in_changes_the_secret_of_a_visitor_who_had_a_session(client: Client) -> None:
    client.post("/login")
    first = client.cookies["__Host-session"]
    client.post("/login")
    assert client.cookies["__Host-session"] != first
    client.cookies.clear()
    assert client.get("/profile", headers={"cookie": f"__Host-session={first}"}).status_code == 401


@pytest.mark.parametrize("client", ["starlette_login"], indirect=True)
def test_two_lines_alone_do_not_make_a_login_of_setting_a_value_as_the_readme_says(client: Client) -> None:
    client.post("/login")
    first = client.cookies["__Host-session"]
    client.post("/login")
    assert client.cookies["__Host-session"] == first


def test_fastapis_example_has_about_twenty_lines_of_code() -> None:
    lines = (EXAMPLES / "fastapi_login.py").read_text().splitlines()
    assert len([line for line in lines if line and not line.startswith(('"""', "#"))]) <= 24


@pytest.mark.parametrize("name", OURS)
def test_it_runs_on_a_real_server_and_sessions_outlive_its_restart(name: str, tmp_path: Path) -> None:
    with served(name, tmp_path) as url:
        answer = httpx.post(f"{url}/login")
        assert answer.text == "Logged in"
        # Over plain http the client drops a Secure cookie, as it should: it is sent back by hand.
        headers = {"cookie": answer.headers["set-cookie"].partition(";")[0]}
        assert httpx.get(f"{url}/profile", headers=headers).text == "Hello, user123"
    with served(name, tmp_path) as url:
        assert httpx.get(f"{url}/profile", headers=headers).text == "Hello, user123"
        assert httpx.post(f"{url}/logout", headers=headers).text == "Logged out"
        assert httpx.get(f"{url}/profile", headers=headers).status_code == 401
        assert httpx.get(f"{url}/profile").text == "Unauthorized"


def test_the_readme_names_every_example() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    assert [path.name for path in sorted(EXAMPLES.glob("*.py")) if f"`{path.name}`" not in readme] == []
