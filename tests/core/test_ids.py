"""Ids and tokens: one canonical form, and nothing else passes for it."""

import base64
import hashlib
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coatcheck import ids
from coatcheck.ids import encode, hash_secret, is_id, make_token, split_token

ALPHABET = string.ascii_letters + string.digits + "-_"
ID = encode(bytes(range(16)))
SECRET = encode(bytes(range(100, 132)))
TOKEN = make_token(ID, SECRET).encode()

id_bytes = st.binary(min_size=16, max_size=16)
secret_bytes = st.binary(min_size=32, max_size=32)


@settings(max_examples=100, deadline=None)
@given(id_bytes, secret_bytes)
def test_a_token_comes_apart_into_its_id_and_the_hash_of_its_secret(session: bytes, secret: bytes) -> None:
    token = make_token(encode(session), encode(secret)).encode()
    assert len(token) == ids.TOKEN_LENGTH
    assert split_token(token) == (encode(session), hashlib.sha256(encode(secret).encode()).digest())


@settings(max_examples=100, deadline=None)
@given(id_bytes)
def test_every_id_that_we_could_issue_is_one_and_is_url_safe(session: bytes) -> None:
    text = encode(session)
    assert len(text) == ids.ID_LENGTH
    assert set(text) <= set(ALPHABET)
    assert is_id(text)
    assert base64.urlsafe_b64decode(text + "==") == session


def test_no_two_ids_have_the_same_form() -> None:
    last = {encode(bytes(15) + bytes([byte]))[-2:] for byte in range(256)}
    assert len(last) == 256


@pytest.mark.parametrize("place", range(len(TOKEN)))
def test_no_byte_of_a_token_can_be_swapped_for_one_that_has_no_place_there(place: int) -> None:
    for byte in range(256):
        mutated = TOKEN[:place] + bytes([byte]) + TOKEN[place + 1 :]
        if byte == TOKEN[place]:
            continue
        parts = split_token(mutated)
        if place == ids.ID_LENGTH or chr(byte) not in ALPHABET:
            assert parts is None
        elif parts is not None:
            # What is still a token is another one: other bits, and never the same bits written differently.
            assert parts != split_token(TOKEN)


def test_only_canonical_last_characters_are_taken() -> None:
    ids_taken = [char for char in ALPHABET if split_token((ID[:-1] + char + "." + SECRET).encode())]
    secrets_taken = [char for char in ALPHABET if split_token((ID + "." + SECRET[:-1] + char).encode())]
    assert sorted(ids_taken) == sorted("AQgw")
    assert sorted(secrets_taken) == sorted("AEIMQUYcgkosw048")
    assert [char for char in ALPHABET if is_id(ID[:-1] + char)] == ids_taken


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b".",
        TOKEN[:-1],
        TOKEN + b"A",
        TOKEN + b"\n",
        TOKEN[:-1] + b"\n",
        b" " + TOKEN,
        TOKEN + b"=",
        TOKEN.replace(b".", b"-"),
        TOKEN.replace(b".", b".."),
        TOKEN[23:] + b"." + TOKEN[:22],
        b"." + TOKEN[1:],
        b'"' + TOKEN[1:-1] + b'"',
        TOKEN + TOKEN,
        bytes(66),
        b"\xff" * 66,
        "é".encode() * 33,
        TOKEN[:22] + b"." + b"+" * 43,
        TOKEN[:22] + b"." + b"/" * 43,
    ],
)
def test_what_is_no_token_is_nobodys(token: bytes) -> None:
    assert split_token(token) is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.binary(min_size=66, max_size=66))
def test_junk_is_never_a_token_and_never_an_error(junk: bytes) -> None:
    parts = split_token(junk)
    if parts is not None:  # as good as impossible, and then it must be canonical
        assert is_id(parts[0])


@pytest.mark.parametrize(
    "text", ["", ID + "\n", ID[:-1], ID + "A", ID.replace(ID[0], "é", 1), ID[:-1] + "B", " " + ID[1:], "٣" * 21 + "A"]
)
def test_what_has_not_the_form_of_an_id_is_none(text: str) -> None:
    assert not is_id(text)


def test_a_secret_is_hashed_as_the_text_that_the_cookie_carries() -> None:
    assert hash_secret(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    parts = split_token(TOKEN)
    assert parts is not None
    assert parts[1] == hash_secret(SECRET.encode())


def test_nothing_of_a_secret_is_left_in_what_a_token_is_taken_apart_into() -> None:
    parts = split_token(TOKEN)
    assert parts is not None
    assert SECRET.encode() not in parts[1]
    assert len(parts[1]) == 32
