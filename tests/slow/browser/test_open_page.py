"""A page that stays open: while its session expires, and while the server is restarted; and which views ask for what."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Playwright, expect

from tests.browser.conftest import launch_chromium
from tests.browser.device import PASSWORD, Device
from tests.clients.serving import RunningServer, spawn_server, start_server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RunningServer]:
    env = {"COATCHECK_SESSION_LIFETIME": "20", "COATCHECK_SESSION_IDLE_TIMEOUT": "20"}
    running = start_server(tmp_path, "--workers", "2", env=env)
    yield running
    assert running.stop() == 0, running.said()


@pytest.fixture
def visitor(playwright: Playwright, own: RunningServer) -> Iterator[Device]:
    browser = launch_chromium(playwright, own, "HTTP/2")
    yield Device(browser.new_context(), own.https)
    browser.close()


@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_a_session_that_expires_takes_the_open_page_to_the_login_with_the_reason(
    visitor: Device, transport: str
) -> None:
    if transport == "sse":
        visitor.page.add_init_script(
            "window.WebSocket = class { constructor() { setTimeout(() => this.onclose({ code: 1006, reason: '' })) } close() {} }"
        )
    begun = time.monotonic()
    visitor.sign_up()
    visitor.go("Activity")
    expect(visitor.form("Log in")).to_be_visible(timeout=30_000)
    assert 18 < time.monotonic() - begun < 24
    visitor.expect_message("This session has come to its end. Log in again.")
    expect(visitor.page.locator("#account > *")).to_have_count(0)  # nothing of it is left in the document


def test_the_server_restarted_under_an_open_page_is_noticed_and_said(playwright: Playwright, tmp_path: Path) -> None:
    first = start_server(tmp_path, "--workers", "2")
    browser = launch_chromium(playwright, first, "HTTP/2")
    try:
        device = Device(browser.new_context(), first.https)
        username = device.sign_up()
        assert first.stop() == 0, first.said()
        expect(device.page.get_by_text("Reconnecting …")).to_be_visible()
        assert first.process.poll() is not None
        second = spawn_server(tmp_path, first.http_port, first.https_port, "--workers", "2")
        try:
            device.expect_message("Connected again.")
            expect(device.page.get_by_text("Live", exact=True)).to_be_visible()
            expect(device.page.get_by_role("heading", name=username)).to_be_visible()
            expect(device.sessions()).to_have_count(1)
            # And it works: what happens elsewhere is told again.
            other = Device(browser.new_context(user_agent="kiosk/1.0"), second.https).log_in(username, PASSWORD)
            expect(device.sessions()).to_have_count(2)
            device.sessions().filter(has_text="kiosk").get_by_role("button", name="End").click()
            other.expect_login_view()
        finally:
            assert second.stop(signal.SIGTERM) == 0, second.said()
    finally:
        browser.close()
        first.stop()
