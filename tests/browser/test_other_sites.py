"""Pages of other sites that try to act in the name of whoever is logged in: each attempt is refused, and nothing happens.

Two of them: one on another domain, whose requests carry no cookie; and one on another port of the same host, which for
cookies is the same site, so that only the comparison of whole origins stands in its way.
"""

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import NewDevice
from tests.browser.device import PASSWORD, Device
from tests.clients.serving import RunningServer


class Blank(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Elsewhere</title>")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module", params=["another domain", "another port"])
def elsewhere(request: pytest.FixtureRequest, server: RunningServer) -> Iterator[str]:
    """The origin of a site that is not ours, with an empty page on which a test does as it likes."""
    site = ThreadingHTTPServer(("127.0.0.1", 0), Blank)
    scheme, host = "http", "other.test"
    if request.param == "another port":
        scheme, host = "https", "localhost"
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(server.data_dir / "tls" / "localhost.pem", server.data_dir / "tls" / "localhost.key")
        site.socket = tls.wrap_socket(site.socket, server_side=True)
    thread = threading.Thread(target=site.serve_forever)
    thread.start()
    yield f"{scheme}://{host}:{site.server_port}"
    site.shutdown()
    thread.join()
    site.server_close()


@pytest.fixture
def victim(new_device: NewDevice) -> Device:
    device = new_device()
    device.sign_up()
    return device


@pytest.fixture
def foreign_page(victim: Device, elsewhere: str) -> Page:
    """The other site, in the browser of somebody who is logged in."""
    page = victim.context.new_page()
    page.goto(elsewhere)
    return page


def expect_untouched(victim: Device, token: str | None) -> None:
    assert victim.token() == token
    victim.open()
    expect(victim.sessions()).to_have_count(1)


def test_a_form_gets_nowhere(victim: Device, foreign_page: Page, elsewhere: str) -> None:
    token = victim.token()
    # A form can be made to send JSON: the name of a field is all but its end, which takes up the equals sign.
    planted = json.dumps({"username": "planted", "password": PASSWORD, "name": "="})
    name, _, value = planted.rpartition("=")
    forms = ("/page/logout", "/page/login", "/page/end", "/page/end-others")
    for path in ("/v1/logout", "/v1/login", "/v1/users", "/v1/reauthenticate", *forms):
        with foreign_page.expect_navigation(url=victim.base + path) as answer:
            foreign_page.evaluate(
                """([action, name, value]) => {
                    const enctype = action.includes('/page/') ? 'application/x-www-form-urlencoded' : 'text/plain';
                    const form = Object.assign(document.createElement('form'), { action, method: 'post', enctype });
                    form.append(Object.assign(document.createElement('input'), { name, value }));
                    document.body.append(form);
                    form.submit();
                }""",
                [victim.base + path, name, value],
            )
        assert answer.value.status == 403
        assert "set-cookie" not in answer.value.headers
        foreign_page.goto(elsewhere)
    expect_untouched(victim, token)


def test_a_fetch_gets_nowhere(victim: Device, foreign_page: Page) -> None:
    token = victim.token()
    for method, path in [
        ("POST", "/v1/logout"),
        ("POST", "/v1/login"),
        ("POST", "/v1/users"),
        ("POST", "/v1/me/password"),
        ("DELETE", "/v1/sessions"),
        ("GET", "/v1/sessions"),
        ("GET", "/v1/me"),
        ("GET", "/"),
    ]:
        # Without leave to read an answer, a request of a form's kind is sent all the same; any other is asked about first.
        for mode in ("no-cors", "cors") if method != "DELETE" else ("cors",):
            outcome = foreign_page.evaluate(
                """([url, method, mode, body]) =>
                    fetch(url, { method, mode, credentials: 'include', body: method === 'POST' ? body : undefined })
                        .then((answer) => answer.text(), (error) => error.name)""",
                [victim.base + path, method, mode, json.dumps({"username": "planted", "password": PASSWORD})],
            )
            assert outcome in ("TypeError", ""), (method, path, mode)
    expect_untouched(victim, token)


def test_a_websocket_gets_nowhere(victim: Device, foreign_page: Page) -> None:
    token = victim.token()
    heard: list[str] = []
    foreign_page.on("console", lambda message: heard.append(message.text))
    outcome = foreign_page.evaluate(
        """url => new Promise((done) => {
            const socket = new WebSocket(url);
            let opened = false;
            socket.onopen = () => { opened = true; socket.send('{"id": 1, "type": "end_others"}') };
            socket.onmessage = ({ data }) => done(data);
            socket.onclose = ({ code }) => done([opened, code]);
        })""",
        victim.base.replace("http", "ws") + "/v1/events",
    )
    assert outcome == [False, 1006]
    assert any("403" in text for text in heard), heard
    expect_untouched(victim, token)


def test_nothing_was_planted(device: Device) -> None:
    device.try_to_log_in("planted", PASSWORD)
    device.expect_message("Username and password do not match.")
    assert device.token() is None


def test_the_page_cannot_be_framed(victim: Device, foreign_page: Page) -> None:
    refusals: list[str] = []
    foreign_page.on("console", lambda message: refusals.append(message.text))
    foreign_page.evaluate(
        """src => new Promise((done) => {
            const frame = Object.assign(document.createElement('iframe'), { src, onload: done });
            document.body.append(frame);
        })""",
        victim.base,
    )
    assert any("frame-ancestors" in text or "X-Frame-Options" in text for text in refusals), refusals
    assert all(frame.locator("form").count() == 0 for frame in foreign_page.frames)


def test_a_link_from_elsewhere_arrives_logged_in_and_without_power_over_the_page(
    victim: Device, foreign_page: Page
) -> None:
    with victim.context.expect_page() as opened:
        foreign_page.evaluate("url => { window.opened = window.open(url) }", victim.base)
    expect(opened.value.get_by_text("Logged in as")).to_be_visible()
    assert foreign_page.evaluate("window.opened.closed")  # Cross-Origin-Opener-Policy cuts the tie
