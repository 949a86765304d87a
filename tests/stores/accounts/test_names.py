import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.accounts import NameRefused, UsernameRefused
from coatcheck.accounts.names import check_name, check_username, username_key


@pytest.mark.parametrize(
    "username", ["a", "alice", "Alice@example.com", "a" * 64, "名前", "José", "o'brien", "x_1-2.3", "Ærøskøbing", "नेहा"]
)
def test_a_username_of_visible_characters_is_allowed(username: str) -> None:
    assert check_username(username) == unicodedata.normalize("NFKC", username)


@pytest.mark.parametrize("one, other", [
    ("Alice", "alice"),
    ("ALICE", "aLiCe"),
    ("ａｌｉｃｅ", "alice"),
    ("Straße", "STRASSE"),
    ("José", "Jose\u0301"),
    ("ﬁn", "FIN"),
    ("Σίσυφος", "ΣΊΣΥΦΟΣ"),
    ("ᾳ", "αι"),
    ("\u1fcc\u0342\u0301", "\u1fc6\u0345\u0301"),
    ("\u03ac\u0345\u0308", "\u1fb3\u0301\u0308"),
    ("ß\u030c", "SS\u030c"),
    ("㎒", "mhz"),
])  # fmt: skip
def test_usernames_that_differ_in_case_or_form_are_the_same(one: str, other: str) -> None:
    assert username_key(check_username(one)) == username_key(check_username(other))


def test_lookalikes_of_another_script_are_other_usernames() -> None:
    assert username_key("alice") != username_key("аlice")  # the first letter is Cyrillic


def test_a_username_needs_a_character() -> None:
    with pytest.raises(UsernameRefused, match=r"^A username needs at least one character\.$"):
        check_username("")


@pytest.mark.parametrize("username", ["a" * 65, "a" * 100_000, "ﬃ" * 22])
def test_a_username_has_64_characters_at_most_counted_after_normalising(username: str) -> None:
    with pytest.raises(UsernameRefused, match=r"^A username has at most 64 characters\.$"):
        check_username(username)


@pytest.mark.parametrize("space", [" ", "\t", "\n", "\u00a0", "\u2003", "\u3000", "\u2028", "\u2029", "\x1c"])
def test_a_username_has_no_spaces(space: str) -> None:
    with pytest.raises(UsernameRefused, match=r"^A username has no spaces in it\.$"):
        check_username(f"ali{space}ce")


@pytest.mark.parametrize("character", [
    "\x00", "\x1b", "\x7f", "\x80", "\u200b", "\u200d", "\u202e", "\u2066", "\ufeff", "\u00ad", "\ud800", "\udfff", "\ue000",
    "\uffff", "\u0378", "\u034f", "\u115f", "\u1160", "\u17b4", "\u2800", "\u3164", "\uffa0", "\ufe0f", "\U000e0100", "\U000e0041",
])  # fmt: skip
def test_a_username_has_no_control_or_invisible_characters(character: str) -> None:
    with pytest.raises(UsernameRefused, match=r"^A username has only visible characters in it\.$"):
        check_username(f"ali{character}ce")


def test_every_single_character_that_is_allowed_has_a_key_that_is_at_rest() -> None:
    for code in range(sys.maxunicode + 1):
        try:
            username = check_username(chr(code))
        except UsernameRefused:
            continue
        key = username_key(username)
        assert key == check_username(key), hex(code)
        assert key == username_key(key) == username_key(chr(code)), hex(code)


@given(st.text())
def test_a_username_is_refused_with_a_sentence_or_kept_with_a_key_at_rest(text: str) -> None:
    try:
        username = check_username(text)
    except UsernameRefused as refusal:
        assert str(refusal).startswith("A username ")
    else:
        key = username_key(username)
        assert check_username(username) == username
        assert key
        assert username_key(key) == key == username_key(text)


def test_a_name_may_be_empty_and_have_spaces_and_emoji_and_loses_the_space_around_it() -> None:
    assert check_name("") == ""
    assert check_name("   ") == ""
    assert check_name("  John  Doe ") == "John  Doe"
    assert check_name("Zoe\u0308 👩‍🚀") == "Zoë 👩‍🚀"
    assert check_name("x" * 100) == "x" * 100


@pytest.mark.parametrize("name", ["x" * 101, "x" * 100_000])
def test_a_name_has_100_characters_at_most(name: str) -> None:
    with pytest.raises(NameRefused, match=r"^A name has at most 100 characters\.$"):
        check_name(name)


@pytest.mark.parametrize(
    "character", ["\x00", "\n", "\r", "\x1b", "\x85", "\u2028", "\u2029", "\u202e", "\u2066", "\ud800", "\x1f"]
)
@pytest.mark.parametrize("form", ["John{}Doe", "{}John", "John{}"])
def test_a_name_has_no_control_characters(character: str, form: str) -> None:
    with pytest.raises(NameRefused, match=r"^A name has no line breaks or other control characters in it\.$"):
        check_name(form.format(character))
