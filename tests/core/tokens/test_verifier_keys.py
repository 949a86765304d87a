"""An issuer's keys as a verifier keeps them: what it takes for keys, when it asks for them, how long it believes them."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from coatcheck.testing import ManualClock
from coatcheck.tokens import IssuerUnavailable, KeyRing
from coatcheck.tokens.jwks import LONGEST_KEPT, UNKNOWN_KEY, PublicKeys, parse_jwks, seconds_fresh


def ring(clock: ManualClock | None = None, **options: Any) -> KeyRing:
    made = KeyRing(clock=clock or ManualClock(), **options)
    made.maintain()
    return made


def document(*keys: Any) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


KEY: dict[str, Any] = ring().jwks()["keys"][0]
ED25519: dict[str, Any] = ring(algorithm="Ed25519").jwks()["keys"][0]


class Issuer:
    """Answers with what it has, and counts."""

    def __init__(self, *keys: Any) -> None:
        self.body = document(*(keys or (KEY,)))
        self.headers: dict[str, str] = {"cache-control": "public, max-age=300"}
        self.away = False
        self.asked = 0
        self.gate: asyncio.Event | None = None

    async def __call__(self) -> tuple[bytes, Mapping[str, str]]:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.away:
            raise IssuerUnavailable("away")
        return self.body, self.headers


def test_our_own_keys_are_read() -> None:
    assert set(parse_jwks(document(KEY, ED25519))) == {KEY["kid"], ED25519["kid"]}


@pytest.mark.parametrize(
    "other",
    [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "s", "alg": "HS256"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "r"},
        {**KEY, "kid": "enc", "use": "enc"},
        {**KEY, "kid": "other", "alg": "ES384"},
        {**KEY, "kid": "private", "d": "AAAA"},
        {**KEY, "kid": 7},
        {**KEY, "kid": ""},
        {**KEY, "kid": "x" * 257},
        {**KEY, "kid": "x", "x": None},
        {**KEY, "kid": "x", "y": ["a"]},
        {**KEY, "kid": "x", "crv": ["P-256"]},
        {**ED25519, "kid": "x", "alg": "EdDSA"},
        {},
        None,
        7,
        "text",
        [KEY],
    ],
)
def test_what_is_no_key_for_access_tokens_is_passed_over(other: Any) -> None:
    assert set(parse_jwks(document(other, KEY))) == {KEY["kid"]}
    with pytest.raises(ValueError, match="no key"):
        parse_jwks(document(other))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b"{}",
        b"<html>",
        b'{"keys": {}}',
        b'{"keys": null}',
        b'{"keys": []}',
        b'{"keys": "x"}',
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"keys":' + b"[" * 60_000,
        b'{"keys": [], "keys": []}',
        document(*({**KEY, "kid": str(number)} for number in range(33))),
        document(*({"kty": "oct"} for _ in range(100))),
        document(KEY, {**KEY}),
    ],
)
def test_what_is_no_set_of_keys_is_refused_whole(body: bytes) -> None:
    with pytest.raises(ValueError):
        parse_jwks(body)


@pytest.mark.parametrize("change", [{"x": "AAAA"}, {"x": "!!"}, {"y": KEY["x"]}, {"x": "é"}])
async def test_a_set_with_a_key_that_is_none_leaves_the_old_keys(change: dict[str, str]) -> None:
    clock, issuer = ManualClock(), Issuer()
    keys = PublicKeys(issuer, clock)
    await keys.refresh()
    issuer.body = document({**KEY, **change})
    with pytest.raises(IssuerUnavailable):
        await keys.refresh()
    assert await keys.find(KEY["kid"]) is not None


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("public, max-age=300", 300),
        ("MAX-AGE=120", 120),
        ('max-age="90"', 90),
        ("s-maxage=7000", 300),
        ("max-age=1", 60),
        ("max-age=99999999", 3600),
        ("max-age=-5", 300),
        ("no-store", 60),
        ("no-cache, max-age=3000", 60),
        ("", 300),
    ],
)
def test_keys_are_kept_as_long_as_the_answer_says_within_bounds(said: str, seconds: float) -> None:
    assert seconds_fresh(said) == seconds


async def test_a_flood_of_unknown_keys_asks_once() -> None:
    clock, issuer = ManualClock(), Issuer()
    keys = PublicKeys(issuer, clock)
    await keys.refresh()
    clock.advance(UNKNOWN_KEY)
    issuer.gate = asyncio.Event()
    flood = [asyncio.ensure_future(keys.find(f"unknown-{number}")) for number in range(200)]
    await asyncio.sleep(0)
    issuer.gate.set()
    assert await asyncio.gather(*flood) == [None] * 200
    for number in range(200):
        assert await keys.find(f"again-{number}") is None
    assert issuer.asked == 2
    clock.advance(UNKNOWN_KEY)
    assert await keys.find("later") is None
    assert issuer.asked == 3


async def test_a_flood_at_the_start_asks_once_too() -> None:
    issuer = Issuer()
    keys = PublicKeys(issuer, ManualClock())
    found = await asyncio.gather(*(keys.find(KEY["kid"]) for _ in range(200)))
    assert None not in found
    assert issuer.asked == 1


async def test_an_issuer_that_was_never_there_is_asked_once_a_second() -> None:
    clock, issuer = ManualClock(), Issuer()
    issuer.away = True
    keys = PublicKeys(issuer, clock)
    for _ in range(100):
        with pytest.raises(IssuerUnavailable):
            await keys.find(KEY["kid"])
    assert issuer.asked == 1
    clock.advance(1.0)
    issuer.away = False
    assert await keys.find(KEY["kid"]) is not None


async def test_whoever_gives_up_waiting_does_not_take_the_answer_from_others() -> None:
    issuer = Issuer()
    issuer.gate = asyncio.Event()
    keys = PublicKeys(issuer, ManualClock())
    impatient, patient = (asyncio.ensure_future(keys.find(KEY["kid"])) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.sleep(0)
    issuer.gate.set()
    assert await patient is not None
    assert issuer.asked == 1


async def test_a_key_that_was_announced_is_known_when_it_signs() -> None:
    clock = ManualClock()
    signer, issuer = ring(clock), Issuer()
    issuer.body = json.dumps(signer.jwks()).encode()
    keys = PublicKeys(issuer, clock)
    await keys.refresh()
    made = signer.rotate()
    issuer.body = json.dumps(signer.jwks()).encode()
    clock.advance(300)
    await keys.refresh()  # as `run` does before they go stale
    clock.advance(600)
    assert signer.signing()[0].kid == made.kid
    assert await keys.find(made.kid) is not None
    assert issuer.asked == 2


async def test_a_new_key_that_signs_at_once_is_looked_for_once() -> None:
    clock, issuer = ManualClock(), Issuer()
    keys = PublicKeys(issuer, clock)
    await keys.refresh()
    clock.advance(UNKNOWN_KEY)
    issuer.body = document(ED25519)
    changed: list[int] = []
    keys.on_change = lambda: changed.append(1)
    found = await keys.find(ED25519["kid"])
    assert found is not None
    assert found[0] == "Ed25519"
    assert await keys.find(KEY["kid"]) is None
    assert changed == [1]


async def test_an_issuer_that_is_away_is_outlived_for_two_hours() -> None:
    clock, issuer = ManualClock(), Issuer()
    keys = PublicKeys(issuer, clock)
    await keys.refresh()
    issuer.away = True
    clock.advance(LONGEST_KEPT - 1)
    assert await keys.find(KEY["kid"]) is not None
    # Of a key that it does not know, it cannot say that there is no such key.
    with pytest.raises(IssuerUnavailable):
        await keys.find("unknown")
    clock.advance(2)
    assert not keys.usable
    with pytest.raises(IssuerUnavailable):
        await keys.find(KEY["kid"])


async def test_keys_are_refreshed_before_they_go_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, issuer = ManualClock(), Issuer()
    issuer.away = True
    keys = PublicKeys(issuer, clock)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.advance(seconds)
        issuer.away = len(slept) in (1, 2, 5)
        if len(slept) == 7:
            raise asyncio.CancelledError

    monkeypatch.setattr("coatcheck.tokens.jwks.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await keys.run()
    assert slept == [1.0, 2.0, 4.0, 240.0, 240.0, 1.0, 240.0]
