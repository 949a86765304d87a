"""Makes text that came from outside fit to be shown: whatever is shown by it moves no cursor and breaks no line. Pure."""

__all__ = ["printable"]

# Joiners, which some scripts and emoji are put together with.
_HARMLESS = "\u200c\u200d"


def printable(text: str) -> str:
    """Give the text with every control and format character (C0, C1, bidirectional overrides, …) as an escape like `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in _HARMLESS else _escape(ord(char)) for char in text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
