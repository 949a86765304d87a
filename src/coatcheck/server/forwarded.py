"""Who the client is when requests come through proxies that are trusted. Pure; used where there is no edge to find it out.

Only what a trusted proxy itself wrote is believed: each appends whom it got the request from to X-Forwarded-For, so with
N of them the Nth entry from the right is the last that no client can have written.
"""

import ipaddress
from collections.abc import Iterable

__all__ = ["forwarded", "unmapped"]


def forwarded(headers: Iterable[tuple[bytes, bytes]], proxies: int) -> tuple[str, bool] | None:
    """The client's address, and whether it came over TLS; None if that many proxies have not said so, or said nonsense."""
    if proxies < 1:
        return None
    entries: list[bytes] = []
    protos: list[bytes] = []
    for name, value in headers:
        if name == b"x-forwarded-for":
            entries += value.split(b",")
        elif name == b"x-forwarded-proto":
            protos.append(value.strip())
    if len(entries) < proxies:
        return None
    try:
        # Zones and ports make no address of a client.
        address = ipaddress.ip_address(entries[-proxies].strip().decode("ascii"))
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        return None
    return unmapped(str(address)), protos == [b"https"]


def unmapped(address: str) -> str:
    """An IPv4 address that a proxy wrote as an IPv6 one (RFC 4291, section 2.5.5.2) as what it is; others as they are."""
    if not address.startswith("::ffff:"):
        return address
    return str(ipaddress.IPv6Address(address).ipv4_mapped or address)
