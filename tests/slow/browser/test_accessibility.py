"""axe-core, the judge of accessibility from npm, finds nothing on any view, light and dark; and nothing scrolls sideways."""

import json
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import NewDevice
from tests.browser.device import PASSWORD, Device, add_authenticator
from tests.clients.serving import RunningServer, add_administrator

FOLDER = Path(__file__).parent / "axe"
VIEWS = [
    "log in",
    "sign up",
    "sessions",
    "connection",
    "activity",
    "security",
    "asked again",
    "overview",
    "users",
    "user",
    "keys",
    "log",
]


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its source, of the version in package-lock.json."""
    folder = tmp_path_factory.mktemp("npm") / FOLDER.name
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    made = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert made.returncode == 0, made.stderr
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


def findings(device: Device, axe: str) -> list[str]:
    device.page.wait_for_timeout(250)  # colours that are on their way between two
    device.page.evaluate(axe)
    found = device.page.evaluate("async () => (await axe.run(document, { resultTypes: ['violations'] })).violations")
    assert (
        device.page.evaluate("axe.version")
        == json.loads((FOLDER / "package.json").read_text())["dependencies"]["axe-core"]
    )
    return [f"{each['id']}: {node['html'][:200]} {node['any'][:1]}" for each in found for node in each["nodes"]]


@pytest.fixture(scope="module")
def admin(server: RunningServer) -> str:
    username = f"a{uuid.uuid4().hex[:12]}"
    add_administrator(server, username, PASSWORD, "Ada Lovelace")
    return username


@pytest.mark.parametrize("width", [320, 1280, 3840])
@pytest.mark.parametrize("locale", ["en-GB", "ja-JP"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_found_on_any_view(
    new_device: NewDevice, axe: str, admin: str, scheme: str, locale: str, width: int
) -> None:
    device = new_device(
        color_scheme=scheme,
        locale=locale,
        viewport={"width": width, "height": 900},
        bypass_csp=True,
        reduced_motion="reduce",
    )
    page = device.page
    add_authenticator(page)

    def look(view: str) -> None:
        seen[view] = findings(device, axe) + ["scrolls sideways"] * device.scrolls_sideways()

    def follow(href: str, until: str) -> Callable[[], None]:
        def go() -> None:
            page.locator(f"a[href='{href}']").first.click()
            expect(page.locator(until).first).to_be_visible()

        return go

    seen: dict[str, list[str]] = {}
    device.open()
    expect(page.locator("#log-in")).to_be_visible()
    look("log in")
    device.open("/#sign-up")
    expect(page.locator("#sign-up")).to_be_visible()
    look("sign up")
    device.open()
    page.locator("#li-username").fill(admin)
    page.locator("#li-password").fill(PASSWORD)
    page.locator("#log-in .primary").click()
    expect(page.locator("#account[data-live]")).to_be_visible()
    look("sessions")
    follow("#connection", "#connection dd, dl#connection dd")()
    page.locator(".requests .primary").click()
    expect(page.locator("#answer")).to_be_visible()
    look("connection")
    follow("#activity", ".history li")()
    look("activity")
    follow("#security", "#passwords, .recovery")()
    page.locator(".passkeys form .primary").click()
    expect(page.locator("#passkeys li").first).to_be_visible()
    page.locator(".recovery button").first.click()
    expect(page.locator("#codes li")).to_have_count(10)
    look("security")
    page.route(
        "**/v1/recovery-codes",
        lambda route: route.fulfill(
            status=401, body="{}", headers={"www-authenticate": 'Bearer error="insufficient_user_authentication"'}
        ),
    )
    page.locator(".recovery button").first.click()
    expect(page.locator("dialog[open]")).to_be_visible()
    look("asked again")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    follow("#admin", ".plot path")()
    look("overview")
    follow("#admin/users", "td a")()
    look("users")
    page.get_by_role("link", name=admin).click()
    expect(page.locator("#theirs")).to_be_visible()
    look("user")
    follow("#admin/keys", "td")()
    look("keys")
    follow("#admin/log", ".log li")()
    look("log")
    assert seen == {view: [] for view in VIEWS}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_found_without_javascript_either(new_device: NewDevice, axe: str, admin: str, scheme: str) -> None:
    # The pages of forms alone, looked at by a browser that can run the judge.
    device = new_device(color_scheme=scheme, viewport={"width": 320, "height": 640}, bypass_csp=True)
    for said, password in (("log in", ""), ("refused", "not my password"), ("sessions", PASSWORD)):
        device.open("/page")
        if password:
            device.page.get_by_label("Username").fill(admin)
            device.page.get_by_label("Password").fill(password)
            device.press("Log in")
        expect(device.page.get_by_role("heading", level=1)).to_be_visible()
        assert findings(device, axe) == [], said
        assert not device.scrolls_sideways(), said
