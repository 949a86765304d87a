import unicodedata
from importlib import resources

import pytest

from coatcheck.accounts import PasswordRefused
from coatcheck.accounts.passwords import check_password, password_bytes

COMMON = (resources.files("coatcheck.accounts") / "common_passwords.txt").read_text("utf-8").splitlines()
ENTRIES = [line for line in COMMON if not line.startswith("# ")]


@pytest.mark.parametrize(
    "password",
    [
        "tangerine bicycle",
        "correct horse battery staple",
        "Xk7#pQ2m",
        "пляшущие человечки",
        "日本語",  # nine bytes
        "x" * 4 + "y" * 1020,
        "with\ttab and\x00nul",
    ],
)
def test_a_password_that_is_long_enough_and_not_easily_guessed_is_allowed(password: str) -> None:
    assert check_password(password, "alice") == password.encode()


def test_passwords_are_the_same_however_a_keyboard_composes_them() -> None:
    composed, decomposed, wide = "caffè corretto", "caffe\u0300 corretto", "ｃaffè corretto"
    assert check_password(composed, "a") == check_password(decomposed, "a") == check_password(wide, "a")
    assert check_password(composed, "a") == unicodedata.normalize("NFKC", composed).encode()


def test_a_password_differs_by_case() -> None:
    assert check_password("Tangerine bicycle", "a") != check_password("tangerine bicycle", "a")


@pytest.mark.parametrize("password", ["", "a", "Xk7#pQ2", "éüö", "ｘｋ7ｑ"])
def test_a_password_needs_8_bytes_after_normalising(password: str) -> None:
    with pytest.raises(PasswordRefused, match=r"^A password needs at least 8 bytes, which is 8 plain letters\.$"):
        check_password(password, "alice")


@pytest.mark.parametrize("password", ["xy" * 512 + "z", "é" * 512 + "z", "ﷺ" * 100, "xy" * 1_000_000])
def test_a_password_has_1024_bytes_at_most_after_normalising(password: str) -> None:
    assert password_bytes(password) is None
    with pytest.raises(PasswordRefused, match=r"^A password has at most 1024 bytes\.$"):
        check_password(password, "alice")


def test_a_password_of_1024_bytes_is_allowed() -> None:
    assert password_bytes("xyz?" * 256) == b"xyz?" * 256


def test_a_lone_surrogate_is_refused_and_the_refusal_carries_no_password() -> None:
    assert password_bytes("tangerine \ud800 bicycle") is None
    with pytest.raises(PasswordRefused, match=r"^A password is Unicode text; this one has half") as refusal:
        check_password("tangerine \ud800 bicycle", "alice")
    assert refusal.value.__context__ is None
    assert "tangerine" not in repr(refusal.value)


@pytest.mark.parametrize("password", ["alice.smith", "Alice.Smith", "ALICE.SMITHalice.smith", "ａlice.smith"])
def test_the_username_is_no_password(password: str) -> None:
    with pytest.raises(PasswordRefused, match=r"^A password must not be the username\.$"):
        check_password(password, "Alice.Smith")


@pytest.mark.parametrize(
    "password",
    ["aaaaaaaa", "abababab", "ABababAB", "abcabcabc", "12341234", "abcdabcda", "é" * 8, "-_-_-_-_-", "a" * 500],
)
def test_a_short_piece_repeated_is_no_password(password: str) -> None:
    with pytest.raises(PasswordRefused, match="only repeats itself"):
        check_password(password, "x")


@pytest.mark.parametrize(
    "password",
    ["abcdefgh", "ABCDEFGHIJ", "hgfedcba", "12345678", "87654321", "890123456", "321098765", "qwertyui", "POIUYTREWQ",
     "asdfghjkl;", "zxcvbnm,./", "qwertzuiop", "azertyuiop", "1qaz2wsx3edc4rfv", "!@#$%^&*()", "абвгдежз", "q1w2e3r4t5y6"],
)  # fmt: skip
def test_a_plain_sequence_is_no_password(password: str) -> None:
    with pytest.raises(PasswordRefused, match="plain sequence"):
        check_password(password, "x")


@pytest.mark.parametrize(
    "password", ["password", "PassWord1", "iloveyou", "Welcome2024!", "trustno1", "ｐassword", "contraseña"]
)
def test_a_common_password_is_refused_in_any_case_and_form(password: str) -> None:
    with pytest.raises(
        PasswordRefused, match=r"^This password is one of the most common ones; choose one that is harder"
    ):
        check_password(password, "x")


def test_every_entry_of_the_list_is_refused() -> None:
    for entry in ENTRIES:
        with pytest.raises(PasswordRefused):
            check_password(entry, "x")


def test_the_list_is_sorted_normalised_and_holds_nothing_that_is_too_short_anyway() -> None:
    assert len(ENTRIES) > 1000
    assert ENTRIES == sorted(set(ENTRIES))
    assert all(len(entry.encode()) >= 8 for entry in ENTRIES)
    assert all(entry == unicodedata.normalize("NFKC", entry.casefold()) for entry in ENTRIES)


def test_no_refusal_repeats_the_password() -> None:
    for password in ("short", "password1", "qwertyuiop", "zzzzzzzzz", "alicealice", "toolong!" * 200):
        with pytest.raises(PasswordRefused) as refusal:
            check_password(password, "alice")
        assert password not in str(refusal.value)


def test_a_password_too_short_to_be_chosen_today_can_still_be_checked() -> None:
    assert password_bytes("old") == b"old"
    assert password_bytes("") == b""
