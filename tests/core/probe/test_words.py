"""Figures and foreign text as a person reads them."""

import pytest

from coatcheck.probe.words import count, joined, milliseconds, printable, seconds_in_words, shortened


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0, "0.00 ms"), (0.214, "0.21 ms"), (4.31, "4.3 ms"), (12.7, "13 ms"), (999.0, "999 ms"), (1234.0, "1.2 s")],
)
def test_milliseconds_keep_the_figures_that_count(value: float, words: str) -> None:
    assert milliseconds(value) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-1, "0 s"),
        (2, "2 s"),
        (2.04, "2.0 s"),
        (75, "75 s"),
        (600, "10 minutes"),
        (3600, "1 hour"),
        (86400, "1 day"),
        (34560000, "400 days"),
    ],
)
def test_seconds_are_in_the_unit_that_fits(value: float, words: str) -> None:
    assert seconds_in_words(value) == words


def test_lists_and_plurals_read_as_english() -> None:
    assert joined(["a"]) == "a"
    assert joined(["a", "b", "c"]) == "a, b and c"
    assert joined(["a", "b"], "or") == "a or b"
    assert (count(1, "day"), count(20, "day")) == ("1 day", "20 days")


def test_what_servers_say_moves_no_cursor() -> None:
    assert printable("a\x1b[2Jb\u202e") == "a\\x1b[2Jb\\u202e"
    assert printable("ü\u200d✓") == "ü\u200d✓"
    assert shortened("x" * 100, 10) == "x" * 9 + "…"
