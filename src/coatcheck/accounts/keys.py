"""Keeps a ring of signing keys in the accounts' database, for several machines, sealed so that the database is not enough.

Leaves the keys to `coatcheck.tokens`, the way to the database to `keys_row`, and where the master secret comes from to the
server.
"""

import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import ColumnElement, Connection, insert, select, update

from coatcheck.accounts.database import Conflict, Place, place_of
from coatcheck.accounts.keys_row import KeysRow, row_in
from coatcheck.accounts.tables import signing_keys
from coatcheck.errors import StoreUnavailable, UsageError
from coatcheck.tokens.key_file import decode_ring, encode_ring
from coatcheck.tokens.keys import Change, SigningKey

__all__ = ["DatabaseKeys"]

_RING = "access tokens"
_PURPOSE = b"coatcheck signing keys"
_NONCE_BYTES = 12
_ATTEMPTS = 20


class DatabaseKeys:
    """A `KeyStorage` in one row, which is exchanged only by whoever has read what it replaces.

    `master_secrets` are of 32 random bytes or more each. The first one seals, all of them open: to change it, put a new one
    first, and drop the old one after the next rotation. Every method raises StoreUnavailable where the database cannot be
    asked. Use it from any thread.
    """

    def __init__(self, url: str, master_secrets: Sequence[bytes]) -> None:
        self._place: Place = place_of(url)
        if not master_secrets:
            raise UsageError("signing keys in the database need a master secret")
        self._ciphers = [AESGCM(_key(secret)) for secret in master_secrets]
        self._row: KeysRow = row_in(self._place)

    def version(self) -> object:
        """A number that rises with each change; None where nothing is kept yet. PostgreSQL's may be a moment old."""
        return self._row.glance(lambda connection: connection.scalar(select(signing_keys.c.version).where(_ours())))

    def load(self) -> list[SigningKey]:
        """Read the ring. Raises UsageError where it does not open under any of the master secrets."""
        return self._row.run(self._read)[1]

    def update(self, change: Change) -> list[SigningKey]:
        """Change the ring. `change` may be called several times."""
        for _ in range(_ATTEMPTS):
            try:
                kept = self._row.run(lambda connection: self._exchange(connection, change))
            except Conflict:
                continue
            if kept is not None:
                return kept
        raise StoreUnavailable("the signing keys are being changed by too many at once: try again")

    def _exchange(self, connection: Connection, change: Change) -> list[SigningKey] | None:
        version, keys = self._read(connection)
        kept = change(keys)
        values = {"version": (version or 0) + 1, "sealed": self._seal(encode_ring(kept))}
        if version is None:
            connection.execute(insert(signing_keys).values(ring=_RING, **values))
            return kept
        statement = update(signing_keys).where(_ours(), signing_keys.c.version == version).values(values)
        return kept if connection.execute(statement).rowcount else None

    def _read(self, connection: Connection) -> tuple[int | None, list[SigningKey]]:
        row = connection.execute(select(signing_keys.c.version, signing_keys.c.sealed).where(_ours())).first()
        if row is None:
            return None, []
        return row.version, decode_ring(self._open(row.sealed), self._where())

    def _seal(self, plain: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._ciphers[0].encrypt(nonce, plain, _PURPOSE)

    def _open(self, sealed: bytes) -> bytes:
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _PURPOSE)
            except (InvalidTag, ValueError):
                continue
        raise UsageError(
            f"the signing keys in {self._where()} do not open under this master secret: give the one that they were sealed "
            "with, behind the new one if there is a new one"
        )

    def _where(self) -> str:
        return self._place.where

    def close(self) -> None:
        """Close every connection; the next use opens them again."""
        self._row.close()


def _ours() -> ColumnElement[bool]:
    return signing_keys.c.ring == _RING


def _key(master_secret: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(master_secret)
