"""The cross-site decision, by what Chromium was seen to send, and the configured origins as browsers write them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coatcheck.errors import UsageError
from coatcheck.origin import SAFE_METHODS, is_cross_site, is_foreign_origin, normalise_origins

OURS = normalise_origins(["https://localhost:8443"])

# What Chromium sends to https://localhost:8443 (request, Sec-Fetch-Site, Origin, whether another site caused it).
BROWSER: list[tuple[str, bytes | None, bytes | None, bool]] = [
    ("same-origin fetch or form", b"same-origin", b"https://localhost:8443", False),
    ("same-origin form with Referrer-Policy no-referrer", b"same-origin", b"null", False),
    ("cross-site form", b"cross-site", b"https://other.test", True),
    ("cross-site form of a sandboxed frame", b"cross-site", b"null", True),
    ("cross-site request whose origin is withheld", b"cross-site", None, True),
    ("other port, same host", b"same-site", b"https://localhost:9443", True),
    ("http to https, same host", b"cross-site", b"http://localhost:8080", True),
    ("typed or bookmarked", b"none", None, False),
    ("an old browser, same origin", None, b"https://localhost:8443", False),
    ("an old browser, another site", None, b"https://other.test", True),
    ("an old browser, opaque origin", None, b"null", True),
    ("no browser", None, None, False),
]


@pytest.mark.parametrize(("request_", "site", "origin", "caused"), BROWSER, ids=[row[0] for row in BROWSER])
def test_a_request_is_judged_by_what_the_browser_says(
    request_: str, site: bytes | None, origin: bytes | None, caused: bool
) -> None:
    assert is_cross_site(site, origin, OURS) is caused


@pytest.mark.parametrize("site", [b"same-site", b"cross-site", b"SAME-ORIGIN", b"none, none", b"", b"\xff"])
def test_a_word_that_is_not_understood_helps_nobody(site: bytes) -> None:
    assert is_cross_site(site, None, OURS)
    assert is_cross_site(site, b"https://other.test", OURS)
    assert not is_cross_site(site, b"https://localhost:8443", OURS)


@settings(max_examples=200, deadline=None)
@given(st.none() | st.binary(max_size=30), st.none() | st.binary(max_size=30))
def test_an_unlisted_origin_never_passes_unless_the_browser_vouches(site: bytes | None, origin: bytes | None) -> None:
    passes = not is_cross_site(site, origin, OURS)
    assert passes == (site in (b"same-origin", b"none") or (site is None and origin is None) or origin in OURS)


def test_a_websockets_origin_must_be_listed_where_there_is_one() -> None:
    assert not is_foreign_origin(None, OURS)
    assert not is_foreign_origin(b"https://localhost:8443", OURS)
    for origin in (b"null", b"", b"https://localhost", b"http://localhost:8443", b"https://localhost:8443/"):
        assert is_foreign_origin(origin, OURS)


def test_safe_methods_are_those_of_rfc_9110() -> None:
    assert {"GET", "HEAD", "OPTIONS", "TRACE"} == SAFE_METHODS


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("https://app.example", b"https://app.example"),
        ("https://app.example/", b"https://app.example"),
        ("HTTPS://App.Example", b"https://app.example"),
        ("https://app.example:443", b"https://app.example"),
        ("http://app.example:80", b"http://app.example"),
        ("http://app.example:443", b"http://app.example:443"),
        ("https://app.example:8443", b"https://app.example:8443"),
        ("https://app.example:08443", b"https://app.example:8443"),
        ("http://127.0.0.1:8080", b"http://127.0.0.1:8080"),
        ("http://[::1]:8080", b"http://[::1]:8080"),
        ("https://[2001:DB8::1]", b"https://[2001:db8::1]"),
        ("https://[2001:db8:0:0:0:0:0:1]", b"https://[2001:db8::1]"),
        ("https://bücher.example", b"https://xn--bcher-kva.example"),
        ("https://BÜCHER.example", b"https://xn--bcher-kva.example"),
        ("https://xn--bcher-kva.example", b"https://xn--bcher-kva.example"),
        ("https://例え.テスト:8443", b"https://xn--r8jz45g.xn--zckzah:8443"),
    ],
)
def test_an_origin_is_compared_as_browsers_write_it(written: str, sent: bytes) -> None:
    assert normalise_origins([written]) == {sent}


@pytest.mark.parametrize(
    "written",
    [
        "",
        "*",
        "null",
        "app.example",
        "//app.example",
        "https://",
        "https:app.example",
        "https://:8443",
        "ftp://app.example",
        "ws://app.example",
        "file:///x",
        "https://app.example/path",
        "https://app.example?x",
        "https://app.example#x",
        "https://user@app.example",
        "https://user:word@app.example",
        "https://app.example:port",
        "https://app.example:99999",
        "https://app.example:-1",
        "https://[::1",
        "https://::1",
        "https://[fe80::1%eth0]",
        "https://[not-an-address]",
        "https://a b.example",
        "https://*.app.example",
        "https://app.example,https://b.example",
        "https://app..example",
        "https://" + "a" * 64 + ".example",
        "https://app.example\\@evil.example",
        "https://straße.example",
        "https://βόλος.example",
        "https://a\u200db.example",
        "https://app.example%2eevil",
    ],
)
def test_what_is_no_origin_is_refused_by_name(written: str) -> None:
    with pytest.raises(UsageError) as refused:
        normalise_origins([written])
    assert repr(written) in str(refused.value)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=20) | st.text("https:/.[]@?#a1é", max_size=20).map("https://".__add__))
def test_any_text_is_an_origin_or_refused_and_normalising_is_final(text: str) -> None:
    try:
        once = normalise_origins([text])
    except UsageError:
        return
    assert normalise_origins([origin.decode("ascii") for origin in once]) == once


def test_many_origins_make_one_set() -> None:
    assert normalise_origins(["https://a.example", "https://A.example/", "http://b.example"]) == {
        b"https://a.example",
        b"http://b.example",
    }
    assert normalise_origins([]) == frozenset()
