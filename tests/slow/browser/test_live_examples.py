"""The pages of the live examples: what they show when somebody logs in, and when the session ends."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, Playwright, expect

from tests.browser.conftest import QUIET
from tests.clients.examples import served


@contextmanager
def page_of(name: str, playwright: Playwright, directory: Path) -> Iterator[Page]:
    """The example's page at the address that its first lines give, wherever it is served."""
    with served(name, directory) as url:
        rules = f"MAP localhost:8000 {url.removeprefix('http://')}, MAP * ~NOTFOUND"
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=[*QUIET, f"--host-resolver-rules={rules}"]
        )
        try:
            page = browser.new_context().new_page()
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto("http://localhost:8000/")
            yield page
            assert errors == []
        finally:
            browser.close()


def test_the_chat_is_open_while_one_is_logged_in_and_closed_in_every_tab_by_logging_out(
    playwright: Playwright, tmp_path: Path
) -> None:
    with page_of("websocket_chat", playwright, tmp_path) as page:
        page.get_by_placeholder("Your name").fill("ada")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("button", name="Say")).to_be_visible()
        second = page.context.new_page()
        second.goto("http://localhost:8000/")
        expect(second.get_by_role("button", name="Say")).to_be_visible()
        page.locator("input[name=text]").fill("hello")
        page.get_by_role("button", name="Say").click()
        expect(second.locator("#said")).to_have_text("ada: hello")
        page.get_by_role("button", name="Log out").click()
        for each in (page, second):
            expect(each.locator("#said")).to_have_text("ada: hello closed with 4401: session ended: logout")
            expect(each.get_by_role("button", name="Log in")).to_be_visible()


def test_the_clock_ticks_while_one_is_logged_in_and_says_when_that_is_over(
    playwright: Playwright, tmp_path: Path
) -> None:
    with page_of("sse_clock", playwright, tmp_path) as page:
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#time")).to_contain_text("user123, it is")
        page.get_by_role("button", name="Log out").click()
        expect(page.locator("#time")).to_have_text("The session is over: logout")
