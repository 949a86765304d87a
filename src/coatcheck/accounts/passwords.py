"""Decides which passwords may be chosen, and which bytes are hashed for one. Pure; leaves hashing to `hashing`.

Follows NIST SP 800-63B, section 5.1.1.2: a least length, no rules of composition, a list of common passwords refused.
Passwords are compared as NFKC in UTF-8, so that one typed on another keyboard or system is still the same.
"""

import unicodedata
from functools import cache
from importlib import resources
from itertools import pairwise

from coatcheck.accounts.errors import PasswordRefused
from coatcheck.accounts.names import username_key

__all__ = ["MAX_BYTES", "MIN_BYTES", "check_password", "password_bytes"]

MIN_BYTES = 8
MAX_BYTES = 1024
"""Both after NFKC, in UTF-8."""

_REPEATED_UNIT = 4
_ROWS = (
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890",
    "`1234567890-=",
    "!@#$%^&*()_+",
    "qwertyuiop[]\\asdfghjkl;'zxcvbnm,./",
    "qwertyuiopasdfghjklzxcvbnm",
    "qwertzuiopasdfghjklyxcvbnm",
    "azertyuiopqsdfghjklmwxcvbn",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik,9ol.0p;/",
    "q1w2e3r4t5y6u7i8o9p0",
    "1q2w3e4r5t6y7u8i9o0p",
)


def password_bytes(password: str) -> bytes | None:
    """Give the bytes that are hashed for a password, or None for one that nobody can have: too long, or not Unicode.

    Short ones are let through: what was once allowed must still log in.
    """
    # Before normalising, whose cost grows with the square of the combining marks in a row.
    if len(password) > MAX_BYTES:
        return None
    try:
        encoded = unicodedata.normalize("NFKC", password).encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can carry; the exception would carry the password
        return None
    return encoded if len(encoded) <= MAX_BYTES else None


def check_password(password: str, username: str) -> bytes:
    """Give the bytes to hash for a password that `username` may choose. Raises PasswordRefused, which never repeats it."""
    encoded = password_bytes(password)
    if encoded is None:
        if any("\ud800" <= character <= "\udfff" for character in password):
            raise PasswordRefused("A password is Unicode text; this one has half a character in it.")
        raise PasswordRefused(f"A password has at most {MAX_BYTES} bytes.")
    if len(encoded) < MIN_BYTES:
        raise PasswordRefused(f"A password needs at least {MIN_BYTES} bytes, which is {MIN_BYTES} plain letters.")
    folded = username_key(password)
    key = username_key(username)
    if key and not folded.replace(key, ""):
        raise PasswordRefused("A password must not be the username.")
    if _is_repeated(folded):
        raise PasswordRefused("This password only repeats itself; choose one that is harder to guess.")
    if _is_sequence(folded):
        raise PasswordRefused("This password is a plain sequence of characters; choose one that is harder to guess.")
    if folded in _common():
        raise PasswordRefused("This password is one of the most common ones; choose one that is harder to guess.")
    return encoded


def _is_repeated(text: str) -> bool:
    """Whether the text is a unit of up to four characters, twice or more; the last time may be cut short."""
    longest = min(_REPEATED_UNIT, len(text) // 2)
    return any(text == (text[:length] * (len(text) // length + 1))[: len(text)] for length in range(1, longest + 1))


def _is_sequence(text: str) -> bool:
    """Whether the text runs along the alphabet, the digits or a row of the keyboard, in either direction."""
    steps = {ord(after) - ord(before) for before, after in pairwise(text)}
    # 9 is followed by 0 on the keyboard, hence the step of nine among digits.
    digits = text.isascii() and text.isdigit()
    if steps in ({1}, {-1}) or (digits and (steps <= {1, -9} or steps <= {-1, 9})):
        return True
    return any(text in row or text[::-1] in row for row in _ROWS)


@cache
def _common() -> frozenset[str]:
    text = (resources.files("coatcheck.accounts") / "common_passwords.txt").read_text("utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("# "))
