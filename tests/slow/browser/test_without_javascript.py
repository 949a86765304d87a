"""With JavaScript off: log in, see one's sessions, end them, log out, by forms; and what is refused is said on a page."""

import httpx
import pytest
from playwright.sync_api import Locator, expect

from tests.browser.conftest import NewDevice
from tests.browser.device import PASSWORD, Device
from tests.clients.serving import RunningServer

MARKUP = "<img src=x>"


@pytest.fixture
def plain(new_device: NewDevice) -> Device:
    return new_device(java_script_enabled=False)


def items(device: Device) -> Locator:
    return device.page.get_by_role("listitem")


def log_in(device: Device, username: str, password: str = PASSWORD) -> None:
    device.page.get_by_label("Username").fill(username)
    device.page.get_by_label("Password").fill(password)
    device.press("Log in")


def test_one_logs_in_ends_other_sessions_and_logs_out(plain: Device, new_device: NewDevice) -> None:
    desk, kiosk = new_device(), new_device(user_agent=f"{MARKUP} Mozilla")
    username = desk.sign_up(name=MARKUP)
    kiosk.log_in(username)

    plain.open()  # leads there by itself
    expect(plain.page).to_have_url(f"{plain.base}/page")
    log_in(plain, username, "not my password")
    plain.expect_message("Username and password do not match.")
    expect(plain.page.get_by_label("Username")).to_have_value(username)
    log_in(plain, username)
    expect(plain.page).to_have_url(f"{plain.base}/page")
    expect(plain.page.get_by_role("heading", name="Sessions")).to_be_visible()
    expect(plain.page.get_by_text(MARKUP)).to_be_visible()
    assert plain.page.locator("img").count() == 0
    expect(items(plain)).to_have_count(3)
    expect(items(plain).first).to_contain_text("This one")

    items(plain).filter(has_text="Unknown device").get_by_role("button", name="End").click()
    plain.expect_message("The session has ended.")
    expect(items(plain)).to_have_count(2)
    kiosk.expect_login_view()
    kiosk.expect_message("This session was ended from another device. Log in again.")
    plain.press("End all others")
    expect(items(plain)).to_have_count(1)
    desk.expect_login_view()

    token = plain.token()
    assert token
    plain.press("Log out")
    plain.expect_message("You are logged out.")
    expect(plain.page.get_by_role("heading", name="Log in")).to_be_visible()
    assert plain.token() is None


def test_it_speaks_japanese_to_who_asks_for_it(new_device: NewDevice) -> None:
    device = new_device(java_script_enabled=False, locale="ja-JP").open("/page")
    expect(device.page.get_by_role("heading", name="ログイン")).to_be_visible()
    assert device.page.locator("html[lang=ja]").count() == 1


def test_forms_of_other_sites_get_nowhere_and_bad_ones_are_answered_on_a_page(server: RunningServer) -> None:
    form = {"username": "planted", "password": PASSWORD}
    with httpx.Client(verify=server.tls(), base_url=server.https) as client:
        for path in ("/page/login", "/page/logout", "/page/end", "/page/end-others"):
            elsewhere = client.post(
                path, data=form, headers={"sec-fetch-site": "cross-site", "origin": "https://a.test"}
            )
            assert elsewhere.status_code == 403
            assert "set-cookie" not in elsewhere.headers
            assert client.get(path).status_code == 405
        assert client.post("/page/end", data={"session": "x"}).headers["location"] == "/page"
        for content, kind, status in [
            (b'{"username": "a"}', "application/json", 415),
            (b"username=%ff", "application/x-www-form-urlencoded", 400),
            ("username=ä".encode("latin-1"), "application/x-www-form-urlencoded", 400),
            (b"&".join(b"a=b" for _ in range(20)), "application/x-www-form-urlencoded", 400),
        ]:
            answer = client.post("/page/login", content=content, headers={"content-type": kind})
            assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")
            assert "script-src 'self'" in answer.headers["content-security-policy"]
            assert answer.headers["cache-control"] == "no-store"
        assert client.get("/page?said=<script>").text.count("<script") == 0
