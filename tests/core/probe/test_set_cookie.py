"""Set-Cookie, read as browsers read it and judged attribute by attribute (RFC 6265bis)."""

from datetime import UTC, datetime, timedelta

import pytest

from coatcheck.cookies import CookiePolicy
from coatcheck.probe.set_cookie import (
    CookieReport,
    SetCookie,
    is_session_like,
    judge_cookie,
    parse_set_cookie,
)
from coatcheck.probe.target import parse_target

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID = "Zk3rQ0v9nS6yB1tX8wLm4aPd"


def parsed(header: str) -> SetCookie:
    cookie = parse_set_cookie(header)
    assert cookie is not None
    return cookie


def judged(header: str, url: str = "https://example.com/", address: str = "192.0.2.1") -> CookieReport:
    return judge_cookie(parsed(header), parse_target(url), address, ("h1.1",), NOW)


def verdicts(report: CookieReport) -> dict[str, str]:
    return {remark.attribute: remark.verdict for remark in report.remarks}


def test_every_attribute_is_read() -> None:
    cookie = parsed(
        f"sid={ID}; Path=/app; Domain=.Example.com; Max-Age=60; Secure; HttpOnly; SameSite=None; Partitioned"
    )
    assert cookie == SetCookie(
        name="sid",
        value=ID,
        secure=True,
        http_only=True,
        same_site="none",
        domain="example.com",
        path="/app",
        max_age=60,
        partitioned=True,
    )


@pytest.mark.parametrize("header", ["", "  ", ";", "=; Path=/", "sid=a\x01b", "sid=a\r\nx: y"])
def test_what_browsers_ignore_is_no_cookie(header: str) -> None:
    assert parse_set_cookie(header) is None


def test_a_cookie_without_a_name_has_its_value() -> None:
    assert parsed("justvalue") == SetCookie(name="", value="justvalue")


@pytest.mark.parametrize(
    "date", ["Thu, 01 Jan 2026 00:01:00 GMT", "Thu, 01-Jan-2026 00:01:00 GMT", "Thursday, 01-Jan-26 00:01:00 GMT"]
)
def test_expires_is_read_in_the_forms_that_servers_write(date: str) -> None:
    assert parsed(f"a=b; Expires={date}").lifetime(NOW) == 60


def test_max_age_wins_over_expires() -> None:
    cookie = parsed("a=b; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=5")
    assert cookie.lifetime(NOW) == 5 and not cookie.deletes(NOW)
    assert parsed("a=; Max-Age=0").deletes(NOW)
    assert parsed("a=; Expires=Thu, 01 Jan 1970 00:00:00 GMT").deletes(NOW)
    assert parsed("a=b").lifetime(NOW) is None


def test_nonsense_is_named_and_ignored() -> None:
    cookie = parsed("a=b; Max-Age=soon; Expires=tomorrow")
    assert (cookie.max_age, cookie.expires, cookie.malformed) == (None, None, ("Max-Age", "Expires"))


@pytest.mark.parametrize("name", ["session", "connect.sid", "PHPSESSID", "JSESSIONID", "__Host-session", "auth_token"])
def test_sessions_are_known_by_their_names(name: str) -> None:
    assert is_session_like(name, "x")


@pytest.mark.parametrize(
    ("name", "value", "http_only", "expected"),
    [("csrftoken", ID, True, False), ("theme", "dark", False, False), ("x", ID, True, True), ("x", ID, False, False)],
)
def test_other_cookies_are_told_from_them(name: str, value: str, http_only: bool, expected: bool) -> None:
    assert is_session_like(name, value, http_only) is expected


def test_our_own_cookie_is_beyond_reproach() -> None:
    header = CookiePolicy().set_cookie(ID + "." + ID, max_age=None).decode()
    report = judged(header)
    assert report.level is None
    assert set(verdicts(report).values()) == {"good"}


@pytest.mark.parametrize(
    ("header", "attribute", "verdict"),
    [
        (f"sid={ID}; Path=/; HttpOnly; SameSite=Lax", "Secure", "problem"),
        (f"sid={ID}; Path=/; Secure; SameSite=Lax", "HttpOnly", "warn"),
        (f"sid={ID}; Path=/; Secure; HttpOnly", "SameSite", "warn"),
        (f"sid={ID}; Path=/; Secure; HttpOnly; SameSite=Sometimes", "SameSite", "warn"),
        (f"sid={ID}; Path=/; HttpOnly; SameSite=None", "SameSite", "problem"),
        (f"sid={ID}; Path=/; Secure; HttpOnly; SameSite=None", "SameSite", "warn"),
        (f"sid={ID}; Path=/; Secure; HttpOnly; SameSite=Lax; Domain=example.com", "Domain", "warn"),
        (f"sid={ID}; Path=/; Secure; HttpOnly; SameSite=Lax; Domain=other.example", "Domain", "problem"),
        (f"sid={ID}; Secure; HttpOnly; SameSite=Lax", "Path", "info"),
        (f"sid={ID}; Path=/; Secure; HttpOnly; SameSite=Lax", "prefix", "info"),
        (f"__Host-sid={ID}; Path=/; HttpOnly; SameSite=Lax", "prefix", "problem"),
        (f"__Host-sid={ID}; Path=/app; Secure; HttpOnly; SameSite=Lax", "prefix", "problem"),
        (f"__Host-sid={ID}; Path=/; Secure; HttpOnly; SameSite=Lax; Domain=example.com", "prefix", "problem"),
        (f"__host-sid={ID}; Secure; HttpOnly; SameSite=Lax", "prefix", "problem"),
        (f"__Secure-sid={ID}; Path=/; Secure; HttpOnly; SameSite=Lax", "prefix", "good"),
        (f"__Host-Http-sid={ID}; Path=/; Secure; SameSite=Lax", "prefix", "problem"),
        (f"sid={ID}; Max-Age=99999999; Path=/; Secure; HttpOnly; SameSite=Lax", "lifetime", "info"),
        (f"sid={ID}; Max-Age=x; Path=/; Secure; HttpOnly; SameSite=Lax", "lifetime", "warn"),
        ("sid=12345; Path=/; Secure; HttpOnly; SameSite=Lax", "value", "warn"),
        ("sid=eyJhbGciOi.eyJzdWIiOi.c2ln; Path=/; Secure; HttpOnly; SameSite=Lax", "value", "info"),
    ],
)
def test_each_weakness_is_named(header: str, attribute: str, verdict: str) -> None:
    assert verdicts(judged(header))[attribute] == verdict


def test_size_is_name_and_value_against_4096() -> None:
    for length, verdict in ((4096 - 3, "info"), (4096 - 2, "problem"), (100, "good")):
        report = judged(f"sid={'x' * length}; Path=/")
        assert verdicts(report)["size"] == verdict
        assert report.bytes == length + 3


def test_on_loopback_plain_text_is_no_problem() -> None:
    header = f"sid={ID}; Path=/; HttpOnly; SameSite=Lax"
    assert verdicts(judged(header, "http://localhost/", "127.0.0.1"))["Secure"] == "info"
    assert verdicts(judged(header, "http://example.com/"))["Secure"] == "problem"
    assert verdicts(judged(header + "; Secure", "http://example.com/"))["Secure"] == "problem"


def test_a_domain_that_is_an_address_or_a_sibling_is_refused() -> None:
    assert verdicts(judged("a=b; Domain=0.0.1", "http://127.0.0.1/", "127.0.0.1"))["Domain"] == "problem"
    assert verdicts(judged("a=b; Domain=ample.com"))["Domain"] == "problem"
    assert verdicts(judged("a=b; Domain=example.com", "https://www.example.com/"))["Domain"] == "warn"


def test_a_cookie_of_no_weight_is_left_in_peace() -> None:
    assert (
        judged("theme=dark; Path=/; SameSite=Lax; Max-Age=" + str(int(timedelta(days=365).total_seconds()))).level
        is None
    )


def test_no_value_is_in_the_report() -> None:
    assert ID not in str(judged(f"sid={ID}; Path=/; SameSite={ID[:3]}"))
