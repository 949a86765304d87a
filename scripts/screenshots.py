"""Takes a picture of each view of the page, light and dark, phone and desk, into .reports/screenshots; and the README's three.

Starts a server of its own and makes what is to be seen there. Leaves whether they look well to whoever looks at them.

    python scripts/screenshots.py [--readme] [NAME …]
"""

import argparse
import sys
import tempfile
import uuid
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.browser.conftest import launch_chromium  # noqa: E402
from tests.browser.device import PASSWORD, Device, add_authenticator  # noqa: E402
from tests.clients.serving import RunningServer, add_administrator, start_server  # noqa: E402

SHOTS = ROOT / ".reports" / "screenshots"
IMAGES = ROOT / "docs" / "images"
README = {"sessions-desk-light": "sessions", "connection-desk-light": "connection", "admin-desk-dark": "admin"}
SIZES = {"phone": ViewportSize(width=390, height=844), "desk": ViewportSize(width=1280, height=860)}
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/18.1 Mobile/15E148 Safari/604.1"
)
FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--readme", action="store_true", help="write docs/images anew")
    parser.add_argument("names", nargs="*", help="views; all if none is named")
    arguments = parser.parse_args()
    SHOTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, sync_playwright() as playwright:
        server = start_server(Path(directory), "--workers", "2")
        browser = launch_chromium(playwright, server, "HTTP/2")
        try:
            take(browser, server, arguments.names, readme=arguments.readme)
        finally:
            browser.close()
            server.stop()


def take(browser: Browser, server: RunningServer, names: list[str], *, readme: bool) -> None:
    admin = f"ada-{uuid.uuid4().hex[:4]}"
    add_administrator(server, admin, PASSWORD, "Ada Lovelace")
    others: list[BrowserContext] = []
    for agent in (IPHONE, FIREFOX):
        others.append(browser.new_context(user_agent=agent))
        Device(others[-1], server.https).log_in(admin, PASSWORD)
    context = browser.new_context()
    for _ in range(3):
        stranger = Device(context, server.https)
        stranger.try_to_log_in(admin, "a guess")
        stranger.expect_message("Username and password do not match.")
    context.close()
    for name in ("Grace Hopper", "Hedy Lamarr", "Alan Turing"):
        context = browser.new_context()
        Device(context, server.https).sign_up(name=name)
        context.close()
    for scheme in ("light", "dark"):
        for size, viewport in SIZES.items():
            context = browser.new_context(
                color_scheme=scheme, viewport=viewport, locale="en-GB", device_scale_factor=1, reduced_motion="reduce"
            )
            for name, page in views(Device(context, server.https), admin):
                if names and name not in names:
                    continue
                shot = f"{name}-{size}-{scheme}"
                whole(page, SHOTS / f"{shot}.png")
                print(SHOTS / f"{shot}.png")
                if readme and shot in README:
                    IMAGES.mkdir(exist_ok=True)
                    page.screenshot(path=IMAGES / f"{README[shot]}.png")
            context.close()
    japanese = browser.new_context(locale="ja-JP", viewport=SIZES["desk"])
    device = Device(japanese, server.https).open()
    device.page.screenshot(path=SHOTS / "welcome-japanese.png")
    device.page.locator("#li-username").fill(admin)
    device.page.locator("#li-password").fill(PASSWORD)
    device.page.locator("#log-in .primary").click()
    expect(device.page.locator("#account[data-live]")).to_be_visible()
    for name in ("sessions", "connection", "security", "activity", "admin"):
        device.page.locator(f".views a[href='#{name}']").click()
        device.page.wait_for_timeout(700)
        device.page.screenshot(path=SHOTS / f"{name}-japanese.png", full_page=True)
    plain = browser.new_context(java_script_enabled=False, viewport=SIZES["desk"])
    device = Device(plain, server.https).open("/page")
    device.page.screenshot(path=SHOTS / "plain-login.png")
    device.page.get_by_label("Username").fill(admin)
    device.page.get_by_label("Password").fill(PASSWORD)
    device.page.get_by_role("button", name="Log in").click()
    device.page.screenshot(path=SHOTS / "plain-sessions.png", full_page=True)


def whole(page: Page, path: Path) -> None:
    """All of it in one picture, with what is fixed to the window's edge at the edge of the picture."""
    size = page.viewport_size
    assert size is not None
    height = page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size({"width": size["width"], "height": max(size["height"], height)})
    page.screenshot(path=path)
    page.set_viewport_size(size)


def views(device: Device, username: str):
    """Each view by its name, ready to be looked at."""
    page: Page = device.page
    device.open()
    device.expect_login_view()
    yield "welcome", page
    device.open("/#sign-up")
    yield "sign-up", page
    device.log_in(username, PASSWORD)
    page.wait_for_timeout(300)
    yield "sessions", page
    device.go("Connection")
    device.press("Send twenty more")
    expect(page.locator("#answer")).to_be_visible()
    yield "connection", page
    add_authenticator(page)
    device.go("Security")
    if page.locator("#passkeys li").count() < 2:
        page.get_by_label("Name of the new passkey").fill("Ada’s laptop")
        device.press("Add a passkey")
        expect(page.locator("#passkeys").get_by_text("Ada’s laptop").first).to_be_visible()
    device.press("Make new codes")
    expect(page.locator("#codes li")).to_have_count(10)
    page.wait_for_timeout(200)
    yield "security", page
    device.go("Activity")
    yield "activity", page
    device.go("Admin")
    page.wait_for_timeout(9000)
    yield "admin", page
    page.get_by_role("link", name="Users", exact=True).click()
    expect(page.get_by_role("link", name=username)).to_be_visible()
    yield "admin-users", page
    page.get_by_role("link", name=username).click()
    expect(page.get_by_text("What happened")).to_be_visible()
    yield "admin-user", page
    page.get_by_role("link", name="Keys", exact=True).click()
    expect(page.get_by_role("button", name="Rotate keys")).to_be_visible()
    yield "admin-keys", page


if __name__ == "__main__":
    main()
