"""What the page does for people and against attackers, over HTTP/2: messages, passwords, names, layout, other sites."""

import json
import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from coatcheck.server.ui.devices import device as named
from tests.browser.conftest import NewDevice
from tests.browser.device import PASSWORD, Device

NEW_PASSWORD = "a scarf, a cane, a top hat"
MARKUP = "<img src=x onerror=alert(document.domain)>"


def answering(status: int, problem: dict[str, Any] | str, **headers: str) -> Callable[[Route], None]:
    """Make a request come back with this, without asking the server."""
    body = problem if isinstance(problem, str) else json.dumps(problem)

    def answer(route: Route) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        route.fulfill(status=status, body=body, headers={"content-type": "application/problem+json", **named})

    return answer


def once(answer: Callable[[Route], None]) -> Callable[[Route], None]:
    """The first request gets this; later ones go on to the server.

    In place of `times=1`, which switches interception off while the next request may be on its way into it, and hangs.
    """
    answers = iter([answer])
    return lambda route: next(answers, Route.continue_)(route)


def test_changing_the_password_ends_the_other_sessions_and_the_old_password(new_device: NewDevice) -> None:
    desk, phone = new_device(), new_device()
    username = desk.sign_up()
    phone.log_in(username)
    old_token = desk.token()

    form = desk.go("Security").page.get_by_role("form", name="Password")
    form.get_by_label("Current password").fill("not my password")
    form.get_by_label("New password").fill(NEW_PASSWORD)
    desk.press("Change password")
    desk.expect_message("The current password is not right.")
    expect(form.get_by_label("Current password")).to_be_focused()

    form.get_by_label("Current password").fill(PASSWORD)
    form.get_by_label("New password").fill("short")
    desk.press("Change password")
    desk.expect_message(re.compile("password", re.IGNORECASE))
    expect(form.get_by_label("New password")).to_have_attribute("aria-invalid", "true")

    form.get_by_label("New password").fill(NEW_PASSWORD)
    desk.press("Change password")
    desk.expect_message("Password changed. Your other sessions have ended.")
    expect(form.get_by_label("New password")).to_have_value("")
    expect(desk.go("Sessions").sessions()).to_have_count(1)
    assert desk.token() != old_token

    phone.expect_login_view()
    phone.expect_message("Your password was changed, which ended this session. Log in again.")
    phone.try_to_log_in(username, PASSWORD)
    phone.expect_message("Username and password do not match.")
    phone.log_in(username, NEW_PASSWORD)


def test_ending_all_others_leaves_this_one(new_device: NewDevice) -> None:
    desk, *others = new_device(), new_device(), new_device()
    username = desk.sign_up()
    for other in others:
        other.log_in(username)
    expect(desk.sessions()).to_have_count(3)
    desk.press("End all others")
    expect(desk.sessions()).to_have_count(1)
    desk.expect_message("All other sessions have ended.")
    expect(desk.page.get_by_role("button", name="End all others")).to_be_hidden()
    for other in others:
        other.expect_login_view()


def test_a_tab_notices_the_log_out_in_another(device: Device) -> None:
    device.sign_up()
    other = device.context.new_page()
    other.goto(device.base)
    other.get_by_role("button", name="Log out").click()
    expect(other.get_by_role("form", name="Log in")).to_be_visible()
    device.expect_login_view()
    device.expect_message("You have logged out in another tab.")


def test_a_tab_overtaken_by_a_new_secret_stays_logged_in(device: Device) -> None:
    device.sign_up()
    device.go("Connection")
    # As if this one request had gone out just before another tab was given the new secret.
    device.page.route("**/v1/connection", once(answering(401, {"title": "Unauthorized"})))
    with device.page.expect_response("**/v1/me"):
        device.press("Refresh")
    expect(device.go("Sessions").page.get_by_text("Logged in as")).to_be_visible()
    expect(device.sessions()).to_have_count(1)


def test_a_list_without_this_session_is_taken_for_its_end_and_nothing_is_drawn_from_it(new_device: NewDevice) -> None:
    """As when the session ends while its list is being read; whether it has really ended is asked."""
    desk, phone = new_device(), new_device()
    username = desk.sign_up()
    expect(desk.sessions()).to_have_count(1)
    number = desk.page.locator("#account p.number").inner_text()
    desk.page.route("**/v1/sessions", once(answering(200, {"sessions": []})))
    with desk.page.expect_response("**/v1/me"):
        phone.log_in(username)  # which makes the desk look
    expect(desk.sessions()).to_have_count(2)
    assert desk.page.locator("#account p.number").inner_text() == number


def test_remember_me_decides_whether_the_cookie_outlives_the_browser(new_device: NewDevice) -> None:
    def cookie(device: Device) -> dict[str, Any]:
        [session] = [each for each in device.context.cookies() if each.get("name") == "__Host-session"]
        return dict(session)

    brief, lasting = new_device(), new_device()
    brief.sign_up()
    lasting.sign_up(remember=True)
    assert cookie(brief)["expires"] == -1
    assert cookie(lasting)["expires"] > 0
    for device in (brief, lasting):
        found = cookie(device)
        assert found["path"] == "/"
        assert (found["httpOnly"], found["secure"], found["sameSite"]) == (True, True, "Lax")
        assert device.page.evaluate("document.cookie") == ""
        assert device.page.evaluate("localStorage.length + sessionStorage.length") == 0


def test_names_and_user_agents_are_shown_as_text(new_device: NewDevice) -> None:
    device = new_device(user_agent=f"{MARKUP} Mozilla/5.0")
    device.sign_up(name=MARKUP)
    expect(device.page.get_by_role("heading", level=1)).to_have_text(MARKUP)
    expect(device.sessions().get_by_role("heading")).to_contain_text("Unknown device")
    assert device.page.locator("img").count() == 0


def test_markup_cannot_be_made_from_text_even_by_a_mistake(device: Device) -> None:
    device.open()
    refused = device.page.evaluate("() => { try { document.body.innerHTML = '<p>' } catch (e) { return e.name } }")
    assert refused == "TypeError"
    device.page.evaluate("""() => {
        const script = document.createElement('script');
        try { script.textContent = 'window.ran = true' } catch {}
        script.append('window.ran = true');
        document.body.append(script);
        const style = document.createElement('p');
        style.setAttribute('style', 'color: red');
        document.body.append(style);
    }""")
    assert device.page.evaluate("window.ran") is None
    assert len(device.complaints) >= 3  # the browser says each time which directive was violated
    assert all(
        "TrustedHTML" in said or "TrustedScript" in said or "Content Security" in said for said in device.complaints
    )
    device.complaints.clear()


def test_what_is_wrong_with_a_new_account_is_said_at_its_field(device: Device) -> None:
    taken = device.sign_up()
    device.press("Log out")
    device.page.get_by_role("link", name="Sign up").click()
    form = device.form("Sign up")

    device.press("Create account")
    device.expect_message("Please fill in what is empty.")
    expect(form.get_by_label("Username")).to_be_focused()

    form.get_by_label("Username").fill(taken.upper())
    form.get_by_label("Password").fill(PASSWORD)
    device.press("Create account")
    expect(form.get_by_label("Username")).to_have_attribute("aria-invalid", "true")
    expect(form.get_by_label("Username")).to_be_focused()
    expect(form.get_by_role("alert")).not_to_be_empty()

    form.get_by_label("Username").fill(taken + "x")
    form.get_by_label("Password").fill("password")
    device.press("Create account")
    expect(form.get_by_label("Password")).to_have_attribute("aria-invalid", "true")
    expect(form.get_by_label("Username")).not_to_have_attribute("aria-invalid", "true")


def test_refusals_are_said_in_words(device: Device) -> None:
    current: dict[str, Callable[[Route], None]] = {}
    device.page.route("**/v1/login", lambda route: current["answer"](route))
    current["answer"] = answering(401, {})
    device.try_to_log_in("ada", PASSWORD)
    device.expect_message("Username and password do not match.")
    for answer, message in [
        (answering(403, {"detail": "This page may not do that."}), "This page may not do that."),
        (answering(429, {"title": "Too Many"}, retry_after="30"), "Too many attempts. Try again in 30 seconds."),
        (answering(429, {}, retry_after="600"), "Too many attempts. Try again in 10 minutes."),
        (answering(503, "no healthy upstream", retry_after="1"), "The server is busy. Try again in a second."),
        (answering(503, {"detail": "Nothing is lost; try again."}), "Nothing is lost; try again."),
        (answering(500, "<html>"), "The server could not do this (500)."),
    ]:
        current["answer"] = answer
        device.form("Log in").get_by_role("button", name="Log in").click()
        device.expect_message(message)
        expect(device.form("Log in").get_by_label("Password")).to_have_value(PASSWORD)
    device.complaints = [said for said in device.complaints if "500" not in said]


def test_a_server_that_does_not_answer_can_be_tried_again(device: Device) -> None:
    device.page.route("**/v1/me", once(answering(503, "no healthy upstream")))
    device.open()
    expect(device.page.get_by_role("heading", name="The server does not answer")).to_be_visible()
    device.press("Try again")
    device.expect_login_view()

    username = device.sign_up()
    device.go("Connection")
    device.context.set_offline(True)
    device.press("Refresh")
    device.expect_message("The server cannot be reached.")
    device.context.set_offline(False)
    device.press("Refresh")
    expect(device.go("Sessions").page.get_by_role("heading", name=username)).to_be_visible()
    device.complaints = [said for said in device.complaints if "ERR_INTERNET_DISCONNECTED" not in said]


def test_everything_is_done_by_keyboard(device: Device) -> None:
    device.sign_up(name="Ada")
    keys = device.page.keyboard
    device.page.get_by_role("button", name="Log out").focus()
    keys.press("Enter")
    device.expect_login_view()
    expect(device.page.get_by_role("heading", level=1)).to_be_focused()  # reading goes on where the view begins
    keys.press("Tab")
    expect(device.page.get_by_role("link", name="Log in")).to_be_focused()
    keys.press("Tab")
    keys.press("Enter")
    expect(device.form("Sign up")).to_be_visible()
    for text in ("Grace", f"u{uuid.uuid4().hex[:12]}", PASSWORD):
        keys.press("Tab")
        keys.type(text)
    keys.press("Enter")
    expect(device.page.get_by_role("heading", name="Grace")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_narrowest_phone_never_scrolls_sideways(new_device: NewDevice, scheme: str) -> None:
    device = new_device(color_scheme=scheme, viewport={"width": 320, "height": 640}, reduced_motion="reduce")
    device.open()
    device.expect_login_view()
    assert not device.scrolls_sideways()
    device.open("/#sign-up")
    assert not device.scrolls_sideways()
    device.sign_up(name="W" * 100)
    expect(device.sessions()).to_have_count(1)
    assert not device.scrolls_sideways()
    ground = device.page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(ground) > 600) is (scheme == "light")
    assert sum(ground) > 600 or sum(ground) < 150


def test_every_control_has_a_name_and_every_message_a_voice(device: Device) -> None:
    device.sign_up()
    nameless = device.page.evaluate("""() => [...document.querySelectorAll('input, button, a')]
        .filter(e => !e.ariaHidden && !(e.labels?.length || e.ariaLabel || e.textContent.trim())).map(e => e.outerHTML)""")
    assert nameless == []
    repeated = device.page.evaluate(
        "(all => all.filter((id, i) => all.indexOf(id) !== i))([...document.querySelectorAll('[id]')].map(e => e.id))"
    )
    assert repeated == []
    assert device.page.locator("html[lang=en]").count() == 1


AGENTS = {
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36": "Chrome 150 on Linux",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36 Edg/150.0.0.0": "Edge 150 on Windows",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0": "Firefox 140 on Windows",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15": "Safari 18 on macOS",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/150.0 Mobile/15E148 Safari/604.1": "Chrome 150 on iPhone",
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36": "Samsung Internet 28 on Android",
    "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36": "Chrome 150 on ChromeOS",
    "Mozilla/5.0 (compatible; something)": "A browser on an unknown system",
    "curl/8.5.0": "curl 8.5.0",
    "python-httpx/0.28.1": "python-httpx 0.28.1",
    "grpc-python/1.76.0 grpc-c/51.0.0 (linux; chttp2)": "grpc-python 1.76.0",
    "MyApp": "MyApp",
    "": "Unknown device",
    MARKUP: "Unknown device",
}


def test_user_agents_are_named_in_words(device: Device) -> None:
    device.open()
    module = (device.page.locator("link[href$='/dom.js']").get_attribute("href") or "").replace("dom.js", "device.js")
    words = device.page.evaluate(
        "async ([module, agents]) => { const { device } = await import(module); return agents.map(a => device(a).words) }",
        [module, [*AGENTS, None]],
    )
    assert words == [*AGENTS.values(), "Unknown device"]
    # And the same where they are named without JavaScript.
    assert [named(agent) for agent in AGENTS] == [*AGENTS.values()]


def test_times_are_in_the_readers_zone(new_device: NewDevice) -> None:
    desk = new_device(locale="en-GB", timezone_id="UTC")
    username = desk.sign_up()
    far = new_device(locale="en-GB", timezone_id="Pacific/Kiritimati").log_in(username)
    moment = desk.sessions().first.locator("time").last.get_attribute("datetime")
    seen = far.sessions().locator(f"time[datetime='{moment}']").first
    assert seen.inner_text() == far.page.evaluate(
        """moment => {
            const date = new Date(moment);
            const there = { timeZone: 'Pacific/Kiritimati' };
            const day = (then) => new Intl.DateTimeFormat('en-GB', { dateStyle: 'short', ...there }).format(then);
            const clock = new Intl.DateTimeFormat('en-GB', { timeStyle: 'short', ...there }).format(date);
            const full = new Intl.DateTimeFormat('en-GB', { dateStyle: 'medium', timeStyle: 'short', ...there });
            return day(date) === day(new Date()) ? `today, ${clock}` : full.format(date);
        }""",
        moment,
    )
    assert seen.inner_text() != desk.sessions().first.locator("time").last.inner_text()


def test_a_device_is_renamed_in_place_and_every_page_shows_it(new_device: NewDevice) -> None:
    desk, phone = new_device(), new_device(user_agent="kiosk/1.0")
    username = desk.sign_up()
    phone.log_in(username)
    theirs = desk.sessions().filter(has_text="kiosk 1.0")
    theirs.get_by_role("button", name="Rename").click()
    desk.page.get_by_label("Name of this device").fill("not this")
    desk.page.keyboard.press("Escape")
    expect(desk.page.get_by_label("Name of this device")).to_have_count(0)
    expect(theirs.get_by_role("button", name="Rename")).to_be_focused()
    theirs.get_by_role("button", name="Rename").click()
    desk.page.get_by_label("Name of this device").fill(MARKUP)
    desk.page.keyboard.press("Enter")
    for device in (desk, phone):
        expect(device.sessions().get_by_role("heading", name=MARKUP)).to_be_visible()
        expect(device.sessions().filter(has_text=MARKUP)).to_contain_text("kiosk 1.0")
    expect(phone.sessions().get_by_role("heading", name=MARKUP)).to_contain_text("This one")


def test_it_speaks_japanese_to_who_reads_it_and_to_who_chooses_it(new_device: NewDevice) -> None:
    device = new_device(locale="ja-JP", timezone_id="Asia/Tokyo").open()
    expect(device.page.get_by_role("heading", name="ログインは一度。")).to_be_visible()
    assert device.page.locator("html[lang=ja]").count() == 1
    with device.page.expect_navigation():
        device.press("English")
    device.expect_login_view()
    username = device.sign_up()
    device.press("日本語")
    expect(device.page.get_by_text("ログイン中")).to_be_visible()
    expect(device.page.get_by_role("heading", name=username)).to_be_visible()
    expect(device.page.get_by_role("button", name="ログアウト")).to_be_visible()
    expect(device.page.get_by_role("region", name="セッション").get_by_role("listitem").first).to_contain_text(
        "この端末"
    )


def test_each_view_asks_for_what_it_needs_and_for_no_more(device: Device) -> None:
    asked: list[str] = []
    device.page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    device.open()
    device.expect_login_view()
    assert sorted(asked) == ["", "api.js", "app.js", "dom.js", "forms.js", "me", "style.css"] or "favicon.svg" in asked
    assert len(asked) <= 8
    sent = device.page.evaluate(
        """() => [...performance.getEntriesByType('resource'), performance.getEntriesByType('navigation')[0]]
            .map(each => each.transferSize).reduce((a, b) => a + b)"""
    )
    assert 5_000 < sent < 30_000
    asked.clear()
    device.sign_up()
    assert {"account.js", "account.css", "sessions.js", "device.js", "events.js"} <= {*asked}
    assert {"connection.js", "activity.js", "security.js", "passkeys.js", "admin.js", "ja.js", "fresh.js"}.isdisjoint(
        asked
    )
