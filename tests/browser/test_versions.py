"""The page over each version of HTTP, from signing up to logging out, against the real server and its edge."""

import re

import httpx
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import NewDevice
from tests.browser.device import Device
from tests.clients.serving import RunningServer

EACH = pytest.mark.parametrize("new_device", ["HTTP/1.1", "HTTP/2", "HTTP/3"], indirect=True)
NEGOTIATED = {"HTTP/1.1": "http/1.1", "HTTP/2": "h2", "HTTP/3": "h3"}


def negotiated(device: Device) -> str:
    """What the browser says that it loaded the page over."""
    return device.page.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol")


@EACH
def test_sign_up_look_around_and_log_out(
    new_device: NewDevice, server: RunningServer, request: pytest.FixtureRequest
) -> None:
    version = request.node.callspec.params["new_device"]
    device = new_device()
    username = device.sign_up(name="Ada Lovelace")
    page = device.page

    assert negotiated(device) == NEGOTIATED[version]
    expect(page.get_by_role("heading", level=1)).to_have_text("Ada Lovelace")
    expect(page.get_by_text(username, exact=True)).to_be_visible()
    expect(device.sessions()).to_have_count(1)
    expect(device.sessions()).to_contain_text("This one")
    expect(device.sessions()).to_contain_text("on Linux")
    expect(device.sessions()).to_contain_text("127.0.0.1 · Cookie, by password")
    open_now = device.sessions().get_by_role("list", name="Live connections")
    expect(open_now).to_have_text(re.compile(r"WebSocket HTTP/[123.]+"))

    device.go("Connection")
    expect(page.get_by_text(version, exact=True)).to_be_visible()
    assert device.fact("Encryption") == "TLS 1.3"
    assert device.fact("Worker") in ("0", "1")
    assert device.fact("Your address").startswith("127.0.0.1, port ")

    before = device.requests_carried()
    connection = device.fact("Connection id")
    with page.expect_response("**/v1/connection"):
        device.press("Refresh")
    expect(page.get_by_text(f"Requests so far: {before}", exact=True)).to_be_hidden()
    if version != "HTTP/1.1":  # there a browser has several connections, and uses any
        assert device.requests_carried() > before
        assert device.fact("Connection id") == connection

    token = device.token()
    assert token
    device.press("Log out")
    device.expect_login_view()
    device.expect_message("You are logged out.")
    assert device.token() is None
    with httpx.Client(verify=server.tls(), cookies={"__Host-session": token}) as thief:
        assert [thief.get(f"{server.https}/v1/me").status_code for _ in range(4)] == [401] * 4


@EACH
def test_one_device_ends_the_other(new_device: NewDevice) -> None:
    desk, phone = (
        new_device(),
        new_device(
            user_agent="Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 "
            "(KHTML, like Gecko) Version/18.1 Mobile/15E148 Safari/604.1"
        ),
    )
    username = desk.sign_up()
    phone.log_in(username)

    expect(desk.sessions()).to_have_count(2)
    theirs = desk.sessions().filter(has_text="Safari 18 on iPhone")
    expect(theirs).not_to_contain_text("This one")
    theirs.get_by_role("button", name="End Safari 18 on iPhone").click()
    expect(desk.sessions()).to_have_count(1)
    desk.expect_message("Ended: Safari 18 on iPhone.")

    phone.expect_login_view()
    phone.expect_message("This session was ended from another device. Log in again.")
    phone.open()
    phone.expect_login_view()
    expect(desk.sessions()).to_have_count(1)


def test_a_browser_moves_to_http_3_by_itself_and_stays_logged_in(new_device: NewDevice) -> None:
    device = new_device(version="as it comes")
    device.sign_up()
    assert negotiated(device) == "h2"
    device.open()
    expect(device.sessions()).to_have_count(1)
    device.go("Connection")
    expect(device.page.get_by_text("HTTP/3", exact=True)).to_be_visible()


def test_plain_http_on_loopback_has_a_session_of_its_own(new_device: NewDevice, server: RunningServer) -> None:
    device = new_device(base=server.http)
    username = device.sign_up()
    assert device.go("Connection").fact("Encryption") == "None: plain HTTP"
    secure = new_device(storage_state=device.context.storage_state())
    secure.open()
    secure.expect_login_view()
    secure.log_in(username)
