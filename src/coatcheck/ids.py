"""Turns random bytes into session ids and secrets, and a token into its two halves. Leaves randomness to the caller.

A session token is `<id>.<secret>`: 128 and 256 random bits in base64url without padding (RFC 4648, section 5), 66
characters in all. The id is public and stable; of the secret only its SHA-256 is ever stored. A fast hash is enough
for a secret of 256 random bits: there is nothing to guess.
"""

import base64
import hashlib
import re

__all__ = [
    "ID_BYTES",
    "ID_LENGTH",
    "SECRET_BYTES",
    "TOKEN_LENGTH",
    "encode",
    "hash_secret",
    "is_id",
    "make_token",
    "split_token",
]

ID_BYTES = 16
SECRET_BYTES = 32
ID_LENGTH = 22
TOKEN_LENGTH = 66

_sha256 = hashlib.sha256
_DOT = ord(".")
# The last character of an id carries two bits of it, that of a secret four: other endings are not canonical and
# would name one session in two ways.
_TOKEN = re.compile(rb"[A-Za-z0-9_-]{21}[AQgw]\.[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
_ID = re.compile(r"[A-Za-z0-9_-]{21}[AQgw]")


def encode(random_bytes: bytes) -> str:
    """Give random bytes as base64url text without padding."""
    return base64.urlsafe_b64encode(random_bytes).rstrip(b"=").decode("ascii")


def is_id(text: str) -> bool:
    """Tell whether `text` has the form of a session id. Says nothing of whether it was ever issued."""
    return _ID.fullmatch(text) is not None


def hash_secret(secret: bytes) -> bytes:
    """Give the SHA-256 of a secret's text, as records keep it (32 bytes)."""
    return _sha256(secret).digest()


def make_token(session_id: str, secret: str) -> str:
    """Join the two halves, as the cookie carries them."""
    return f"{session_id}.{secret}"


def split_token(token: bytes) -> tuple[str, bytes] | None:
    """Give a token's id and the SHA-256 of its secret, or None for what cannot be one of ours."""
    if len(token) != TOKEN_LENGTH or token[ID_LENGTH] != _DOT or _TOKEN.fullmatch(token) is None:
        return None
    return token[:ID_LENGTH].decode("ascii"), _sha256(token[ID_LENGTH + 1 :]).digest()
