"""Credentials: which token a request carries, and which requests other sites caused."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coatcheck.cookies import CookiePolicy, find_cookie
from coatcheck.credentials import Credentials, Refusal
from coatcheck.errors import UsageError
from coatcheck.ids import encode, make_token, split_token

TOKEN = make_token(encode(bytes(16)), encode(bytes(32))).encode()
OTHER = make_token(encode(b"b" * 16), encode(b"c" * 32)).encode()
OURS = "https://app.example"
credentials = Credentials(CookiePolicy(name="s"), [OURS])

Header = tuple[bytes, bytes]


def http(method: str = "GET", *headers: Header) -> dict[str, Any]:
    return {"type": "http", "method": method, "headers": [(b"host", b"app.example"), *headers]}


def socket(*headers: Header) -> dict[str, Any]:
    return {"type": "websocket", "headers": [(b"host", b"app.example"), *headers]}


# ---- the cookie


@pytest.mark.parametrize(
    "header",
    [
        b"s=" + TOKEN,
        b"a=1; s=" + TOKEN,
        b"s=" + TOKEN + b"; a=1",
        b"a=1;s=" + TOKEN + b";b=2",
        b"a=1; s=" + TOKEN + b" ; b=2",
        b"sess=x; ss=y; as=z; s=" + TOKEN,
        b"x=s=1; s=" + TOKEN,
        b"\xff=\xfe; s=" + TOKEN,
        b"s; s=" + TOKEN,
    ],
)
def test_the_token_is_found_wherever_it_stands(header: bytes) -> None:
    assert credentials.token(header) == TOKEN
    assert credentials.examine(http("GET", (b"cookie", header))) == TOKEN


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"a=1",
        b"ss=" + TOKEN,
        b"S=" + TOKEN,
        b"s =" + TOKEN,
        b"s=" + TOKEN + b"; s=" + OTHER,
        b"s=" + TOKEN + b"; s=" + TOKEN,
        b"s=" + TOKEN + b";s=",
        b"s=; s=" + TOKEN,
        b"s=" + TOKEN + b"; \ts=x",
    ],
)
def test_no_cookie_of_ours_or_two_of_them_are_none(header: bytes) -> None:
    assert credentials.token(header) is None


def test_crumbs_are_put_together_and_two_crumbs_of_our_name_are_none() -> None:
    assert credentials.examine(http("GET", (b"cookie", b"a=1"), (b"cookie", b"s=" + TOKEN))) == TOKEN
    assert credentials.examine(http("GET", (b"cookie", b"s=" + TOKEN), (b"cookie", b"s=" + OTHER))) is None
    assert credentials.examine(http("POST", (b"cookie", b"a=1"), (b"cookie", b"s=" + TOKEN))) == TOKEN
    assert credentials.examine(socket((b"cookie", b"a=1"), (b"cookie", b"s=" + TOKEN))) == TOKEN
    assert credentials.examine(http("GET")) is None


piece = st.sampled_from(
    [b"s=", b"ss=", b"s", b"=", b";", b"; ", b" ", b"\t", b"a=1", TOKEN, OTHER, TOKEN[:-1], TOKEN[:65] + b";", b"\xff"]
)
headers = st.one_of(st.lists(piece, max_size=8).map(b"".join), st.binary(max_size=80))


def _tokens(found: bytes | None) -> object:
    return None if found is None else split_token(found)


@settings(max_examples=600, deadline=None)
@given(headers)
def test_the_quick_way_finds_what_the_plain_parser_finds(header: bytes) -> None:
    assert _tokens(credentials.token(header)) == _tokens(find_cookie(header, b"s"))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["s=", "; ", ";", " ", "x", "s"]), max_size=10), st.integers(0, 66))
def test_the_quick_way_agrees_where_the_value_is_as_long_as_a_token(parts: list[str], length: int) -> None:
    text = "".join(parts)
    for header in (f"s={text:x<66}", f"a=1; s={text:x<66};{text}", f"{text}s={'x' * length}{text}"):
        assert _tokens(credentials.token(header.encode())) == _tokens(find_cookie(header.encode(), b"s"))


# ---- other sites


SITES: list[tuple[bytes | None, bytes | None, bool]] = [
    (b"same-origin", b"https://app.example", True),
    (b"same-origin", None, True),
    (b"none", None, True),
    (b"none", b"https://evil.example", True),
    (b"cross-site", b"https://evil.example", False),
    (b"cross-site", None, False),
    (b"cross-site", b"null", False),
    (b"same-site", b"https://app.example:8443", False),
    (b"same-site", None, False),
    (b"cross-site", b"https://app.example", True),
    (None, b"https://app.example", True),
    (None, b"https://evil.example", False),
    (None, b"null", False),
    (None, b"", False),
    (None, None, True),
    (b"", None, False),
]


@pytest.mark.parametrize(("site", "origin", "passes"), SITES)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "get", "UNKNOWN"])
def test_an_unsafe_request_passes_only_if_no_other_site_caused_it(
    method: str, site: bytes | None, origin: bytes | None, passes: bool
) -> None:
    lines: list[Header] = []
    if site is not None:
        lines.append((b"sec-fetch-site", site))
    if origin is not None:
        lines.append((b"origin", origin))
    found = credentials.examine(http(method, *lines, (b"cookie", b"s=" + TOKEN)))
    if passes:
        assert found == TOKEN
    else:
        assert isinstance(found, Refusal)
        assert found.status == 403
        assert "public_origins" in found.detail
    assert isinstance(credentials.examine(http(method, *lines)), Refusal) is not passes, "cookie or not"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE"])
def test_a_safe_request_may_come_from_anywhere(method: str) -> None:
    lines = ((b"sec-fetch-site", b"cross-site"), (b"origin", b"https://evil.example"), (b"cookie", b"s=" + TOKEN))
    assert credentials.examine(http(method, *lines)) == TOKEN


@pytest.mark.parametrize(
    ("origin", "passes"),
    [
        (None, True),
        (b"https://app.example", True),
        (b"https://evil.example", False),
        (b"http://app.example", False),
        (b"https://app.example:8443", False),
        (b"https://sub.app.example", False),
        (b"https://app.example.evil.example", False),
        (b"HTTPS://APP.EXAMPLE", False),
        (b"null", False),
        (b"", False),
    ],
)
def test_a_websocket_is_judged_by_its_origin_alone(origin: bytes | None, passes: bool) -> None:
    lines: list[Header] = [] if origin is None else [(b"origin", origin)]
    for extra in ((), ((b"sec-fetch-site", b"same-origin"),), ((b"sec-fetch-site", b"cross-site"),)):
        found = credentials.examine(socket(*lines, *extra, (b"cookie", b"s=" + TOKEN)))
        assert found == TOKEN if passes else isinstance(found, Refusal)


def test_two_origins_agree_with_nothing() -> None:
    ours = (b"origin", b"https://app.example")
    assert isinstance(credentials.examine(http("POST", ours, ours)), Refusal)
    assert isinstance(credentials.examine(socket(ours, ours)), Refusal)


def test_two_claims_of_the_site_count_as_the_worse() -> None:
    same = (b"sec-fetch-site", b"same-origin")
    assert isinstance(credentials.examine(http("POST", same, same)), Refusal)


def test_the_host_header_plays_no_part() -> None:
    nobody = Credentials(CookiePolicy(name="s"))
    assert isinstance(nobody.examine(http("POST", (b"origin", b"https://app.example"))), Refusal)


def test_an_origin_that_is_none_is_refused_at_the_start() -> None:
    with pytest.raises(UsageError, match="is no origin"):
        Credentials(CookiePolicy(), ["app.example"])
