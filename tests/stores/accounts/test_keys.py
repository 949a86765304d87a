"""A ring of signing keys in the accounts' database: shared by machines, and worth nothing without the master secret."""

import sqlite3
import threading
from pathlib import Path

import pytest

from coatcheck.accounts.keys import DatabaseKeys
from coatcheck.errors import StoreUnavailable, UsageError
from coatcheck.sealed import new_key
from coatcheck.testing import ManualClock
from coatcheck.tokens import KeyRing, KeyState
from coatcheck.tokens.keys import SigningKey

MASTER = new_key()


def storage(path: Path, *secrets: bytes) -> DatabaseKeys:
    return DatabaseKeys(f"sqlite:///{path}", secrets or [MASTER])


def ring_on(path: Path, clock: ManualClock) -> KeyRing:
    return KeyRing(storage(path), clock=clock)


def sealed(path: Path) -> bytes:
    connection = sqlite3.connect(path)
    try:
        ((data,),) = connection.execute("SELECT sealed FROM coatcheck_signing_keys").fetchall()
        return bytes(data)
    finally:
        connection.close()


def test_one_machine_sees_at_its_next_look_what_another_has_done(path: Path) -> None:
    clock = ManualClock()
    here, there = ring_on(path, clock), ring_on(path, clock)
    here.maintain()
    there.maintain()
    (first,) = here.list()
    assert there.list() == [first]
    rotated = there.rotate()
    assert [state for _, state in here.list()] == [KeyState.SIGNING, KeyState.ANNOUNCED]
    clock.advance(601)
    assert here.signing()[0].kid == rotated.kid
    here.retire(rotated.kid)
    clock.advance(2)
    assert there.verifying(rotated.kid) is None


def test_machines_that_change_the_ring_at_once_lose_nothing(path: Path) -> None:
    clock = ManualClock()
    rings = [ring_on(path, clock) for _ in range(3)]
    rings[0].maintain()
    start = threading.Barrier(len(rings))

    def rotate(ring: KeyRing) -> None:
        start.wait(30)
        ring.rotate()

    threads = [threading.Thread(target=rotate, args=(ring,)) for ring in rings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [len(ring.list()) for ring in rings] == [4, 4, 4]


def test_the_first_of_two_that_begin_at_once_makes_the_ring(path: Path) -> None:
    late, early = storage(path), storage(path)
    asked: list[int] = []

    def change(keys: list[SigningKey]) -> list[SigningKey]:
        asked.append(len(keys))
        if len(asked) == 1:
            ring = KeyRing(early)
            ring.maintain()
        return keys

    assert len(late.update(change)) == 1
    assert asked == [0, 1]
    assert late.version() == early.version() == 2


def test_a_ring_that_everybody_changes_all_the_time_is_tried_again_later(path: Path) -> None:
    mine, others = storage(path), storage(path)

    def change(keys: list[SigningKey]) -> list[SigningKey]:
        others.update(lambda found: found)
        return keys

    with pytest.raises(StoreUnavailable, match="too many"):
        mine.update(change)


def test_the_file_holds_no_key_and_opens_under_no_other_secret(path: Path) -> None:
    ring = ring_on(path, ManualClock())
    ring.maintain()
    ((key, _),) = ring.list()
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0
        data = file.read_bytes()
        assert key.jwk["d"].encode() not in data
        assert key.kid.encode() not in data
    for secret in (new_key(), MASTER[:-1] + bytes([MASTER[-1] ^ 1])):
        with pytest.raises(UsageError, match="do not open under this master secret"):
            storage(path, secret).load()


@pytest.mark.parametrize("at", [0, 12, -1])
def test_a_ring_that_was_tampered_with_is_refused_and_never_replaced(path: Path, at: int) -> None:
    ring_on(path, ManualClock()).maintain()
    data = bytearray(sealed(path))
    data[at] ^= 1
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE coatcheck_signing_keys SET sealed = ?", (bytes(data),))
    connection.close()
    with pytest.raises(UsageError, match="do not open"):
        ring_on(path, ManualClock()).maintain()
    assert sealed(path) == bytes(data)


def test_the_master_secret_can_be_changed(path: Path) -> None:
    ring_on(path, ManualClock()).maintain()
    new = new_key()
    both = KeyRing(storage(path, new, MASTER), clock=ManualClock())
    ((key, _),) = both.list()
    assert [kept.kid for kept in storage(path, MASTER).load()] == [key.kid]
    made = both.rotate()
    assert [kept.kid for kept in storage(path, new).load()] == [key.kid, made.kid]
    with pytest.raises(UsageError, match="do not open"):
        storage(path, MASTER).load()


def test_without_a_master_secret_there_is_no_storage(path: Path) -> None:
    with pytest.raises(UsageError, match="need a master secret"):
        DatabaseKeys(f"sqlite:///{path}", [])
    assert not path.exists()


def test_a_database_that_cannot_be_asked_is_no_empty_ring(path: Path) -> None:
    kept = storage(path)
    assert (kept.version(), kept.load()) == (None, [])
    kept.close()
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE coatcheck_signing_keys")
    connection.close()
    for ask in (kept.version, kept.load, lambda: kept.update(lambda keys: keys)):
        with pytest.raises(StoreUnavailable, match="cannot be asked"):
            ask()
    kept.close()
    path.unlink()
    for file in list(path.parent.iterdir()):
        file.unlink()
    path.mkdir()
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        storage(path).load()
