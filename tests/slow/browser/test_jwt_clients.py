"""Clients of tokens in other languages, against the example's own server: fetch in Chromium, axios in Node, curl in a shell."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from tests.browser.conftest import NewDevice
from tests.clients.examples import EXAMPLES, served

PASSWORD = "a coat, a hat, an umbrella"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served("fastapi_jwt", tmp_path_factory.mktemp("jwt")) as url:
        yield url.replace("127.0.0.1", "localhost")


@pytest.mark.parametrize("new_device", ["as it comes"], indirect=True)
def test_a_browser_logs_in_is_known_renews_once_and_logs_out(new_device: NewDevice, site: str) -> None:
    device = new_device(base=site).open("/client/browser.html")
    page, said = device.page, device.page.get_by_role("status")
    device.press("Show profile")
    expect(said).to_have_text("Unauthorized")
    form = device.form("Log in")
    form.get_by_label("Password").fill("wrong")
    form.get_by_role("button", name="Log in").click()
    expect(said).to_have_text("Username or password is not right")
    form.get_by_label("Password").fill(PASSWORD)
    form.get_by_role("button", name="Log in").click()
    expect(said).to_have_text("Logged in")
    device.press("Show profile")
    expect(said).to_have_text("John Doe (123)")
    assert device.context.cookies() == []

    # The server's word that the token is invalid, five times at once, as when it has run out.
    exchanges: list[str] = []
    refusals = [5]

    def refuse(route: Route) -> None:
        if refusals[0]:
            refusals[0] -= 1
            route.fulfill(status=401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        else:
            route.continue_()

    page.on("request", lambda request: exchanges.append(request.url) if request.url.endswith("/refresh") else None)
    page.route("**/profile", refuse)
    answers = page.evaluate(
        """async password => {
          const { Tokens } = await import("/client/tokens.js");
          const tokens = new Tokens();
          await tokens.logIn("john", password);
          const responses = await Promise.all(Array.from({ length: 5 }, () => tokens.fetch("/profile")));
          return Promise.all(responses.map(response => response.json()));
        }""",
        PASSWORD,
    )
    assert answers == [{"id": "123", "name": "John Doe"}] * 5
    assert exchanges == [f"{site}/refresh"]
    page.unroute("**/profile")

    device.press("Log out")
    expect(said).to_have_text("Logged out")
    device.press("Show profile")
    expect(said).to_have_text("Unauthorized")


def test_axios_logs_in_is_known_renews_once_and_logs_out(site: str, tmp_path: Path) -> None:
    folder = tmp_path / "jwt_clients"
    shutil.copytree(EXAMPLES / "jwt_clients", folder, ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    made = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert made.returncode == 0, made.stderr
    command = ["node", "axios_client.js", site.replace("localhost", "127.0.0.1")]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        "logged in, seconds: 300",
        'profile: {"id":"123","name":"John Doe"}',
        "profile without a token: 401",
        "profile with a forged token: 401",
        "exchanges for five requests: 1",
        "profile after logging out: 401",
        "the client says: session over",
    ]


def test_the_readmes_lines_for_curl_do_what_they_say(site: str) -> None:
    readme = (EXAMPLES / "README.md").read_text().partition("## JWTs that can be taken back")[2]
    lines = readme.split("```")[1].replace("http://localhost:8000", site)
    # Each answer is shown with its status; those that the lines keep in a variable are left alone.
    show = """curl() {
      if [ "$1" = -s ]; then command curl "$@"; else command curl -s -w '|%{http_code}\\n' "$@"; fi
    }"""
    script = f"{show}\n{lines}"
    run = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=False, timeout=30)
    assert run.returncode == 0, run.stderr
    known, stranger, refreshed, left, refused = (line.rpartition("|") for line in run.stdout.splitlines())
    assert (json.loads(known[0]), known[2]) == ({"id": "123", "name": "John Doe"}, "200")
    assert stranger[2] == "401"
    assert "refresh_token" in json.loads(refreshed[0])
    assert left[2] == "204"
    assert refused[2] == "401"
