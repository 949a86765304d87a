"""Access tokens: what is issued is believed, and nothing else is, whatever it looks like."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OctKey

from coatcheck import TokenRefused
from coatcheck.ids import encode
from coatcheck.record import SessionRecord
from coatcheck.testing import ManualClock
from coatcheck.tokens import AccessTokens, KeyRing
from coatcheck.tokens.key_file import KeyFile

ISSUER = "https://login.example"


class House:
    def __init__(self, algorithm: str = "ES256") -> None:
        self.clock = ManualClock(1_700_000_000.0)
        self.keys = KeyRing(clock=self.clock, algorithm=algorithm)  # type: ignore[arg-type]
        self.tokens = AccessTokens(self.keys, issuer=ISSUER, audience=ISSUER)

    def record(self, **fields: Any) -> SessionRecord:
        now = self.clock.time()
        known: dict[str, Any] = {
            "id": encode(b"0" * 16),
            "secret_hash": b"",
            "created_at": now,
            "expires_at": now + 10_000,
            "last_seen_at": now,
            "user_id": "user",
            "authenticated_at": now,
            "generation": 3,
            "about": {"method": "password"},
        }
        return SessionRecord(**{**known, **fields})

    def issue(self, **fields: Any) -> str:
        return self.tokens.issue(self.record(**fields))[0]

    def sign(self, header: dict[str, Any], payload: bytes) -> str:
        """A token with a right signature and anything in it."""
        key, private = self.keys.signing()
        registry = jws.JWSRegistry(algorithms=[key.alg], strict_check_header=False)
        return jws.serialize_compact(
            {"alg": key.alg, "typ": "at+jwt", "kid": key.kid, **header}, payload, private, registry=registry
        )

    def claims(self, **changes: Any) -> bytes:
        payload = json.loads(unpadded(self.issue().split(".")[1]))
        payload.update(changes)
        return json.dumps({name: value for name, value in payload.items() if value is not None}).encode()


def unpadded(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def padded_off(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def house() -> House:
    return House()


@pytest.mark.parametrize("algorithm", ["ES256", "Ed25519"])
def test_a_token_says_what_rfc_9068_asks_for(algorithm: str) -> None:
    house = House(algorithm)
    token, lifetime = house.tokens.issue(house.record())
    header = json.loads(unpadded(token.split(".")[0]))
    assert header == {"alg": algorithm, "typ": "at+jwt", "kid": house.keys.signing()[0].kid}
    claims = house.tokens.verify(token)
    now = house.clock.time()
    assert (claims.iss, claims.sub, claims.aud, claims.sid) == (ISSUER, "user", (ISSUER,), encode(b"0" * 16))
    assert (claims.iat, claims.exp, claims.auth_time, lifetime) == (now, now + 300, now, 300)
    assert (claims.amr, claims.gen) == (("pwd",), 3)
    assert house.tokens.verify(house.issue()).jti != claims.jti
    assert len(token) < 1000


def test_a_token_runs_out_to_the_second_and_is_not_remembered_beyond() -> None:
    house = House()
    token = house.issue()
    house.clock.advance(299)
    house.tokens.verify(token)
    house.clock.advance(1)
    with pytest.raises(TokenRefused, match="run out"):
        house.tokens.verify(token)
    assert not house.tokens._verified


def test_a_token_never_outlives_its_session() -> None:
    house = House()
    token, lifetime = house.tokens.issue(house.record(expires_at=house.clock.time() + 60))
    assert lifetime == 60
    assert house.tokens.verify(token).exp == house.clock.time() + 60


def test_nobodys_session_gets_no_token(house: House) -> None:
    with pytest.raises(ValueError, match="logged in"):
        house.tokens.issue(house.record(user_id=None))


def test_a_token_for_another_service_is_refused_here_warm_and_cold(house: House) -> None:
    token, _ = house.tokens.issue(house.record(), audience="https://other.example")
    for _ in range(2):
        with pytest.raises(TokenRefused, match="another audience"):
            house.tokens.verify(token)
    assert house.tokens.verify(token, audience="https://other.example").sub == "user"


def test_a_warm_verification_checks_no_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House()
    token = house.issue()
    first = house.tokens.verify(token)
    monkeypatch.setattr("coatcheck.tokens.access.jws.deserialize_compact", None)
    assert house.tokens.verify(token) is first


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coatcheck.tokens.access._CACHED", 3)
    house = House()
    tokens = [house.issue() for _ in range(5)]
    for token in tokens:
        house.tokens.verify(token)
    assert [token for token, _ in house.tokens._verified.values()] == tokens[2:]


def test_a_token_that_ends_like_a_remembered_one_is_checked_like_any_other(house: House) -> None:
    token = house.issue()
    claims = house.tokens.verify(token)
    header, payload, signature = token.split(".")
    read = json.loads(base64.urlsafe_b64decode(payload + "=="))
    other = encode(json.dumps({**read, "sub": "somebody else"}).encode())
    for forged in (
        f"{header}.{other}.{signature}",
        f"{header}.{payload[:-2]}.{signature}",
        signature[-32:],
        "x" + token,
    ):
        with pytest.raises(TokenRefused):
            house.tokens.verify(forged)
    assert house.tokens.verify(token) is claims


def test_a_token_of_a_key_that_was_ended_is_refused_though_it_was_remembered() -> None:
    house = House()
    token = house.issue()
    house.tokens.verify(token)
    house.keys.retire(house.keys.signing()[0].kid)
    with pytest.raises(TokenRefused, match="key is unknown"):
        house.tokens.verify(token)


@pytest.mark.parametrize("after", [0.05, 0.95], ids=["at_once", "when_it_was_time"])
def test_a_remembered_token_of_a_stolen_key_is_refused_though_another_token_made_the_ring_look(
    tmp_path: Path, after: float
) -> None:
    """Another process ends the key. This one's ring looks while it searches for the key of some other token."""
    here, there = House(), House()
    there.clock = here.clock
    for house in (here, there):
        house.keys = KeyRing(KeyFile(tmp_path / "keys.json"), clock=here.clock)
        house.tokens = AccessTokens(house.keys, issuer=ISSUER, audience=ISSUER)
    stolen = there.issue()
    here.tokens.verify(stolen)
    here.clock.advance(after)
    here.tokens.verify(stolen)  # the ring is not asked again for a tenth of a second
    there.keys.retire(there.keys.signing()[0].kid)
    here.clock.advance(0.09)
    here.tokens.verify(there.issue())
    with pytest.raises(TokenRefused, match="key is unknown"):
        here.tokens.verify(stolen)


def test_rotation_fails_no_token_in_flight() -> None:
    house = House()
    for _ in range(40):
        house.keys.maintain()
        if len(house.keys.list()) == 1:
            house.keys.rotate()
        token = house.issue()
        house.clock.advance(299)
        house.tokens._verified.clear()
        house.tokens.verify(token)


def header_of(token: str, **changes: Any) -> str:
    header = {**json.loads(unpadded(token.split(".")[0])), **changes}
    header = {name: value for name, value in header.items() if value is not None}
    return ".".join([padded_off(json.dumps(header).encode()), *token.split(".")[1:]])


def signed_by_a_stranger(house: House) -> str:
    stranger = House()
    key = stranger.keys.signing()[0]
    ours = house.keys.signing()[0].kid
    header = {"alg": key.alg, "typ": "at+jwt", "kid": ours}
    return jws.serialize_compact(header, house.claims(), stranger.keys.signing()[1], algorithms=[key.alg])


def hs256_with_the_public_key(house: House) -> str:
    key, private = house.keys.signing()
    public = json.dumps(private.as_dict(private=False)).encode()
    header = {"alg": "HS256", "typ": "at+jwt", "kid": key.kid}
    return jws.serialize_compact(header, house.claims(), OctKey.import_key(public), algorithms=["HS256"])


def with_its_own_key(house: House) -> str:
    mine = ECKey.generate_key("P-256")
    header = {"alg": "ES256", "typ": "at+jwt", "kid": mine.thumbprint(), "jwk": mine.as_dict(private=False)}
    registry = jws.JWSRegistry(algorithms=["ES256"], strict_check_header=False)
    return jws.serialize_compact(header, house.claims(), mine, registry=registry)


FORGERIES: dict[str, Callable[[House], str]] = {
    "alg none": lambda h: ".".join([header_of(h.issue(), alg="none").split(".")[0], h.issue().split(".")[1], ""]),
    "alg none with a signature": lambda h: header_of(h.issue(), alg="none"),
    "alg NONE": lambda h: header_of(h.issue(), alg="NONE"),
    "alg nOnE": lambda h: header_of(h.issue(), alg="nOnE"),
    "alg empty": lambda h: header_of(h.issue(), alg=""),
    "alg absent": lambda h: header_of(h.issue(), alg=None),
    "alg is a list": lambda h: header_of(h.issue(), alg=["ES256"]),
    "HS256 signed with the public key": hs256_with_the_public_key,
    "another of our algorithms": lambda h: header_of(h.issue(), alg="Ed25519"),
    "a foreign jwk": with_its_own_key,
    "a jku": lambda h: h.sign({"jku": "https://evil.example/jwks"}, h.claims()),
    "an x5u": lambda h: h.sign({"x5u": "https://evil.example/x5u"}, h.claims()),
    "an x5c": lambda h: h.sign({"x5c": ["MII"]}, h.claims()),
    "a crit": lambda h: header_of(h.issue(), crit=["exp"], exp=1),
    "signed by a stranger under our key's name": signed_by_a_stranger,
    "an unknown kid": lambda h: header_of(h.issue(), kid="unknown"),
    "no kid": lambda h: header_of(h.issue(), kid=None),
    "kid is a path": lambda h: header_of(h.issue(), kid="../../dev/null"),
    "typ JWT": lambda h: h.sign({"typ": "JWT"}, h.claims()),
    "no typ": lambda h: header_of(h.issue(), typ=None),
    "not valid yet": lambda h: h.sign({}, h.claims(iat=h.clock.time() + 60)),
    "run out": lambda h: h.sign({}, h.claims(exp=h.clock.time() - 1)),
    "another issuer": lambda h: h.sign({}, h.claims(iss="https://evil.example")),
    "another audience": lambda h: h.sign({}, h.claims(aud="https://other.example")),
    "no audience": lambda h: h.sign({}, h.claims(aud=None)),
    "no sub": lambda h: h.sign({}, h.claims(sub=None)),
    "an empty sub": lambda h: h.sign({}, h.claims(sub="")),
    "no exp": lambda h: h.sign({}, h.claims(exp=None)),
    "exp is text": lambda h: h.sign({}, h.claims(exp="9999999999")),
    "exp is infinite": lambda h: h.sign({}, h.claims().replace(b'"exp"', b'"exp": Infinity, "x"')),
    "sid is no id": lambda h: h.sign({}, h.claims(sid="../x")),
    "a member twice": lambda h: h.sign({}, h.claims().replace(b'"sub"', b'"sub": "admin", "sub"')),
    "claims are no object": lambda h: h.sign({}, b'["sub"]'),
    "claims are no JSON": lambda h: h.sign({}, b"\xff\xfe"),
    "deep nesting": lambda h: h.sign({}, b"[" * 3000 + b"]" * 3000),
    "padding": lambda h: h.issue() + "=",
    "white space": lambda h: h.issue() + "\n",
    "changed spare bits": lambda h: respelled(h.issue()),
    "four segments": lambda h: h.issue() + ".x",
    "two segments": lambda h: h.issue().rpartition(".")[0],
    "an empty signature": lambda h: h.issue().rpartition(".")[0] + ".",
    "1 MB": lambda h: h.issue() + "A" * 1_000_000,
    "nothing": lambda h: "",
    "not ASCII": lambda h: "é.é.é",
    "a session token": lambda h: encode(b"0" * 16) + "." + encode(b"0" * 32),
    "a JWE": lambda h: "e30.e30.e30.e30.e30",
    "JSON serialisation": lambda h: '{"payload":"e30","signatures":[]}',
}


def respelled(token: str) -> str:
    """The last character of an ES256 signature carries two bits: other characters spell the same bytes."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(token[-1])
    return token[:-1] + alphabet[last ^ 1]


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_is_refused(house: House, forgery: str) -> None:
    forged = FORGERIES[forgery](house)
    with pytest.raises(TokenRefused) as refused:
        house.tokens.verify(forged)
    assert len(str(refused.value)) < 200
    assert forged[:40] not in str(refused.value) or not forged
    house.tokens.verify(house.issue())


def test_no_bit_of_a_token_can_be_changed(house: House) -> None:
    token = house.issue()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for at in range(0, len(token), 3):
        if token[at] == ".":
            continue
        flipped = alphabet[alphabet.index(token[at]) ^ 1]
        with pytest.raises(TokenRefused):
            house.tokens.verify(token[:at] + flipped + token[at + 1 :])


def test_rfc_7515_appendix_a_3_verifies_with_our_library_and_is_no_token_of_ours(house: House) -> None:
    # RFC 7515, appendix A.3: ES256
    token = (
        "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
        ".DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    )
    key = ECKey.import_key(
        {
            "kty": "EC",
            "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        }
    )
    assert b'"joe"' in jws.deserialize_compact(token, key, algorithms=["ES256"]).payload
    with pytest.raises(TokenRefused):
        house.tokens.verify(token)


def test_lifetimes_that_the_keys_do_not_cover_are_refused() -> None:
    with pytest.raises(ValueError, match="token_lifetime"):
        AccessTokens(KeyRing(clock=ManualClock()), issuer=ISSUER, audience=ISSUER, lifetime=301)
