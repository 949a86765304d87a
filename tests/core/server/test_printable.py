"""What came from outside, shown."""

import unicodedata

import pytest

from coatcheck.server.printable import printable


@pytest.mark.parametrize("text", ["", "curl/8 (x86_64)", "<b>&amp;", "Łódź 東京", "👩\u200d🚀", "क्\u200dष", "[red]"])
def test_what_can_be_read_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    "text, shown",
    [
        ("\x1b[2J", r"\x1b[2J"), ("a\nb\r", r"a\x0ab\x0d"), ("\x9b2J", r"\x9b2J"), ("\0\x7f", r"\x00\x7f"),
        ("\u202egnp.exe", r"\u202egnp.exe"), ("\u2028", r"\u2028"), ("\ud800", r"\ud800"), ("\U000e0041", r"\U000e0041"),
    ],
)  # fmt: skip
def test_what_would_do_something_is_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_no_control_or_direction_of_unicode_gets_through() -> None:
    # Of the planes without letters of their own every hundredth character stands for the rest.
    everything = "".join(map(chr, [*range(0x20000), *range(0xE0000, 0xE1000), *range(0x20000, 0x110000, 97)]))
    assert {unicodedata.category(char) for char in printable(everything)}.isdisjoint({"Cc", "Cs", "Zl", "Zp", "Co"})
    left = {char for char in printable(everything) if unicodedata.category(char) == "Cf"}
    assert left == {"\u200c", "\u200d"}
