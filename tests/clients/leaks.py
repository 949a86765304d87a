"""Looks for secrets in what a program gave away: whole or in part, as they are or in whatever form programs give text.

The haystack is decoded, not the secret encoded: what stands in JSON inside of a `repr` is found as well, layer by layer.
"""

import base64
import binascii
import html
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

WINDOW = 12
"""Bytes of a secret that give it away: no chance makes so many."""

_HEX = re.compile(rb"(?:[0-9A-Fa-f]{2}[:, ]?){%d,}" % WINDOW)
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}")
_NUMBERS = re.compile(rb"(?:\d{1,3}[, ]+){%d,}\d{1,3}" % (WINDOW - 1))
_ESCAPE = re.compile(rb"\\+(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([0-7]{3})|([\"'/\\nrt]))")
_LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_ALPHABET = bytes.maketrans(b"-_", b"+/")
_LAYERS = 3


class Secrets:
    """What nobody must see, each under a name to say instead."""

    def __init__(self) -> None:
        self._windows: dict[bytes, str] = {}

    def add(self, name: str, secret: str | bytes) -> None:
        """Have it looked for. What is base64 is looked for decoded, too."""
        raw = secret.encode() if isinstance(secret, str) else secret
        assert len(raw) >= WINDOW, f"{name} is too short to be told from chance"
        forms = {raw}
        if _BASE64.fullmatch(raw.rstrip(b"=")):
            forms |= set(_base64(raw.rstrip(b"="), offsets=1))
        for form in forms:
            for start in range(max(1, len(form) - WINDOW + 1)):
                self._windows.setdefault(form[start : start + WINDOW], name)

    def found_in(self, haystack: str | bytes) -> set[str]:
        """The names of those that are in there, in any form."""
        raw = haystack.encode("utf-8", "surrogateescape") if isinstance(haystack, str) else haystack
        windows, found = self._windows, set[str]()
        for form in _forms(raw, _LAYERS):
            for start in range(len(form) - WINDOW + 1):
                if (name := windows.get(form[start : start + WINDOW])) is not None:
                    found.add(name)
        return found


def _forms(raw: bytes, layers: int) -> Iterator[bytes]:
    """The haystack, and what it becomes by taking off one layer of writing after the other."""
    yield raw
    # Text that was read in the wrong character set, and then written in UTF-8.
    with_latin = raw.decode("utf-8", "replace").encode("latin-1", "ignore")
    if with_latin != raw and not raw.isascii():
        yield with_latin
    for run in _HEX.findall(raw):
        digits = re.sub(rb"[^0-9A-Fa-f]", b"", run)
        for start in (0, 1):
            yield bytes.fromhex(digits[start : len(digits) - (len(digits) - start) % 2].decode())
    for run in _BASE64.findall(raw):
        yield from _base64(run, offsets=4)
    for run in _NUMBERS.findall(raw):
        numbers = [int(number) for number in re.findall(rb"\d+", run)]
        yield bytes(number for number in numbers if number < 256)
    if layers:
        for decoded in {
            _unescaped(raw),
            unquote_to_bytes(raw),
            unquote_to_bytes(raw.replace(b"+", b" ")),
            _no_html(raw),
        }:
            if decoded != raw:
                yield from _forms(decoded, layers - 1)


def _base64(run: bytes, *, offsets: int) -> Iterator[bytes]:
    text = run.translate(_ALPHABET)
    for start in range(offsets):
        part = text[start:]
        part = part[:-1] if len(part) % 4 == 1 else part
        try:
            yield base64.b64decode(part + b"=" * (-len(part) % 4))
        except binascii.Error:
            continue


def _unescaped(raw: bytes) -> bytes:
    """One layer less of backslashes, by the rules of Python, JSON and C together."""

    def one(match: re.Match[bytes]) -> bytes:
        byte, short, long, octal, letter = match.groups()
        if byte:
            return bytes.fromhex(byte.decode())
        if short or long:
            code = int(short or long, 16)
            return chr(code).encode("utf-8", "surrogatepass") if code < 0x110000 else b""
        if octal:
            return bytes([int(octal, 8) & 0xFF])
        return _LETTERS.get(letter, letter)

    return _ESCAPE.sub(one, raw)


def _no_html(raw: bytes) -> bytes:
    return (
        html.unescape(raw.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogatepass") if b"&" in raw else raw
    )
