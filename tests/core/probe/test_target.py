"""URLs taken apart, refused with words that help, and shown without what is secret in them."""

import pytest

from coatcheck.probe.errors import ProbeUsageError, Unreachable
from coatcheck.probe.target import is_loopback, look_up, parse_target, redirect_target


@pytest.mark.parametrize(
    ("url", "authority", "path"),
    [
        ("https://example.com", "example.com", "/"),
        ("https://example.com:443/a?b=c", "example.com", "/a?b=c"),
        ("https://example.com:8443/", "example.com:8443", "/"),
        ("http://[::1]:8080/x", "[::1]:8080", "/x"),
        ("http://127.0.0.1", "127.0.0.1", "/"),
        ("https://bücher.example/", "xn--bcher-kva.example", "/"),
        ("https://example.com/a#fragment", "example.com", "/a"),
        ("https://example.com?x=1", "example.com", "/?x=1"),
    ],
)
def test_a_url_becomes_what_stands_in_a_request(url: str, authority: str, path: str) -> None:
    target = parse_target(url)
    assert (target.authority, target.path) == (authority, path)


def test_websocket_urls_name_the_same_servers() -> None:
    assert parse_target("wss://example.com/chat").origin == "https://example.com"
    assert parse_target("ws://example.com/chat").websocket


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("example.com", "write https://"),
        ("ftp://example.com", "none of http"),
        ("https://", "names no host"),
        ("https://example.com:99999/", "port cannot be read"),
        ("https://example.com:0/", "port 0"),
        ("https://ada:secret@example.com/", "--header"),
        ("https://exa mple.com/", "no host name"),
        ("https://example.com/a b", "percent-encoded"),
        ("https://example.com/a\r\nevil: yes", "percent-encoded"),
        ("https://-bad.example/", "no host name"),
        ("https://[::1/", "cannot be read"),
    ],
)
def test_what_is_no_url_is_refused_with_what_to_write(url: str, says: str) -> None:
    with pytest.raises(ProbeUsageError, match=says) as refused:
        parse_target(url)
    assert "secret" not in str(refused.value) and "\r" not in str(refused.value)


def test_a_query_is_sent_but_not_shown() -> None:
    target = parse_target("https://example.com/reset?token=abcdef")
    assert target.path.endswith("token=abcdef")
    assert target.shown == "https://example.com/reset?…"


def test_redirects_lead_where_a_browser_would_go() -> None:
    target = parse_target("https://example.com/a/b?c")
    for location, there in (
        ("/login", "https://example.com/login"),
        ("d", "https://example.com/a/d"),
        ("https://other.example/", "https://other.example/"),
        ("//other.example/x", "https://other.example/x"),
        ("http://example.com/#top", "http://example.com/"),
    ):
        found = redirect_target(target, location)
        assert found is not None and found.origin + found.path == there
    for location in ("javascript:alert(1)", "https://[", "mailto:a@example.com"):
        assert redirect_target(target, location) is None


async def test_a_name_that_nobody_has_is_said_to_be_that() -> None:
    with pytest.raises(Unreachable, match=r"nosuch\.invalid") as unreachable:
        await look_up(parse_target("https://nosuch.invalid/"))
    assert unreachable.value.kind == "name"


async def test_an_address_is_not_looked_up() -> None:
    assert await look_up(parse_target("http://[::1]/")) == (("::1",), 0.0)


def test_loopback_is_known() -> None:
    assert is_loopback("127.0.0.2") and is_loopback("::1")
    assert not is_loopback("192.0.2.1") and not is_loopback("localhost")
