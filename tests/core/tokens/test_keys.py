"""A key's life: announced, signing, retired, gone; agreed on by every process that reads the ring."""

import json
import stat
from pathlib import Path

import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey

from coatcheck import UsageError
from coatcheck.testing import ManualClock
from coatcheck.tokens import KeyRing, KeyState
from coatcheck.tokens.key_file import KeyFile
from coatcheck.tokens.keys import JWKS_MAX_AGE, MemoryKeys


def states(ring: KeyRing) -> list[KeyState]:
    return [state for _, state in ring.list()]


def test_the_first_key_signs_at_once() -> None:
    ring = KeyRing(clock=ManualClock())
    key, _ = ring.signing()
    assert states(ring) == [KeyState.SIGNING]
    assert key.alg == "ES256"
    assert ring.signing()[0] == key


def test_the_first_key_signs_at_once_by_a_clock_that_goes_on_meanwhile() -> None:
    ring = KeyRing()
    assert ring.signing() == ring.signing()


def test_a_new_key_is_announced_for_longer_than_a_jwks_may_be_kept_before_it_signs() -> None:
    clock = ManualClock()
    ring = KeyRing(clock=clock)
    old, _ = ring.signing()
    new = ring.rotate()
    assert states(ring) == [KeyState.SIGNING, KeyState.ANNOUNCED]
    assert {key["kid"] for key in ring.jwks()["keys"]} == {old.kid, new.kid}
    clock.advance(JWKS_MAX_AGE + 1)
    assert ring.signing()[0].kid == old.kid
    clock.advance(JWKS_MAX_AGE)
    assert ring.signing()[0].kid == new.kid
    assert states(ring) == [KeyState.RETIRED, KeyState.SIGNING]


def test_a_retired_key_verifies_until_its_last_token_has_run_out_and_is_then_forgotten() -> None:
    clock = ManualClock()
    ring = KeyRing(clock=clock, token_lifetime=300.0)
    old, _ = ring.signing()
    ring.rotate()
    clock.advance(2 * JWKS_MAX_AGE + 299)
    assert ring.verifying(old.kid) is not None
    clock.advance(62)
    assert ring.verifying(old.kid) is None
    assert old.kid not in {key["kid"] for key in ring.jwks()["keys"]}
    ring.maintain()
    assert [key.kid for key, _ in ring.list()] != [old.kid]
    assert len(ring.list()) == 1


def test_rotation_happens_by_itself_and_once_however_many_workers_look(tmp_path: Path) -> None:
    clock = ManualClock()
    rings = [KeyRing(KeyFile(tmp_path / "keys.json"), clock=clock, rotate_every=10_000.0) for _ in range(3)]
    for ring in rings:
        ring.maintain()
    first = rings[0].signing()[0].kid
    assert {ring.signing()[0].kid for ring in rings} == {first}
    clock.advance(10_000.0 - 2 * JWKS_MAX_AGE)
    for ring in rings:
        ring.maintain()
    assert [len(ring.list()) for ring in rings] == [2, 2, 2]
    clock.advance(2 * JWKS_MAX_AGE)
    assert len({ring.signing()[0].kid for ring in rings} - {first}) == 1


def test_another_process_sees_a_change_within_a_second(tmp_path: Path) -> None:
    clock = ManualClock()
    one, two = (KeyRing(KeyFile(tmp_path / "keys.json"), clock=clock) for _ in range(2))
    kid = one.signing()[0].kid
    assert two.verifying(kid) is not None
    seen = two.changes
    one.retire(kid)
    clock.advance(1.0)
    assert two.verifying(kid) is None
    assert two.changes > seen
    assert two.signing()[0].kid == one.signing()[0].kid != kid


def test_a_key_that_is_ended_at_once_verifies_nothing_more_and_another_signs() -> None:
    ring = KeyRing(clock=ManualClock())
    kid = ring.signing()[0].kid
    ring.retire(kid)
    assert ring.verifying(kid) is None
    assert ring.signing()[0].kid != kid
    with pytest.raises(UsageError, match="there is no key"):
        ring.retire("no such key")


def test_an_announced_key_takes_over_where_the_signing_one_is_ended() -> None:
    clock = ManualClock()
    ring = KeyRing(clock=clock)
    kid = ring.signing()[0].kid
    announced = ring.rotate()
    ring.retire(kid)
    assert ring.signing()[0].kid not in (kid, announced.kid), "nobody knows the announced one yet for sure"
    clock.advance(2 * JWKS_MAX_AGE)
    assert ring.signing()[0].kid == announced.kid


def test_a_ring_does_not_grow_without_end() -> None:
    ring = KeyRing(clock=ManualClock())
    ring.signing()
    for _ in range(15):
        ring.rotate()
    with pytest.raises(UsageError, match="wait until old ones are gone"):
        ring.rotate()


def test_ed25519_is_there_by_choice_and_by_its_new_name() -> None:
    ring = KeyRing(clock=ManualClock(), algorithm="Ed25519")
    key, private = ring.signing()
    assert key.alg == "Ed25519"
    assert isinstance(private, OKPKey)
    assert ring.jwks()["keys"][0]["alg"] == "Ed25519"
    with pytest.raises(UsageError, match="'HS256' is no algorithm"):
        KeyRing(algorithm="HS256")  # type: ignore[arg-type]


def test_what_is_published_holds_no_private_part() -> None:
    for algorithm in ("ES256", "Ed25519"):
        ring = KeyRing(clock=ManualClock(), algorithm=algorithm)  # type: ignore[arg-type]
        key, _ = ring.signing()
        published = json.dumps(ring.jwks())
        assert key.jwk["d"] not in published
        assert key.jwk["d"] not in repr(key)
        assert set(ring.jwks()["keys"][0]) <= {"kty", "crv", "x", "y", "kid", "alg", "use"}


def test_the_thumbprint_is_that_of_rfc_7638() -> None:
    # RFC 7638, section 3.1
    key = RSAKey.import_key(
        {
            "kty": "RSA",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjB"
            "ZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9"
            "c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44"
            "-csFCur-kEgU8awapJzKnqDKgw",
            "e": "AQAB",
        }
    )
    assert key.thumbprint() == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    ring = KeyRing(clock=ManualClock())
    found, private = ring.signing()
    assert found.kid == ECKey.import_key(private.as_dict(private=False)).thumbprint()


def test_the_file_is_its_owners_alone_and_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ring = KeyRing(KeyFile(path), clock=ManualClock())
    kid = ring.signing()[0].kid
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.with_suffix(".partial").exists()
    assert KeyRing(KeyFile(path), clock=ManualClock()).signing()[0].kid == kid
    path.with_suffix(".partial").write_text("what a crash left")
    ring.rotate()
    assert len(KeyFile(path).load()) == 2


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    KeyRing(KeyFile(path), clock=ManualClock()).signing()
    path.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        KeyRing(KeyFile(path), clock=ManualClock()).signing()


@pytest.mark.parametrize("content", ["", "not JSON", '{"format": 1}', '{"format": 1, "keys": [{"jwk": "s3cret"}]}'])
def test_a_damaged_file_is_refused_without_quoting_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.touch(0o600)
    path.write_text(content)
    with pytest.raises(UsageError, match="holds no signing keys") as refused:
        KeyRing(KeyFile(path), clock=ManualClock()).signing()
    assert "s3cret" not in str(refused.value)


def test_a_newer_releases_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.touch(0o600)
    path.write_text('{"format": 2, "keys": []}')
    with pytest.raises(UsageError, match="upgrade Coatcheck"):
        KeyRing(KeyFile(path), clock=ManualClock()).signing()


def test_a_key_that_was_exchanged_under_its_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ring = KeyRing(KeyFile(path), clock=ManualClock())
    ring.signing()
    other = KeyRing(MemoryKeys(), clock=ManualClock()).signing()[0]
    stored = json.loads(path.read_text())
    stored["keys"][0]["jwk"] = other.jwk
    path.write_text(json.dumps(stored))
    with pytest.raises(UsageError, match="thumbprint"):
        KeyRing(KeyFile(path), clock=ManualClock()).signing()


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises((UsageError, OSError), match="gone"):
        KeyRing(KeyFile(tmp_path / "gone" / "keys.json"), clock=ManualClock()).signing()


def test_a_rotation_that_leaves_no_time_to_announce_is_refused() -> None:
    with pytest.raises(UsageError, match="rotate_every"):
        KeyRing(rotate_every=60.0)
