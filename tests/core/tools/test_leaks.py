"""The search that the canary relies on: what it must find, and what it must not take for a find."""

import base64
import html
import json
import secrets
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest

from tests.clients.leaks import WINDOW, Secrets

SECRET = "tänger \"bicycle\" \\ <&> 100% 'of' it"
RAW = SECRET.encode()
NOISE = "2026-11-23T07:47:01Z [info] request method=GET path=/v1/me status=200 " * 20

FORMS: dict[str, Callable[[str], str | bytes]] = {
    "as it is": lambda text: text,
    "bytes": lambda text: text.encode(),
    "latin-1": lambda text: text.encode().decode("latin-1"),
    "repr": repr,
    "repr of bytes": lambda text: repr(text.encode()),
    "ascii": ascii,
    "repr of a repr": lambda text: repr([repr(text)]),
    "JSON": json.dumps,
    "JSON, not in ASCII": lambda text: json.dumps(text, ensure_ascii=False),
    "JSON in JSON": lambda text: json.dumps({"body": json.dumps({"password": text})}),
    "JSON in a repr in JSON": lambda text: json.dumps(repr(json.dumps(text).encode())),
    "every character as \\u": lambda text: "".join(f"\\u{ord(char):04X}" for char in text),
    "percent": quote,
    "a form": quote_plus,
    "percent, twice": lambda text: quote(quote(text)),
    "every byte as %": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    "HTML": html.escape,
    "HTML in JSON": lambda text: json.dumps(html.escape(text)),
    "hex": lambda text: text.encode().hex(),
    "hex, upper case": lambda text: text.encode().hex().upper(),
    "hex with colons": lambda text: text.encode().hex(":"),
    "a dump of bytes": lambda text: text.encode().hex(" "),
    "numbers": lambda text: repr(list(text.encode())),
    "base64": lambda text: base64.b64encode(text.encode()),
    "base64url": lambda text: base64.urlsafe_b64encode(text.encode()).rstrip(b"="),
}


def watching(secret: str | bytes = SECRET) -> Secrets:
    found = Secrets()
    found.add("the password", secret)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_a_planted_secret_is_found_in_every_form(form: str) -> None:
    planted = FORMS[form](SECRET)
    planted = planted if isinstance(planted, bytes) else planted.encode()
    haystack = NOISE.encode() + planted + NOISE.encode()
    assert watching().found_in(haystack) == {"the password"}


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("alphabet", [base64.b64encode, base64.urlsafe_b64encode])
def test_it_is_found_wherever_it_stands_in_what_became_base64(before: int, alphabet: Callable[[bytes], bytes]) -> None:
    haystack = b"Basic " + alphabet(b"x" * before + RAW + b"yz")
    assert watching().found_in(haystack) == {"the password"}


@pytest.mark.parametrize("shown", [RAW[:WINDOW], RAW[-WINDOW:], RAW[8 : 8 + WINDOW]])
def test_a_part_gives_it_away(shown: bytes) -> None:
    assert watching().found_in(NOISE.encode() + shown) == {"the password"}


def test_less_than_a_part_is_nothing() -> None:
    assert watching().found_in(NOISE.encode() + RAW[: WINDOW - 1] + b"|" + RAW[WINDOW - 1 : 2 * WINDOW - 2]) == set()


def test_the_bytes_behind_a_token_are_looked_for_too() -> None:
    raw = secrets.token_bytes(32)
    token = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    for planted in (token, token[3:40], raw, raw.hex(), repr(raw), base64.b64encode(raw)):
        haystack = planted if isinstance(planted, bytes) else planted.encode()
        assert watching(token).found_in(NOISE.encode() + b" " + haystack) == {"the password"}


def test_a_private_key_is_found_in_its_pem_and_in_pieces_of_it() -> None:
    raw = secrets.token_bytes(32)
    pem = base64.encodebytes(
        b"0w\x02\x01\x01\x04 " + raw + b"\xa0\n\x06\x08*\x86H\xce=\x03\x01\x07" + secrets.token_bytes(68)
    )
    for planted in (pem, pem.replace(b"\n", b"\\n"), repr(pem).encode(), raw.hex(":").encode()):
        assert watching(raw).found_in(NOISE.encode() + planted) == {"the password"}


def test_several_are_told_apart() -> None:
    found = watching()
    found.add("another", "marmalade submarine")
    assert found.found_in(f"{NOISE} marmalade submarine") == {"another"}
    assert found.found_in(f"{SECRET}{NOISE}marmalade+submarine") == {"another", "the password"}


def test_chance_finds_nothing() -> None:
    haystack = base64.b64encode(secrets.token_bytes(50_000)) + secrets.token_bytes(50_000).hex().encode()
    found = Secrets()
    for number in range(50):
        found.add(f"secret {number}", base64.urlsafe_b64encode(secrets.token_bytes(32)))
    assert found.found_in(haystack) == set()


def test_what_is_too_short_to_be_told_from_chance_is_refused() -> None:
    with pytest.raises(AssertionError, match="too short"):
        watching("password")
