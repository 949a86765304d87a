"""A person's device: one browser context with one page, what its console complained of, and where it sent requests."""

import re
import uuid

from playwright.sync_api import BrowserContext, ConsoleMessage, Locator, Page, Request, expect

PASSWORD = "a coat, a hat, an umbrella"

# Browsers report every refusal on the console, and a page cannot help it: refusals are what many tests are about.
_REFUSAL = re.compile(r"Failed to load resource: the server responded with a status of (401|403|409|422|429|503) ")


class Device:
    """Speaks of the page in the words that a reader sees."""

    def __init__(self, context: BrowserContext, base: str) -> None:
        self.context = context
        self.base = base
        self.page = context.new_page()
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._see)

    def open(self, path: str = "/") -> "Device":
        self.page.goto(self.base + path)
        return self

    def sign_up(self, *, name: str = "", password: str = PASSWORD, remember: bool = False) -> str:
        """Make an account of a new username, and give that."""
        username = f"u{uuid.uuid4().hex[:12]}"
        self.open("/#sign-up")
        form = self.form("Sign up")
        form.get_by_label("Your name").fill(name)
        form.get_by_label("Username").fill(username)
        form.get_by_label("Password").fill(password)
        form.get_by_label("Remember me").set_checked(remember)
        form.get_by_role("button", name="Create account").click()
        self.expect_live()
        return username

    def log_in(self, username: str, password: str = PASSWORD) -> "Device":
        self.try_to_log_in(username, password)
        self.expect_live()
        return self

    def try_to_log_in(self, username: str, password: str) -> None:
        self.open()
        form = self.form("Log in")
        form.get_by_label("Username").fill(username)
        form.get_by_label("Password").fill(password)
        form.get_by_role("button", name="Log in").click()

    def go(self, view: str) -> "Device":
        """To another view, by its link, when it is there."""
        link = self.page.get_by_role("navigation", name="Views").get_by_role("link", name=view)
        link.click()
        expect(link).to_have_attribute("aria-current", "page")
        expect(self.page.locator(f".grid.of-{view.lower()}")).to_be_visible()
        return self

    def form(self, name: str) -> Locator:
        return self.page.get_by_role("form", name=name)

    def press(self, button: str) -> None:
        self.page.get_by_role("button", name=button).click()

    def fact(self, term: str) -> str:
        """What the page says under this term."""
        row = self.page.locator("dl > div", has=self.page.get_by_text(term, exact=True)).locator("dd")
        expect(row).not_to_be_empty()
        return row.inner_text()

    def requests_carried(self) -> int:
        return int(self.page.get_by_text("Requests so far").locator("b").inner_text())

    def sessions(self) -> Locator:
        return self.page.get_by_role("region", name="Sessions").locator("#sessions > li")

    def expect_live(self) -> None:
        """Logged in, and what happens elsewhere is told here."""
        expect(self.page.get_by_text("Logged in as")).to_be_visible()
        expect(self.page.locator("#account[data-live]")).to_be_visible()

    def events(self) -> Locator:
        """What the page says has happened, the newest first."""
        return self.page.get_by_role("region", name="As it happens").locator("dd")

    def expect_login_view(self) -> None:
        expect(self.form("Log in")).to_be_visible()
        expect(self.page.get_by_text("Logged in as")).to_be_hidden()

    def expect_message(self, text: str | re.Pattern[str]) -> None:
        """In a form or as a notice: in both cases a live region, so that screen readers say it."""
        spoken = self.page.get_by_role("alert").or_(self.page.get_by_role("status"))
        expect(spoken.filter(has_text=text)).to_be_visible()

    def token(self) -> str | None:
        """The session's cookie, which the page itself cannot see."""
        cookies = {cookie.get("name"): cookie.get("value") for cookie in self.context.cookies()}
        return cookies.get("__Host-session") or cookies.get("session")

    def scrolls_sideways(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not _REFUSAL.match(message.text):
            self.complaints.append(message.text)

    def _see(self, request: Request) -> None:
        if not request.url.startswith((self.base + "/", "data:")):
            self.elsewhere.append(request.url)


def add_authenticator(page: Page) -> None:
    """A device that makes and keeps passkeys, whose user is always there and always says yes (CDP's WebAuthn)."""
    client = page.context.new_cdp_session(page)
    client.send("WebAuthn.enable")
    able = ("hasResidentKey", "hasUserVerification", "isUserVerified", "automaticPresenceSimulation")
    options = {"protocol": "ctap2", "transport": "internal", **dict.fromkeys(able, True)}
    client.send("WebAuthn.addVirtualAuthenticator", {"options": options})
