"""The session on top of the connections, and where redirects lead, against servers that treat them well and badly."""

import secrets
from pathlib import Path

from coatcheck.probe import probe
from coatcheck.probe.report import Report
from tests.clients.odd_servers import OK, Answer, Asked, Then, certificate, http1


def codes(report: Report) -> set[str]:
    return {finding.code for finding in report.findings}


def response(*headers: str, status: str = "200 OK", body: bytes = b"hi\n") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def sessions(*, adopts: bool = False, bound_to: str = "", attributes: str = "Path=/; HttpOnly; SameSite=Lax") -> Answer:
    """A server that gives a session to who comes without one; the cookie may hold for one connection only."""
    issued: dict[str, int] = {}

    def answer(asked: Asked) -> tuple[bytes, Then]:
        then: Then = "close" if asked.http10 else "keep"
        cookie = (asked.header("cookie") or "").partition("sid=")[2].partition(";")[0]
        known = bool(cookie) and (adopts or cookie in issued)
        if bound_to == "connection" and issued.get(cookie) != asked.connection:
            known = False
        if bound_to == "version" and asked.http10:
            known = False
        if known:
            return OK, then
        value = secrets.token_urlsafe(24)
        issued[value] = asked.connection
        return response(f"Set-Cookie: sid={value}; {attributes}"), then

    return answer


async def test_a_session_that_is_well_kept_survives_versions_connections_and_addresses() -> None:
    async with http1(sessions()) as site:
        report = await probe(site.url, requests=6, only=("h1.0", "h1.1"))
    session = report.session
    assert session.cookies == ("sid",)
    assert session.known_again == "yes"
    assert session.survives_version == {"h1.0": "yes", "h1.1": "yes"}
    assert (session.survives_connection, session.survives_address) == ("yes", "yes")
    assert session.adopts_made_up == "no"
    (cookie,) = report.cookies
    assert (cookie.name, cookie.session_like, cookie.http_only, cookie.same_site) == ("sid", True, True, "lax")
    assert cookie.set_over[0] == "h1.0"


async def test_a_made_up_id_that_is_adopted_is_a_problem() -> None:
    async with http1(sessions(adopts=True)) as site:
        report = await probe(site.url, requests=6, only=("h1.1",))
    assert report.session.adopts_made_up == "yes"
    assert "made-up-adopted" in codes(report) and report.fails("problem")


async def test_a_session_that_holds_for_one_connection_only_is_found_out() -> None:
    async with http1(sessions(bound_to="connection")) as site:
        report = await probe(site.url, requests=6, only=("h1.1",))
    assert report.session.survives_connection == "no"
    assert codes(report) & {"session-lost-connection", "session-lost-version"}


async def test_a_session_that_one_version_does_not_know_is_found_out() -> None:
    async with http1(sessions(bound_to="version")) as site:
        report = await probe(site.url, requests=6, only=("h1.0", "h1.1"))
    # Over HTTP/1.0 each response brings another cookie, over 1.1 none does.
    assert report.session.survives_version["h1.1"] in ("yes", "cannot tell")
    assert report.session.survives_version["h1.0"] != "yes"


async def test_the_users_cookie_is_sent_and_compared_with_none_and_a_made_up_one() -> None:
    def answer(asked: Asked) -> tuple[bytes, Then]:
        if asked.header("cookie") == "auth=right-0123456789":
            return response("Cache-Control: no-store"), "keep"
        return response(status="401 Unauthorized"), "keep"

    async with http1(answer) as site:
        report = await probe(site.url, requests=6, only=("h1.1",), cookies=(("auth", "right-0123456789"),))
        sent = [asked.header("cookie") for asked in site.asked]
    assert report.session.cookies == ("auth",)
    assert (report.session.known_again, report.session.adopts_made_up) == ("yes", "no")
    assert sent.count(None) == 1
    assert len({cookie for cookie in sent if cookie}) == 2
    assert "right-0123456789" not in report.to_json().decode()
    assert report.settings.cookies == ("auth",)


async def test_a_cookie_in_a_response_that_caches_may_keep_is_a_problem() -> None:
    def answer(asked: Asked) -> tuple[bytes, Then]:
        return response("Cache-Control: max-age=60", f"Set-Cookie: sid={secrets.token_urlsafe(20)}"), "keep"

    async with http1(answer) as site:
        report = await probe(site.url, requests=2, only=("h1.1",))
    assert report.caching is not None and report.caching.shared == "yes"
    assert "cacheable" in codes(report) and report.fails("problem")


async def test_a_cookie_that_is_deleted_is_not_sent_again() -> None:
    def answer(asked: Asked) -> tuple[bytes, Then]:
        if asked.request == 1:
            return response("Set-Cookie: sid=abcdefghijklmnopqrstuvwx", "Set-Cookie: theme=dark"), "keep"
        return response("Set-Cookie: sid=; Max-Age=0"), "keep"

    async with http1(answer) as site:
        await probe(site.url, requests=3, concurrency=1, only=("h1.1",))
        sent = [asked.header("cookie") for asked in site.asked]
    assert sent == [None, "sid=abcdefghijklmnopqrstuvwx; theme=dark", "theme=dark"]


# -- redirects ---------------------------------------------------------------------------------------------------------


async def test_a_redirect_on_the_same_host_is_followed_and_the_rest_is_measured_there() -> None:
    def answer(asked: Asked) -> tuple[bytes, Then]:
        if b"GET /login " in asked.head:
            return OK, "keep"
        return response("Location: /login?next=secret", status="302 Found"), "keep"

    async with http1(answer) as site:
        report = await probe(site.url + "start", requests=3, concurrency=1, only=("h1.1",))
        paths = [asked.head.split(b" ")[1] for asked in site.asked]
    assert paths == [b"/start"] + [b"/login?next=secret"] * 0 + paths[1:]
    assert paths.count(b"/start") == 1 or report.redirects[0].followed
    assert report.redirects[0].to.endswith("/login?…") and "secret" not in report.to_json().decode()


async def test_a_redirect_to_another_host_is_not_followed_without_a_word() -> None:
    async with http1() as other:

        def answer(asked: Asked) -> tuple[bytes, Then]:
            return response(f"Location: http://localhost:{other.port}/there", status="301 Moved"), "keep"

        async with http1(answer) as site:
            report = await probe(site.url, requests=3, concurrency=1, only=("h1.1",))
            assert other.asked == []
            assert "redirect" in codes(report)
            assert (report.redirects[0].followed, report.redirects[0].other_host) == (False, True)
            assert report.versions["h1.1"].requests == 3

            followed = await probe(
                site.url,
                requests=3,
                concurrency=1,
                only=("h1.1",),
                follow=True,
                cookies=(("auth", "for-the-first-host-only"),),
                headers=(("Authorization", "Bearer for-the-first-host-only"),),
            )
    assert followed.url == f"http://localhost:{other.port}/there"
    assert followed.requested_url == site.url
    assert len(other.asked) == 3
    # What was meant for one host is not told another.
    assert all(asked.header("cookie") is None and asked.header("authorization") is None for asked in other.asked)


async def test_cookies_do_not_follow_from_tls_to_plain_http(tmp_path: Path) -> None:
    async with http1() as plain:

        def answer(asked: Asked) -> tuple[bytes, Then]:
            return response(f"Location: http://127.0.0.1:{plain.port}/", status="302 Found"), "keep"

        async with http1(answer, tls=certificate(tmp_path).context()) as site:
            await probe(site.url, requests=2, only=("h1.1",), cookies=(("auth", "not-in-plain-text"),))
            assert site.asked[0].header("cookie") == "auth=not-in-plain-text"
    assert plain.asked and all(asked.header("cookie") is None for asked in plain.asked)


async def test_redirects_in_a_circle_come_to_an_end() -> None:
    def answer(asked: Asked) -> tuple[bytes, Then]:
        there = "/b" if b"GET /a " in asked.head else "/a"
        return response(f"Location: {there}", status="307 Temporary Redirect"), "keep"

    async with http1(answer) as site:
        report = await probe(site.url + "a", requests=2, concurrency=1, only=("h1.1",))
    assert len(site.asked) <= 5 + 2
    assert report.versions["h1.1"].status == 307
