"""The stored form of records as other releases have it, written out once more and never changed with `coatcheck.record`.

`first` is format 1 as it was when it was new. `coming` is what a next release may write and this one must be able to read: the
same with a field more, which this release passes over.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from coatcheck.record import SessionRecord
from coatcheck.stores import _postgres_steps, _redis_values, _sqlite_steps

__all__ = ["FORMATS", "coming", "decode_first", "encode_first", "speak"]


def encode_first(record: SessionRecord) -> bytes:
    """Give what format 1 makes of a record: a map of short names, all of them there."""
    return msgspec.msgpack.encode(_fields(record))


def _fields(record: SessionRecord) -> dict[str, Any]:
    return {
        "f": 1,
        "h": record.secret_hash,
        "c": record.created_at,
        "x": record.expires_at,
        "g": record.generation,
        "u": record.user_id,
        "e": record.epoch,
        "a": record.authenticated_at,
        "r": record.remember,
        "v": dict(record.values),
        "s": dict(record.system),
        "b": dict(record.about),
        "o": list(record.replaced),
    }


def decode_first(data: bytes, *, id: str, version: int, last_seen_at: float) -> SessionRecord:
    """Read format 1 as its first release did: a higher one is refused, fields that it does not know are passed over."""
    found: dict[str, Any] = msgspec.msgpack.decode(data)
    if found["f"] > 1:
        raise ValueError(f"the stored session {id} has format {found['f']} and this release reads up to 1")
    return SessionRecord(
        id=id,
        secret_hash=found["h"],
        created_at=found["c"],
        expires_at=found["x"],
        last_seen_at=last_seen_at,
        generation=found["g"],
        version=version,
        user_id=found.get("u"),
        epoch=found.get("e", 0),
        authenticated_at=found.get("a"),
        remember=found.get("r", False),
        values=found.get("v", {}),
        system=found.get("s", {}),
        about=found.get("b", {}),
        replaced=tuple((old, at) for old, at in found.get("o", ())),
    )


def coming(record: SessionRecord) -> bytes:
    """Give what a next release may write, with something of its own in it."""
    return msgspec.msgpack.encode({**_fields(record), "coming": {"what": ["this", "release"], "knows": None}})


FORMATS: dict[str, Callable[[SessionRecord], bytes]] = {"first": encode_first, "coming": coming}


def speak(name: str) -> None:
    """Have every store of this process write that format, and read as that release does, from now on."""
    for module in (_sqlite_steps, _redis_values, _postgres_steps):
        assert callable(module.encode_record) and callable(module.decode_record)
        module.encode_record = FORMATS[name]  # pyright: ignore[reportAttributeAccessIssue]
        module.decode_record = decode_first  # pyright: ignore[reportAttributeAccessIssue]
