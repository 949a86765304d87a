"""The view of this connection: twenty requests drawn as they were carried, the cookie and an access token explained."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import NewDevice
from tests.browser.device import Device
from tests.clients.serving import RunningServer

EACH = pytest.mark.parametrize("new_device", ["HTTP/1.1", "HTTP/2", "HTTP/3"], indirect=True)


@EACH
def test_twenty_requests_are_drawn_as_each_version_carries_them(
    new_device: NewDevice, request: pytest.FixtureRequest
) -> None:
    version = request.node.callspec.params["new_device"]
    device = new_device()
    device.sign_up()
    page = device.go("Connection").page
    before = device.requests_carried()
    device.press("Send twenty more")
    expect(page.locator("#answer")).to_contain_text("20 requests over")
    assert page.locator(".timeline .sent").count() == 20
    bands = page.locator(".timeline .lane").count()
    said = page.locator(".timeline text").all_text_contents()
    if version == "HTTP/1.1":
        assert 1 < bands <= 6
        expect(page.locator("#answer")).to_contain_text("so the browser opened several and reused them")
    else:
        assert bands == 1
        expect(page.locator("#answer")).to_contain_text("over one connection. They were under way at the same time")
        assert device.requests_carried() >= before + 20
        assert said[0] == f"{version} · {device.fact('Connection id')} · 20 requests"
    assert all(text.startswith(version) for text in said[:bands])

    page.get_by_label("one after the other").check()
    device.press("Send twenty more")
    expect(page.locator("#answer")).to_contain_text("One after the other")
    if version != "HTTP/1.1":
        expect(page.locator("#answer")).to_contain_text("it was reused. None was made anew.")


def test_the_cookie_is_explained_as_it_was_set(new_device: NewDevice, server: RunningServer) -> None:
    brief, lasting, plain = new_device(), new_device(), new_device(base=server.http)
    brief.sign_up()
    lasting.sign_up(remember=True)
    plain.sign_up()

    def cookie(device: Device) -> str:
        return device.go("Connection").page.locator(".cookie code").inner_text()

    assert cookie(brief) == "Set-Cookie: __Host-session=…; Path=/; Secure; HttpOnly; SameSite=Lax"
    assert brief.fact("Max-Age") == "Not set: the cookie goes when the browser is closed."
    kept = re.fullmatch(
        r"Set-Cookie: __Host-session=…; Max-Age=(\d+); Path=/; Secure; HttpOnly; SameSite=Lax", cookie(lasting)
    )
    assert kept
    [set_by_server] = [each for each in lasting.context.cookies() if each.get("name") == "__Host-session"]
    until = set_by_server.get("expires", 0) - lasting.page.evaluate("Date.now() / 1000")
    assert until == pytest.approx(int(kept[1]), abs=30)
    assert cookie(plain) == "Set-Cookie: session=…; Path=/; HttpOnly; SameSite=Lax"


def test_an_access_token_is_decoded_verified_and_good_for_nothing_else(device: Device) -> None:
    device.sign_up()
    page = device.go("Connection").page
    expect(page.get_by_text("Signature right, checked by this browser")).to_be_visible()
    session = page.evaluate("async () => (await (await fetch('/v1/sessions')).json()).sessions[0].id")
    assert device.fact("sid").startswith(session)
    assert device.fact("aud").startswith("urn:coatcheck:nobody")
    refused = page.evaluate(
        """async () => {
          const { access_token } = await (await fetch("/page/credentials")).json();
          const answer = await fetch("/v1/me", { credentials: "omit", headers: { authorization: `Bearer ${access_token}` } });
          return [answer.status, (await fetch("/page/credentials", { credentials: "omit" })).status];
        }"""
    )
    assert refused == [401, 401]
