"""The administrator's views: seen by administrators only; a user's session ended, the account disabled, keys rotated."""

import re
import uuid

from playwright.sync_api import expect

from tests.browser.conftest import NewDevice
from tests.browser.device import PASSWORD
from tests.clients.serving import RunningServer, add_administrator


def test_an_administrator_ends_sessions_disables_and_rotates_and_it_is_written_down(
    new_device: NewDevice, server: RunningServer
) -> None:
    phone, kiosk = new_device(), new_device(user_agent="kiosk/1.0")
    username = phone.sign_up(name="Grace Hopper")
    kiosk.log_in(username)
    expect(phone.page.get_by_role("link", name="Admin")).to_have_count(0)
    phone.open("/#admin")
    phone.expect_live()  # there is no such view for them

    stranger = new_device()
    stranger.try_to_log_in(username, "a guess of somebody")
    stranger.expect_message("Username and password do not match.")

    admin = f"a{uuid.uuid4().hex[:12]}"
    add_administrator(server, admin, PASSWORD)
    desk = new_device().log_in(admin)
    page = desk.go("Admin").page
    tile = page.get_by_role("heading", name="Live connections").locator("xpath=..")
    expect(tile.locator("strong")).to_have_text(re.compile(r"[1-9]"))
    expect(page.get_by_role("row").filter(has_text="HTTP/2")).to_be_visible()
    failed = page.get_by_role("heading", name="Failed logins in 24 hours").locator("xpath=..")
    expect(failed.locator("strong")).to_have_text(re.compile(r"[1-9]"))
    expect(page.locator(".plot path").first).to_be_attached()  # the second look, two seconds later

    page.get_by_role("link", name="Users", exact=True).click()
    page.get_by_label("Username or name").fill(username[:8])
    expect(page.get_by_role("row")).to_have_count(2)
    page.get_by_role("link", name=username).click()
    expect(page.get_by_role("listitem").filter(has_text="A login failed")).to_contain_text("127.0.0.1")
    theirs = page.get_by_role("region", name="Sessions").locator(".list > li")
    expect(theirs).to_have_count(2)
    expect(theirs.filter(has_text="kiosk 1.0")).to_contain_text("WebSocket HTTP/")
    theirs.filter(has_text="kiosk 1.0").get_by_role("button").click()
    expect(theirs).to_have_count(1)
    kiosk.expect_login_view()
    kiosk.expect_message("This session was ended by an administrator. Log in again.")

    desk.press("Disable")
    desk.expect_message("The account is disabled, and its sessions have ended.")
    expect(page.get_by_role("button", name="Enable")).to_be_visible()
    phone.expect_login_view()
    phone.expect_message("This account was disabled by an administrator.")
    phone.try_to_log_in(username, PASSWORD)
    phone.expect_message("Username and password do not match.")
    desk.press("Enable")
    desk.expect_message("The account is enabled again.")
    phone.log_in(username)

    page.get_by_role("link", name="Keys", exact=True).click()
    expect(page.get_by_role("row").nth(1)).to_be_visible()
    before = page.get_by_role("row").count()
    desk.press("Rotate keys")
    desk.expect_message("A new key is announced.")
    expect(page.get_by_role("row")).to_have_count(before + 1)
    page.get_by_role("link", name="Log", exact=True).click()
    done = page.get_by_role("region", name="What administrators did").get_by_role("listitem")
    expect(done.first).to_contain_text("Keys rotated")
    expect(done.filter(has_text="Account disabled").filter(has_text=username).first).to_be_visible()
    expect(done.filter(has_text="A session was ended by an administrator").filter(has_text=admin).first).to_be_visible()
