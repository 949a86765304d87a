"""Figures and foreign text as a person reads them: milliseconds, seconds, plurals, and nothing that moves a cursor. Pure."""

from collections.abc import Iterable

__all__ = ["count", "joined", "milliseconds", "printable", "seconds_in_words", "shortened"]

# Joiners, which some scripts and emoji are put together with.
_HARMLESS = "\u200c\u200d"
_MINUTE = 60
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR


def printable(text: str) -> str:
    """Give the text with every control and format character as an escape like `\\x1b`: servers say whatever they like."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in _HARMLESS else _escape(ord(char)) for char in text)


def shortened(text: str, most: int = 60) -> str:
    """Give the printable text, cut with an ellipsis where it is longer than `most` characters."""
    text = printable(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def count(number: int, singular: str, plural: str | None = None) -> str:
    """Give `1 connection`, `20 connections`."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def joined(parts: Iterable[str], last: str = "and") -> str:
    """Give `a`, `a and b`, `a, b and c`."""
    words = list(parts)
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def milliseconds(value: float) -> str:
    """Give milliseconds with about two figures that count: `0.21 ms`, `4.3 ms`, `123 ms`, `1.2 s`."""
    if value >= 1000:
        return f"{value / 1000:.1f} s"
    if value >= 10:
        return f"{value:.0f} ms"
    return f"{value:.1f} ms" if value >= 1 else f"{value:.2f} ms"


def seconds_in_words(value: float) -> str:
    """Give seconds in the largest unit that fits: `1.5 s`, `12 minutes`, `30 days`."""
    if value < 0:
        return "0 s"
    if value < 2 * _MINUTE:
        return f"{value:.1f} s" if value % 1 else f"{value:.0f} s"
    for unit, name in ((_DAY, "day"), (_HOUR, "hour"), (_MINUTE, "minute")):
        if value >= 2 * unit or (value >= unit and value % unit == 0):
            return count(round(value / unit), name)
    return count(round(value / _MINUTE), "minute")


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
