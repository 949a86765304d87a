"""Whose certificate counts: let off is loopback alone, whatever a server says where else it is to be found."""

import pytest

from coatcheck.probe.dial import must_check


@pytest.mark.parametrize(
    ("address", "verify", "insecure", "counts"),
    [
        ("127.0.0.1", True, False, True),
        ("127.0.0.1", False, False, False),
        ("192.0.2.1", False, False, True),  # what Alt-Svc led to
        ("192.0.2.1", True, False, True),
        ("192.0.2.1", False, True, False),
        ("192.0.2.1", True, True, False),
    ],
)
def test_a_certificate_is_checked_unless_nothing_leaves_the_machine(
    address: str, verify: bool, insecure: bool, counts: bool
) -> None:
    assert must_check(address, verify=verify, insecure=insecure) is counts
