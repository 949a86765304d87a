"""What followers of a user's activity are told, and the opaque ids of places in it. Pure; leaves the telling to `following`."""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import TypeAlias

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from coatcheck.accounts.activity import Kind

__all__ = ["Begin", "Happening", "Heartbeat", "Kind", "Places", "Reset", "Told"]


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to one of the user's sessions, at `at` (seconds since 1970) by the clock of the node that saw it."""

    id: str
    kind: Kind
    at: float
    session_id: str
    detail: Mapping[str, str]
    """Fit to be shown. Of `created` and `reauthenticated`: `address`, `user_agent`, `method`, `kind`; of `ended`: `reason`;
    of `renamed`: `name`; of `opened` and `closed`: `connection`, `transport`, `protocol`. What is not known is left out."""


class Begin(msgspec.Struct, frozen=True, kw_only=True):
    """From here on everything is told."""

    id: str


class Reset(msgspec.Struct, frozen=True, kw_only=True):
    """What happened since the place that was asked for cannot be told: look everything up. From here on it is told."""

    id: str


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing else has happened. Its id is the one to resume from."""

    id: str


Told: TypeAlias = Begin | Reset | Happening | Heartbeat


class Places:
    """Numbers of the log as clients see them: one block of AES each, of a digest of the user and the number.

    So nobody reads from an id how much others do, and an id is a place for one user only. It gives no access to anything.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = Cipher(AES(key), ECB())  # noqa: S305  one block, never two alike

    def seal(self, user_id: str, number: int) -> str:
        """Give the id of a place."""
        encryptor = self._cipher.encryptor()
        block = encryptor.update(_whose(user_id) + number.to_bytes(8, "big")) + encryptor.finalize()
        return urlsafe_b64encode(block)[:22].decode("ascii")

    def open(self, user_id: str, id: str) -> int | None:
        """Give the number, or None for what is no id of this user's."""
        try:
            block = urlsafe_b64decode(f"{id}==".encode("ascii")) if len(id) == 22 else b""
        except ValueError:
            return None
        if len(block) != 16:
            return None
        decryptor = self._cipher.decryptor()
        plain = decryptor.update(block) + decryptor.finalize()
        return int.from_bytes(plain[8:], "big") if plain[:8] == _whose(user_id) else None


def _whose(user_id: str) -> bytes:
    return hashlib.sha256(user_id.encode()).digest()[:8]
