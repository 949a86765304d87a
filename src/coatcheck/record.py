"""What a store keeps of one session, what may change in it, and how a change merges. Pure; leaves storing to `stores`.

Only the reader decides whether a record has expired, from the record and the clock: a store that deletes late does no harm.
"""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

__all__ = [
    "FORMAT",
    "TOMBSTONE_SECONDS",
    "Changes",
    "Identity",
    "SessionRecord",
    "Tombstone",
    "decode_record",
    "encode_record",
    "merge",
]

FORMAT = 1
"""The version of the stored form. Release N reads what N-1 wrote and writes what N-1 can read."""

TOMBSTONE_SECONDS = 60.0
"""For so long a replaced or ended token is known as such: its requests are anonymous and never touch the cookie."""

_KEPT_HASHES = 8

_EMPTY: Mapping[str, bytes] = MappingProxyType({})
_NO_TEXT: Mapping[str, str] = MappingProxyType({})


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One session as stored. All times are seconds since 1970 UTC; `values` holds msgpack, key by key.

    `generation` rises with each change of the secret, `version` with each change of any kind. `replaced` lists the
    hashes of secrets that were exchanged lately and when. `epoch` is the user's at login: the record is valid only
    while the user's epoch is the same. `about` is what was seen of the client (user agent, address, …).
    """

    id: str
    secret_hash: bytes
    created_at: float
    expires_at: float
    last_seen_at: float
    generation: int = 1
    version: int = 1
    user_id: str | None = None
    epoch: int = 0
    authenticated_at: float | None = None
    remember: bool = False
    values: Mapping[str, bytes] = _EMPTY
    system: Mapping[str, bytes] = _EMPTY
    about: Mapping[str, str] = _NO_TEXT
    replaced: tuple[tuple[bytes, float], ...] = ()


class Tombstone(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is left of an ended session for `TOMBSTONE_SECONDS`: enough to know its token, and why it ended."""

    id: str
    ended_at: float
    reason: str
    hashes: tuple[bytes, ...] = ()


class Identity(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A change of secret and, with it, of who the session belongs to. Goes into effect as one step."""

    secret_hash: bytes
    at: float
    user_id: str | None = None
    epoch: int = 0
    authenticated_at: float | None = None
    expires_at: float
    about: Mapping[str, str] = _NO_TEXT
    clear_values: bool = False


class Changes(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one request changed: keys set and deleted, and at most one change of identity.

    `clear_values` of an identity takes effect before `set` and `delete` do, and clears the system section as well.
    `system` replaces that section whole: expect a version with it. `about` is merged text by text, after an identity's;
    an empty text removes.
    """

    set: Mapping[str, bytes] = _EMPTY
    delete: frozenset[str] = frozenset()
    identity: Identity | None = None
    remember: bool | None = None
    system: Mapping[str, bytes] | None = None
    about: Mapping[str, str] = _NO_TEXT

    def __bool__(self) -> bool:
        return bool(
            self.set
            or self.delete
            or self.about
            or self.identity is not None
            or self.remember is not None
            or self.system is not None
        )


def merge(record: SessionRecord, changes: Changes) -> SessionRecord:
    """Give the record after the changes: key by key, so that changes to other keys stand."""
    identity = changes.identity
    values = {} if identity is not None and identity.clear_values else dict(record.values)
    for key in changes.delete:
        values.pop(key, None)
    values.update(changes.set)
    record = msgspec.structs.replace(
        record,
        version=record.version + 1,
        values=values,
        remember=record.remember if changes.remember is None else changes.remember,
        system=_EMPTY if identity is not None and identity.clear_values else record.system,
    )
    if changes.system is not None:
        record = msgspec.structs.replace(record, system=changes.system)
    about = record.about if identity is None else identity.about
    if changes.about:
        about = {name: text for name, text in {**about, **changes.about}.items() if text}
    if identity is None:
        return msgspec.structs.replace(record, about=about)
    recent = [(old, at) for old, at in record.replaced if identity.at - at < TOMBSTONE_SECONDS]
    return msgspec.structs.replace(
        record,
        generation=record.generation + 1,
        secret_hash=identity.secret_hash,
        replaced=(*recent, (record.secret_hash, identity.at))[-_KEPT_HASHES:],
        user_id=identity.user_id,
        epoch=identity.epoch,
        authenticated_at=identity.authenticated_at,
        expires_at=identity.expires_at,
        about=about,
    )


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    """The stored form: short names, and fields that a later release adds are passed over."""

    f: int
    h: bytes
    c: float
    x: float
    g: int
    u: str | None = None
    e: int = 0
    a: float | None = None
    r: bool = False
    v: dict[str, bytes] = {}
    s: dict[str, bytes] = {}
    b: dict[str, str] = {}
    o: list[tuple[bytes, float]] = []


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Stored)


def encode_record(record: SessionRecord) -> bytes:
    """Give the stored form of a record, without what a store keeps beside it: id, version and last-seen time."""
    return _encoder.encode(
        _Stored(
            f=FORMAT,
            h=record.secret_hash,
            c=record.created_at,
            x=record.expires_at,
            g=record.generation,
            u=record.user_id,
            e=record.epoch,
            a=record.authenticated_at,
            r=record.remember,
            v=dict(record.values),
            s=dict(record.system),
            b=dict(record.about),
            o=list(record.replaced),
        )
    )


def decode_record(data: bytes, *, id: str, version: int, last_seen_at: float) -> SessionRecord:
    """Read the stored form. Raises ValueError for what is not one, or is from a release too new to be read."""
    try:
        stored = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"the stored session {id} cannot be read: {error}") from error
    if stored.f > FORMAT:
        raise ValueError(f"the stored session {id} has format {stored.f} and this release reads up to {FORMAT}")
    return SessionRecord(
        id=id,
        secret_hash=stored.h,
        created_at=stored.c,
        expires_at=stored.x,
        last_seen_at=last_seen_at,
        generation=stored.g,
        version=version,
        user_id=stored.u,
        epoch=stored.e,
        authenticated_at=stored.a,
        remember=stored.r,
        # An empty dict takes 64 bytes, and there are as many records as a cache may hold.
        values=stored.v or _EMPTY,
        system=stored.s or _EMPTY,
        about=stored.b or _NO_TEXT,
        replaced=tuple(stored.o),
    )
