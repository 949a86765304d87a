"""Decides which usernames and display names may be, and which usernames are the same. Pure; leaves uniqueness to the database.

Two usernames are the same if they are a compatibility caseless match (The Unicode Standard, section 3.13, D146), so that
`Alice`, `alice` and fullwidth `ａｌｉｃｅ` are one account. Letters of different scripts that only look alike stay different.
"""

import re
import unicodedata

from coatcheck.accounts.errors import NameRefused, UsernameRefused

__all__ = ["NAME_LENGTH", "USERNAME_LENGTH", "check_name", "check_username", "username_key"]

USERNAME_LENGTH = 64
"""Characters (code points after NFKC) in a username, at most."""
NAME_LENGTH = 100
"""Characters (code points after NFC) in a display name, at most."""

# Longer input cannot come to an allowed length, and normalising it would only cost time.
_RAW_FACTOR = 4

# Control, format, surrogate, private use, unassigned; space, line and paragraph separators. Unassigned characters are
# refused because a later Unicode may fold them, which would change the key of an account that exists.
_NO_USERNAME = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"))
_NO_NAME = frozenset(("Cc", "Cs", "Zl", "Zp"))
_SPACES = frozenset(("Zs", "Zl", "Zp"))
# Characters that are drawn as nothing though their category is a letter's, a mark's or a symbol's
# (Default_Ignorable_Code_Point of DerivedCoreProperties.txt, and the blank Braille pattern).
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)
# Bidirectional embeddings, overrides and isolates: they reorder the text around a name that carries them.
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")


def username_key(username: str) -> str:
    """Give what all spellings of one username have in common, in NFKC. Assumes a username that was checked."""
    # Once would do but for some Greek: folding takes a mark that may stand anywhere and makes it a letter that may not.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", username).casefold())
    return unicodedata.normalize("NFKC", folded.casefold())


def check_username(username: str) -> str:
    """Give the username in NFKC as it will be kept. Raises UsernameRefused."""
    if len(username) > USERNAME_LENGTH * _RAW_FACTOR:
        raise UsernameRefused(f"A username has at most {USERNAME_LENGTH} characters.")
    normal = unicodedata.normalize("NFKC", username)
    if not normal:
        raise UsernameRefused("A username needs at least one character.")
    if len(normal) > USERNAME_LENGTH:
        raise UsernameRefused(f"A username has at most {USERNAME_LENGTH} characters.")
    for character in normal:
        category = unicodedata.category(character)
        if category in _SPACES or character.isspace():
            raise UsernameRefused("A username has no spaces in it.")
        if category in _NO_USERNAME or _INVISIBLE.match(character):
            raise UsernameRefused("A username has only visible characters in it.")
    return normal


def check_name(name: str) -> str:
    """Give the display name in NFC without surrounding space; it may be empty. Raises NameRefused."""
    if len(name) > NAME_LENGTH * _RAW_FACTOR:
        raise NameRefused(f"A name has at most {NAME_LENGTH} characters.")
    # Looked at before it is stripped: Python counts some control characters as space.
    normal = unicodedata.normalize("NFC", name)
    if any(unicodedata.category(character) in _NO_NAME for character in normal) or _BIDI.search(normal):
        raise NameRefused("A name has no line breaks or other control characters in it.")
    normal = normal.strip()
    if len(normal) > NAME_LENGTH:
        raise NameRefused(f"A name has at most {NAME_LENGTH} characters.")
    return normal
