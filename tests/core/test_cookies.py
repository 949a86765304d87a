"""Cookies: read as browsers send them, written as browsers keep them, refused where they would not protect."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coatcheck.cookies import MAX_COOKIE_BYTES, CookiePolicy, find_cookie, parse_cookies
from coatcheck.errors import CookiePolicyError

NAME = b"__Host-session"

# ---- reading


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (b"__Host-session=abc", b"abc"),
        (b"a=1; __Host-session=abc; b=2", b"abc"),
        (b"a=1;__Host-session=abc;b=2", b"abc"),
        (b"a=1;   \t__Host-session=abc \t ;b=2", b"abc"),
        (b"__Host-session=", b""),
        (b"__Host-session=a=b==", b"a=b=="),
        (b'__Host-session="abc"', b'"abc"'),
        (b"__Host-session=\xff\xfe", b"\xff\xfe"),
        (b";;; ;__Host-session=abc;", b"abc"),
        (b"junk; __Host-session=abc; junk", b"abc"),
        (b"=nameless; __Host-session=abc", b"abc"),
    ],
)
def test_the_only_cookie_of_a_name_is_found(header: bytes, value: bytes) -> None:
    assert find_cookie(header, NAME) == value


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b";",
        b"=",
        b"__Host-session",
        b"__Host-sessio=abc",
        b"x__Host-session=abc",
        b"__Host-session2=abc",
        b"__host-session=abc",
        b"__Host-session =abc",
        b"a=__Host-session=abc",
        b'a="; b=1',
        b"\xff__Host-session=abc",
    ],
)
def test_no_other_cookie_is_taken_for_it(header: bytes) -> None:
    assert find_cookie(header, NAME) is None


@pytest.mark.parametrize(
    "header",
    [
        b"__Host-session=abc; __Host-session=def",
        b"__Host-session=abc; __Host-session=abc",
        b"__Host-session=abc;__Host-session=",
        b"__Host-session=; a=1; __Host-session=abc",
        b'__Host-session="x; __Host-session=abc"',
    ],
)
def test_two_cookies_of_one_name_count_as_none(header: bytes) -> None:
    assert find_cookie(header, NAME) is None


def test_all_cookies_are_given_in_order_crumbs_and_duplicates_included() -> None:
    headers = [b"a=1; b=2", b"a=3", b"", b"junk", b" c = 4 ", b"d=\xe9"]
    assert parse_cookies(headers) == [("a", "1"), ("b", "2"), ("a", "3"), ("c ", "4"), ("d", "é")]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=4))
def test_reading_never_fails_and_both_readers_agree(headers: list[bytes]) -> None:
    header = b"; ".join(headers)
    found = parse_cookies([header])
    for name in {name for name, _ in found} | {"absent"}:
        values = [value for key, value in found if key == name]
        expected = values[0].encode("latin-1") if len(values) == 1 else None
        assert find_cookie(header, name.encode("latin-1")) == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("ab=; \t", max_size=12), max_size=4))
def test_crumbs_of_http_2_read_as_one_header(crumbs: list[str]) -> None:
    headers = [crumb.encode() for crumb in crumbs]
    assert parse_cookies(headers) == parse_cookies([b"; ".join(headers)])


# ---- writing


def test_the_default_is_the_strictest_that_a_session_cookie_can_be() -> None:
    assert CookiePolicy().set_cookie("abc", max_age=None) == (
        b"__Host-session=abc; Path=/; Secure; HttpOnly; SameSite=Lax"
    )


def test_every_attribute_is_written_as_asked() -> None:
    policy = CookiePolicy(
        name="s", secure=False, http_only=False, same_site="strict", path="/app", domain="app.example"
    )
    assert policy.set_cookie("v", max_age=60) == b"s=v; Max-Age=60; Path=/app; Domain=app.example; SameSite=Strict"
    assert CookiePolicy(same_site="none").set_cookie("v", max_age=0) == (
        b"__Host-session=v; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=None"
    )


def test_a_cookie_is_deleted_with_the_attributes_it_was_set_with() -> None:
    policy = CookiePolicy(name="__Secure-s", path="/app", domain="app.example")
    deleted = policy.delete_cookie().decode()
    assert deleted.startswith("__Secure-s=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; ")
    attributes = policy.set_cookie("v", max_age=None).decode().partition("; ")[2]
    assert deleted.endswith("; " + attributes)


@pytest.mark.parametrize("value", ["a b", "a;b", "a,b", 'a"b', "a\\b", "a\nb", "a\x00b", "é", "a\x7fb", "\ud800"])
def test_a_value_that_could_end_the_header_or_be_read_otherwise_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII"):
        CookiePolicy().set_cookie(value, max_age=None)


def test_a_cookie_that_browsers_would_drop_for_its_size_is_refused() -> None:
    policy = CookiePolicy()
    fits = "v" * (MAX_COOKIE_BYTES - len(policy.name))
    assert policy.set_cookie(fits, max_age=None).startswith(b"__Host-session=v")
    with pytest.raises(ValueError, match="would take 4097 bytes and browsers keep 4096"):
        policy.set_cookie(fits + "v", max_age=None)


def test_what_was_written_is_read_back() -> None:
    header = CookiePolicy().set_cookie("a.b-c_d", max_age=5).split(b"; ")[0]
    assert find_cookie(header, NAME) == b"a.b-c_d"


# ---- policies

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "is not a token"),
    ({"name": "a b"}, "is not a token"),
    ({"name": "a=b"}, "is not a token"),
    ({"name": "a;b"}, "is not a token"),
    ({"name": "sitzungé"}, "is not a token"),
    ({"name": "a\r\nSet-Cookie: x"}, "is not a token"),
    ({"name": "s", "path": ""}, "must start with /"),
    ({"name": "s", "path": "app"}, "must start with /"),
    ({"name": "s", "path": "/a;b"}, "must start with /"),
    ({"name": "s", "path": "/a\r\nb"}, "must start with /"),
    ({"name": "s", "path": "/é"}, "must start with /"),
    ({"name": "s", "domain": ""}, "is not a host name"),
    ({"name": "s", "domain": ".app.example"}, "is not a host name"),
    ({"name": "s", "domain": "app.example; Path=/x"}, "is not a host name"),
    ({"name": "s", "domain": "https://app.example"}, "is not a host name"),
    ({"name": "s", "domain": "app.example:8080"}, "is not a host name"),
    ({"name": "s", "same_site": "Lax"}, "none of 'lax', 'strict' and 'none'"),
    ({"name": "s", "same_site": "None"}, "none of 'lax', 'strict' and 'none'"),
    ({"name": "s", "same_site": None}, "none of 'lax', 'strict' and 'none'"),
    ({"name": "s", "same_site": "none", "secure": False}, "needs secure=True"),
    ({"name": "s" * 4031}, "would take 4097 bytes and browsers keep 4096"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED)
def test_a_policy_that_browsers_refuse_is_refused_in_one_sentence(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(CookiePolicyError) as refused:
        CookiePolicy(**arguments)
    message = str(refused.value)
    assert words in message
    assert "\n" not in message
    assert len(message) < 300 or len(arguments["name"]) > 300


@pytest.mark.parametrize("prefix", ["__Host-", "__host-", "__HOST-", "__hOsT-"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"secure": False}, "promises secure=True"),
        ({"domain": "app.example"}, "promises path='/' and no domain"),
        ({"path": "/app"}, "promises path='/' and no domain"),
    ],
)
def test_the_host_prefix_is_held_to_its_promise_in_any_case(prefix: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(CookiePolicyError, match=re.escape(words)):
        CookiePolicy(name=f"{prefix}s", **arguments)


@pytest.mark.parametrize("prefix", ["__Secure-", "__secure-", "__SECURE-"])
def test_the_secure_prefix_is_held_to_its_promise_in_any_case(prefix: str) -> None:
    with pytest.raises(CookiePolicyError, match="promises secure=True"):
        CookiePolicy(name=f"{prefix}s", secure=False)
    CookiePolicy(name=f"{prefix}s", domain="app.example", path="/app")


@pytest.mark.parametrize("prefix", ["__Http-", "__http-", "__Host-Http-", "__HOST-HTTP-"])
def test_the_http_prefixes_are_held_to_their_promise_in_any_case(prefix: str) -> None:
    with pytest.raises(CookiePolicyError, match="promises http_only=True"):
        CookiePolicy(name=f"{prefix}s", http_only=False)
    with pytest.raises(CookiePolicyError, match="promises secure=True"):
        CookiePolicy(name=f"{prefix}s", secure=False)
    CookiePolicy(name=f"{prefix}s")


def test_a_prefix_that_only_looks_like_one_promises_nothing() -> None:
    for name in ("__Hostsession", "_Host-s", "my__Host-s", "__Host_s"):
        CookiePolicy(name=name, secure=False, path="/x", domain="app.example")


def test_a_policy_cannot_be_changed_once_it_is_checked() -> None:
    policy = CookiePolicy()
    with pytest.raises(AttributeError):
        policy.secure = False  # type: ignore[misc]
    with pytest.raises(CookiePolicyError):
        msgspec.structs.replace(policy, secure=False)
