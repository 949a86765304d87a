"""A service's credential, as it travels by HTTP Basic (RFC 7617; decision record 8), for every transport. Pure.

Leaves whose credential it is to `accounts`.
"""

import base64
import binascii
from collections.abc import Sequence

__all__ = ["CHALLENGE", "WANTED", "service_credential"]

CHALLENGE = 'Basic realm="coatcheck services", charset="UTF-8"'
WANTED = "This is for services: give the id and the secret of one."


def service_credential(headers: Sequence[str]) -> tuple[str, str] | None:
    """Give id and secret from all Authorization headers of a request; None for anything else. Two count as none."""
    if len(headers) != 1:
        return None
    scheme, _, token = headers[0].partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        service_id, colon, secret = base64.b64decode(token.strip(" "), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        return None
    return (service_id, secret) if colon else None
