"""Passkeys, recovery codes and the history on the page, with an authenticator that Chromium makes up."""

import re
import time

import httpx
from playwright.sync_api import Locator, expect

from tests.browser.conftest import NewDevice
from tests.browser.device import PASSWORD, Device, add_authenticator
from tests.clients.serving import RunningServer


def history(device: Device) -> Locator:
    return device.go("Activity").page.get_by_role("region", name="The newest first").get_by_role("listitem")


def test_a_passkey_is_added_named_logged_in_with_and_removed(device: Device, new_device: NewDevice) -> None:
    add_authenticator(device.page)
    device.sign_up()
    page = device.go("Security").page
    page.get_by_label("Name of the new passkey").fill("<b>My laptop</b>")
    device.press("Add a passkey")
    device.expect_message("Passkey added: <b>My laptop</b>")
    mine = page.get_by_role("region", name="Passkeys").get_by_role("listitem")
    expect(mine).to_have_count(1)
    mine.get_by_role("button", name="Rename").click()
    page.get_by_label("Name of this passkey").fill("Laptop")
    device.press("Save")
    expect(mine.get_by_role("heading", name="Laptop")).to_be_visible()

    device.press("Log out")
    device.expect_login_view()
    device.press("Use a passkey")
    device.expect_live()
    expect(device.sessions()).to_contain_text("Cookie, by passkey")

    device.go("Security")
    mine.get_by_role("button", name="Remove Laptop").click()
    device.expect_message("Passkey removed.")
    expect(mine).to_have_count(0)
    expect(history(device).first).to_contain_text("Passkey removed: Laptop")
    expect(history(device).filter(has_text="Passkey added: <b>My laptop</b>")).to_have_count(1)

    # The authenticator has it still, and shows it; the server knows it no more.
    device.press("Log out")
    device.press("Use a passkey")
    device.expect_message("This passkey is not known here.")


def test_a_recovery_code_is_shown_once_and_logs_in_once(device: Device) -> None:
    username = device.sign_up()
    page = device.go("Security").page
    device.press("Make new codes")
    shown = page.get_by_role("region", name="Recovery codes").get_by_role("listitem")
    expect(shown).to_have_count(10)
    code = shown.first.inner_text()
    expect(page.get_by_text("10 codes are left.")).to_be_visible()
    device.go("Sessions").go("Security")
    expect(shown).to_have_count(0)

    def use(code: str) -> None:
        device.press("Log out")
        device.expect_login_view()
        device.press("Use a recovery code")
        dialog = page.get_by_role("dialog", name="Use a recovery code")
        dialog.get_by_label("Username").fill(username)
        dialog.get_by_label("Recovery code").fill(code)
        dialog.get_by_role("button", name="Log in").click()

    use(code)
    device.expect_live()
    expect(device.sessions()).to_contain_text("Cookie, by recovery code")
    expect(history(device).filter(has_text="A recovery code was used")).to_have_count(1)
    device.go("Security")
    expect(page.get_by_text("9 codes are left.")).to_be_visible()
    use(code)
    device.expect_message(re.compile("or the code was used"))
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    device.expect_login_view()


def test_where_a_login_is_too_old_the_page_asks_again_and_then_does_it(device: Device) -> None:
    device.sign_up()
    page = device.go("Security").page
    challenge = 'Bearer error="insufficient_user_authentication", max_age="300"'
    refused: list[str] = []

    def stale_at_first(route: object) -> None:
        request = route.request  # type: ignore[attr-defined]
        if refused:
            route.continue_()  # type: ignore[attr-defined]
            return
        refused.append(request.url)
        route.fulfill(status=401, body="{}", headers={"www-authenticate": challenge})  # type: ignore[attr-defined]

    # Five minutes later, as the server answers then; what follows is the server's own.
    page.route("**/v1/recovery-codes", stale_at_first)
    device.press("Make new codes")
    dialog = page.get_by_role("dialog", name="Is it you?")
    dialog.get_by_label("Password").fill("not my password")
    dialog.get_by_role("button", name="Go on").click()
    expect(dialog.get_by_role("alert")).to_have_text("The password is not right.")
    dialog.get_by_label("Password").fill(PASSWORD)
    dialog.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("region", name="Recovery codes").get_by_role("listitem")).to_have_count(10)
    expect(dialog).to_have_count(0)
    device.go("Sessions").expect_live()
    expect(history(device).filter(has_text="Proved again who you are")).to_have_count(1)

    refused.clear()
    device.go("Security")
    device.press("Make new codes")
    dialog.get_by_role("button", name="Cancel").click()
    device.expect_message("Nothing was changed.")
    expect(page.get_by_text("10 codes are left.")).to_be_visible()


def test_the_history_says_what_happened_on_other_devices_too(new_device: NewDevice, server: RunningServer) -> None:
    device = new_device()
    username = device.sign_up()
    expect(history(device)).to_have_count(1)
    with httpx.Client(verify=server.tls(), headers={"user-agent": "kiosk/1.0"}) as kiosk:
        answer = kiosk.post(f"{server.https}/v1/login", json={"username": username, "password": PASSWORD})
        assert answer.status_code == 200
        expect(history(device).first).to_contain_text("Logged in from 127.0.0.1")
        expect(history(device).first).to_contain_text("kiosk 1.0")
        kiosk.post(f"{server.https}/v1/logout")
    expect(history(device).first).to_contain_text("Ended (logout)")


def test_of_logins_that_fail_within_an_hour_the_open_page_says_how_many(
    new_device: NewDevice, server: RunningServer
) -> None:
    if time.time() % 3600 > 3580:  # all of it within one hour
        time.sleep(21)
    device = new_device()
    username = device.sign_up()
    login = f"{server.https}/v1/login"
    with httpx.Client(verify=server.tls()) as stranger, httpx.Client(verify=server.tls()) as kiosk:

        def fail() -> None:
            assert stranger.post(login, json={"username": username, "password": "a guess"}).status_code == 401
            time.sleep(1.5)  # it is written within a second

        fail()
        failed = history(device).filter(has_text="failed")
        expect(failed).to_contain_text("A login failed")
        fail()
        # Something happens, so the page looks again.
        assert kiosk.post(login, json={"username": username, "password": PASSWORD}).status_code == 200
        expect(failed).to_contain_text("2 logins failed within an hour")
        expect(failed).to_have_count(1)
