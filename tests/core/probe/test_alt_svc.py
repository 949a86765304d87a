"""Alt-Svc, in the forms that servers send it (RFC 7838)."""

import pytest

from coatcheck.probe.alt_svc import Alternative, find_h3


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ('h3=":443"; ma=86400', Alternative("", 443, 86400)),
        ('h3=":8443"', Alternative("", 8443, 86400)),
        ('h3-29=":443"; ma=2592000, h3=":444"; ma=5; persist=1', Alternative("", 444, 5)),
        ('h2="other.example:443", h3="other.example:443"', Alternative("other.example", 443, 86400)),
        ('h3="[2001:db8::1]:443"', Alternative("2001:db8::1", 443, 86400)),
        ("clear", None),
        ("", None),
        ('h3=":0"', None),
        ('h3=":99999"', None),
        ('h3="nothing"', None),
        ('h3=":x"', None),
        ('h2=":443"', None),
        ("h3=:443", None),
        ('"; "', None),
    ],
)
def test_http3_is_found_where_it_is_announced(header: str, found: Alternative | None) -> None:
    assert find_h3(header) == found
