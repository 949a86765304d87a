"""What happens elsewhere is seen on the page at once, by WebSocket and by server-sent events, over each version of HTTP."""

import re
import time

import pytest
from playwright.sync_api import WebSocket, expect

from tests.browser.conftest import NewDevice
from tests.browser.device import PASSWORD, Device

EACH = pytest.mark.parametrize("new_device", ["HTTP/1.1", "HTTP/2", "HTTP/3"], indirect=True)
NO_SOCKETS = "window.WebSocket = class { constructor() { setTimeout(() => this.onclose({ code: 1006, reason: '' })) } close() {} }"


@EACH
@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_what_one_device_does_another_shows_within_a_second(
    new_device: NewDevice, transport: str, request: pytest.FixtureRequest
) -> None:
    version = request.node.callspec.params["new_device"]
    shown = {"websocket": "WebSocket", "sse": "Event stream"}[transport]
    desk, phone = new_device(), new_device(user_agent="kiosk/1.0")
    sockets: list[WebSocket] = []
    for device in (desk, phone):
        if transport == "sse":
            device.page.add_init_script(NO_SOCKETS)
        device.page.on("websocket", lambda socket: sockets.append(socket))
    username = desk.sign_up()
    phone.log_in(username)
    expect(desk.sessions()).to_have_count(2)
    expect(desk.events().filter(has_text="Logged in from 127.0.0.1: kiosk 1.0")).to_be_visible()
    expect(
        desk.events().filter(has_text=re.compile(f"Connected \\({shown}, HTTP/[123.]+\\): kiosk 1.0"))
    ).to_be_visible()
    assert (len(sockets) > 0) is (transport == "websocket")
    assert version

    # Named over the API, as another client would.
    phone.page.evaluate(
        """async () => {
          const { sessions } = await (await fetch("/v1/sessions")).json();
          const headers = { "content-type": "application/json" };
          const path = `/v1/sessions/${sessions.find((each) => each.current).id}`;
          await fetch(path, { method: "PATCH", headers, body: JSON.stringify({ name: "<b>Kiosk</b>" }) });
        }"""
    )
    theirs = desk.sessions().filter(has_text="<b>Kiosk</b>")
    expect(theirs).to_be_visible()
    desk.page.evaluate(
        """() => document.addEventListener("click", () => (window.clicked = Date.now()), { capture: true, once: true })"""
    )
    phone.page.evaluate(
        """() => new MutationObserver(() => (window.gone ??= Date.now())).observe(document.getElementById("account"), {
          attributes: true, attributeFilter: ["hidden"] })"""
    )
    theirs.get_by_role("button", name="End").click()
    phone.expect_login_view()
    phone.expect_message("This session was ended from another device. Log in again.")
    seconds = (phone.page.evaluate("window.gone") - desk.page.evaluate("window.clicked")) / 1000
    print(f"{version}, {transport}: the other device was at the login form after {seconds:.3f} s")
    assert seconds < 1
    expect(desk.sessions()).to_have_count(1)
    expect(desk.events().filter(has_text="Ended (ended by user)")).to_be_visible()


def test_a_tab_goes_on_by_itself_after_its_password_was_changed_in_it(device: Device) -> None:
    device.sign_up()
    form = device.go("Security").page.get_by_role("form", name="Password")
    form.get_by_label("Current password").fill(PASSWORD)
    form.get_by_label("New password").fill("a scarf, a cane, a top hat")
    device.press("Change password")
    device.go("Sessions")
    expect(device.events().filter(has_text="Password changed")).to_be_visible()
    device.expect_live()
    # And is told again: the place where it was is where it goes on.
    other = device.context.new_page()
    other.goto(device.base)
    expect(device.events().filter(has_text="Connected").first).to_be_visible()
    device.expect_live()


def test_ones_own_log_out_says_nothing_of_another_tab(device: Device) -> None:
    device.sign_up()
    device.press("Log out")
    device.expect_login_view()
    device.expect_message("You are logged out.")
    expect(device.form("Log in").get_by_role("alert")).to_be_hidden()


def test_after_a_while_without_a_connection_the_page_shows_how_things_are(
    device: Device, new_device: NewDevice
) -> None:
    routed: list[object] = []

    def through(route: object) -> None:
        routed.append(route)
        route.connect_to_server()  # type: ignore[attr-defined]

    device.page.route_web_socket("**/v1/events", through)
    username = device.sign_up()
    routed[-1].close(code=1011, reason="cut")  # type: ignore[attr-defined]
    other = new_device(user_agent="kiosk/1.0")
    other.log_in(username)
    expect(device.sessions()).to_have_count(2)
    device.expect_live()
    assert len(routed) >= 2
    until = time.monotonic() + 10
    told = device.events().filter(has_text="Logged in from").filter(has_text="kiosk")
    while told.count() < 1 and time.monotonic() < until:
        device.page.wait_for_timeout(50)
    # Told once, though it happened while nobody could be told.
    assert told.count() == 1
