import base64
import datetime as dt
import random
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from coatcheck import CookiePolicy, UsageError
from coatcheck.cookies import MAX_COOKIE_BYTES
from coatcheck.sealed import FUTURE_SKEW, SealedCookie, SealedCookieTooLarge, SealedKeyError, new_key
from coatcheck.testing import ManualClock

PREFERENCES = CookiePolicy(name="__Host-preferences")
DAY = 86400
OLD, NEW, STRANGE = new_key(), new_key(), new_key()


def cookie(*keys: bytes, clock: ManualClock | None = None, policy: CookiePolicy = PREFERENCES) -> SealedCookie:
    return SealedCookie(policy, keys or (NEW,), max_age=DAY, clock=clock or ManualClock())


def sent_back(line: bytes) -> bytes:
    """The Cookie header of a browser that was given this Set-Cookie header."""
    return line.partition(b";")[0]


def raw(line: bytes) -> bytes:
    """What is inside the base64url."""
    text = sent_back(line).partition(b"=")[2]
    return base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))


def as_header(data: bytes, name: bytes = b"__Host-preferences") -> bytes:
    return name + b"=" + base64.urlsafe_b64encode(data).rstrip(b"=")


plain = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=30) | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(plain)
@settings(max_examples=100, deadline=None)
def test_what_was_sealed_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    sealed = cookie()
    found = sealed.open(sent_back(sealed.seal(value)))
    assert found == value
    assert type(found) is type(value)


def test_a_moment_with_a_time_zone_comes_back() -> None:
    moment = dt.datetime(2024, 5, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    sealed = cookie()
    assert sealed.open(sent_back(sealed.seal({"consent": moment}))) == {"consent": moment}


def test_the_cookie_has_its_policys_attributes_and_lives_as_long_as_the_seal_holds() -> None:
    policy = CookiePolicy(name="theme", secure=False, http_only=False, same_site="strict", path="/shop")
    line = cookie(policy=policy).seal("dark")
    assert line.startswith(b"theme=")
    assert line.split(b"; ")[1:] == [b"Max-Age=86400", b"Path=/shop", b"SameSite=Strict"]
    assert cookie(policy=policy).delete().startswith(b"theme=; Max-Age=0;")


def test_the_client_can_read_nothing_and_the_same_value_looks_different_each_time() -> None:
    sealed = cookie()
    first, second = raw(sealed.seal("a secret preference")), raw(sealed.seal("a secret preference"))
    assert b"secret" not in first
    assert first[:5] == second[:5]  # version and key id
    assert first[5:17] != second[5:17]
    assert first[17:] != second[17:]


def test_every_source_of_a_cookie_header_is_read() -> None:
    sealed = cookie()
    header = sent_back(sealed.seal("dark"))
    scope = {"type": "http", "headers": [(b"host", b"x"), (b"cookie", b"a=b"), (b"cookie", header)]}
    assert sealed.open(header) == "dark"
    assert sealed.open(header.decode()) == "dark"
    assert sealed.open(b"a=b; " + header + b"; c=d") == "dark"
    assert sealed.open(scope) == "dark"
    assert sealed.open(Request(scope)) == "dark"


@pytest.mark.parametrize("source", [None, b"", "", b"a=b", "ж=ю", {"type": "http", "headers": []}])
def test_without_a_cookie_there_is_no_value(source: object) -> None:
    assert cookie().open(source) is None


@pytest.mark.parametrize("source", [3, {"type": "lifespan"}, object()])
def test_what_has_no_cookies_is_named(source: object) -> None:
    with pytest.raises(UsageError, match=f"a {type(source).__name__} has no cookies: give a request"):
        cookie().open(source)


def test_every_changed_byte_reads_as_absent() -> None:
    sealed = cookie(NEW, OLD)
    data = raw(sealed.seal("dark"))
    for position in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            assert sealed.open(as_header(bytes(changed))) is None
    assert sealed.open(as_header(data)) == "dark"


def test_every_changed_character_reads_as_absent_also_where_base64_has_bits_to_spare() -> None:
    sealed = cookie()
    for value in ("a", "ab", "abc"):  # each of the three endings that base64 has
        header = sent_back(sealed.seal(value))
        start = header.index(b"=") + 1
        for position in (start, len(header) - 1):
            for other in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=. \xff":
                if other != header[position]:
                    changed = header[:position] + bytes([other]) + header[position + 1 :]
                    # A space at the end is no part of the value (RFC 6265bis, section 5.6): it is one character short.
                    assert sealed.open(changed) is None, changed


def test_what_is_cut_short_or_lengthened_reads_as_absent() -> None:
    sealed = cookie()
    header = sent_back(sealed.seal("dark"))
    data = raw(header)
    for length in range(len(data)):
        assert sealed.open(as_header(data[:length])) is None
    for more in (b"A", b"AA", b"AAA", b"AAAA", b"=", b"A" * 5000):
        assert sealed.open(header + more) is None
    assert sealed.open(as_header(data + b"\0")) is None


def test_noise_reads_as_absent() -> None:
    sealed = cookie()
    noise = random.Random(7)
    for _ in range(200):
        assert sealed.open(b"__Host-preferences=" + noise.randbytes(noise.randrange(120))) is None


def test_a_value_does_not_open_under_another_name_whoever_renames_it() -> None:
    sealed = cookie()
    value = sent_back(sealed.seal("dark")).partition(b"=")[2]
    consent = cookie(policy=CookiePolicy(name="__Host-consent"))
    assert consent.open(b"__Host-consent=" + value) is None
    assert consent.open(b"__Host-preferences=" + value) is None
    plain = cookie(policy=CookiePolicy(name="preferences", secure=False))
    assert plain.open(b"preferences=" + value) is None


def test_two_cookies_of_the_name_are_none() -> None:
    sealed = cookie()
    header = sent_back(sealed.seal("dark"))
    assert sealed.open(header + b"; " + header) is None
    assert sealed.open({"headers": [(b"cookie", header), (b"cookie", header)]}) is None


def test_the_first_key_seals_and_all_keys_open() -> None:
    before, during, after = cookie(OLD), cookie(NEW, OLD), cookie(NEW)
    old, new = sent_back(before.seal("old")), sent_back(during.seal("new"))
    assert (during.open(old), during.open(new)) == ("old", "new")
    assert (after.open(old), after.open(new)) == (None, "new")
    assert before.open(new) is None


def test_a_key_that_is_not_among_ours_opens_nothing() -> None:
    assert cookie(NEW, OLD).open(sent_back(cookie(STRANGE).seal("mine"))) is None


def test_the_key_is_found_by_its_id_so_that_opening_costs_one_decryption() -> None:
    sealed = cookie(NEW, OLD)
    tried: list[str] = []

    class Counting:
        def __init__(self, name: str, cipher: Any) -> None:
            self.name = name
            self.cipher = cipher

        def decrypt(self, *arguments: bytes) -> bytes:
            tried.append(self.name)
            return self.cipher.decrypt(*arguments)

    names = iter(["new", "old"])
    sealed._keys = {key_id: Counting(next(names), cipher) for key_id, cipher in sealed._keys.items()}
    assert sealed.open(sent_back(cookie(OLD).seal("old"))) == "old"
    assert tried == ["old"]
    assert sealed.open(sent_back(cookie(STRANGE).seal("strange"))) is None
    assert tried == ["old"]


def test_a_value_holds_until_its_maximum_age_and_not_a_moment_longer() -> None:
    clock = ManualClock()
    sealed = cookie(clock=clock)
    header = sent_back(sealed.seal("dark"))
    clock.advance(DAY - 0.01)
    assert sealed.open(header) == "dark"
    clock.advance(0.01)
    assert sealed.open(header) is None


def test_the_age_that_counts_is_that_of_whoever_opens() -> None:
    clock = ManualClock()
    header = sent_back(SealedCookie(PREFERENCES, [NEW], max_age=10 * DAY, clock=clock).seal("dark"))
    clock.advance(DAY)
    assert cookie(clock=clock).open(header) is None


def test_another_machines_clock_may_be_a_little_ahead_and_no_more() -> None:
    ahead, here = ManualClock(), ManualClock()
    ahead.step(FUTURE_SKEW)
    header = sent_back(cookie(clock=ahead).seal("dark"))
    assert cookie(clock=here).open(header) == "dark"
    ahead.step(1)
    assert cookie(clock=here).open(sent_back(cookie(clock=ahead).seal("dark"))) is None


def test_the_system_clock_is_used_unless_another_is_given() -> None:
    sealed = SealedCookie(PREFERENCES, [NEW], max_age=DAY)
    assert sealed.open(sent_back(sealed.seal("dark"))) == "dark"
    assert cookie().open(sent_back(sealed.seal("dark"))) is None  # whose manual clock is years behind


def test_4096_bytes_of_name_and_value_are_set_and_one_more_is_refused_with_a_sentence() -> None:
    policy = CookiePolicy(name="p" * 6)
    sealed = cookie(policy=policy)
    # 4090 characters carry 3067 bytes, of which 5 + 12 + 8 + 16 are ours and 3 msgpack's.
    largest = b"x" * (3067 - 44)
    line = sealed.seal(largest)
    assert len(sent_back(line)) == MAX_COOKIE_BYTES + len("=")
    assert sealed.open(sent_back(line)) == largest
    with pytest.raises(SealedCookieTooLarge) as refusal:
        sealed.seal(largest + b"x")
    assert str(refusal.value) == (
        "the sealed cookie pppppp would take 4097 bytes, name and value together, and browsers keep 4096 at most: "
        "seal less, or keep it in the session"
    )
    assert isinstance(refusal.value, ValueError)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"tags": {1, 2}}, "it['tags'] is a set, which would not come back the same: store sorted(value)"),
        (
            (1, 2),
            "it is a tuple, which would not come back the same: store list(value). Sealed cookies hold None, bool",
        ),
        ({1: 2}, "it has the key 1, a int: use str keys, as str(1)"),
        (float("nan"), "it is not a number"),
        (2**64, "it is an int of over 64 bits"),
        ("\ud800", "it cannot be stored"),
        (
            dt.datetime(2024, 5, 1),  # noqa: DTZ001
            "it is a datetime, which would not come back the same: give it a time zone",
        ),
    ],
)
def test_what_would_not_come_back_equal_is_refused_with_its_mend(value: object, words: str) -> None:
    with pytest.raises(TypeError) as refusal:
        cookie().seal(value)
    assert str(refusal.value).startswith(f"a value cannot be sealed into the cookie __Host-preferences: {words}")
    assert "session" not in str(refusal.value)


def test_none_is_refused_because_it_reads_as_absent() -> None:
    with pytest.raises(TypeError, match=r"reads as absent; use delete\(\)"):
        cookie().seal(None)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([], "needs a key"),
        ([new_key(), b"short"], "key 2 has 5 bytes and not 32"),
        ([new_key() + b"\0"], "key 1 has 33 bytes and not 32"),
        (["x" * 32], "key 1 is a str and not bytes"),
        ([b"correct horse battery staple, so"], "key 1 is text, which can be guessed"),
        ([b"0123456789abcdef0123456789abcdef"], "key 1 is text"),
        ([bytes(32)], "key 1 is not random"),
        ([bytes(range(32))], "key 1 is not random"),
        ([b"\x8a\xff" * 16], "key 1 is not random"),
        ([OLD, OLD], "key 2 is given twice"),
    ],
)
def test_a_key_that_does_not_protect_is_refused_without_being_shown(keys: list[Any], words: str) -> None:
    with pytest.raises(SealedKeyError, match=r"new_key|given twice") as refusal:
        SealedCookie(PREFERENCES, keys, max_age=DAY)
    assert words in str(refusal.value)
    assert not any(key and repr(key)[2:-1] in str(refusal.value) for key in keys)


@pytest.mark.parametrize("max_age", [0, -1])
def test_a_seal_holds_for_some_time(max_age: int) -> None:
    with pytest.raises(UsageError, match="must be a positive number of seconds"):
        SealedCookie(PREFERENCES, [NEW], max_age=max_age)


def test_a_new_key_is_new_and_good() -> None:
    keys = {new_key() for _ in range(200)}
    assert len(keys) == 200
    assert SealedCookie(PREFERENCES, list(keys), max_age=DAY)


def test_its_repr_shows_the_name_and_no_key() -> None:
    assert repr(cookie()) == "<SealedCookie __Host-preferences>"


def test_without_the_package_one_sentence_says_what_to_install() -> None:
    code = """
import sys
sys.modules["cryptography"] = None
from coatcheck import CookiePolicy, MissingDependency
from coatcheck.sealed import SealedCookie, new_key
try:
    SealedCookie(CookiePolicy(), [new_key()], max_age=1)
except MissingDependency as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "coatcheck.sealed needs the package cryptography: pip install 'coatcheck[sealed]'\n"
