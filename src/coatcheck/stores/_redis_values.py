"""What the Redis store's keys hold: records, tombstones and epochs as text. Pure; leaves the record's own form to `record`.

    record      r:<version>:<generation>:<length of hashes>:<hashes><record>
    tombstone   t:<ended at>:<reason>:<hashes>
    epoch       <epoch>   or   <epoch> <floor> <id of the session that was kept>

What stands before the last colon is all that scripts look at, so that none has to know a record's form.
"""

from urllib.parse import quote, unquote

import msgspec

from coatcheck.record import SessionRecord, Tombstone, decode_record, encode_record

__all__ = ["Epoch", "head_of", "pack_record", "quoted", "unpack", "version_of"]

_hashes_decoder = msgspec.msgpack.Decoder(tuple[bytes, ...])


def head_of(record: SessionRecord) -> str:
    """Give what the stored form of exactly this version begins with."""
    return f"r:{record.version}:{record.generation}:"


def pack_record(record: SessionRecord) -> bytes:
    """Give a record's stored form, without its id and last-seen time."""
    hashes = msgspec.msgpack.encode((record.secret_hash, *(old for old, _ in record.replaced)))
    return b"%b%d:%b%b" % (head_of(record).encode(), len(hashes), hashes, encode_record(record))


def unpack(value: bytes, *, id: str, last_seen_at: float) -> SessionRecord | Tombstone:
    """Read a stored form. Raises ValueError for what is not one."""
    try:
        if value.startswith(b"t:"):
            _, ended_at, reason, hashes = value.split(b":", 3)
            return Tombstone(
                id=id, ended_at=float(ended_at), reason=unquote(reason.decode()), hashes=_hashes_decoder.decode(hashes)
            )
        kind, version, generation, length, rest = value.split(b":", 4)
        if kind != b"r":
            raise ValueError("it begins with no sign that this release knows")
        record = decode_record(rest[int(length) :], id=id, version=int(version), last_seen_at=last_seen_at)
    except (ValueError, msgspec.MsgspecError) as error:
        text = str(error)
        raise ValueError(
            text if "cannot be read" in text else f"the stored session {id} cannot be read: {text}"
        ) from error
    if record.generation != int(generation):
        return msgspec.structs.replace(record, generation=int(generation))
    return record


def version_of(head: bytes) -> int:
    """Give the version in a stored form's first bytes; 0 for what is no record."""
    parts = head.split(b":", 2)
    return int(parts[1]) if parts[0] == b"r" and len(parts) == 3 and parts[1].isdigit() else 0


def quoted(reason: str) -> str:
    """Give a reason as tombstones and notes hold it."""
    return quote(reason, safe=" ")


class Epoch(msgspec.Struct, frozen=True):
    """A user's epoch, and the one session that outlived its last rise, with the epoch from which on it may be."""

    text: str
    """As stored: whoever writes on the strength of this has the script compare it."""
    number: int
    floor: int = 0
    kept: str = ""

    @classmethod
    def plain(cls, number: int) -> "Epoch":
        """Give the epoch of a user of whose sessions none was kept when the others ended."""
        return cls(str(number), number)

    @classmethod
    def read(cls, value: bytes | None) -> "Epoch | None":
        """Read the stored form; None for a user without an epoch. What cannot be read is no epoch either."""
        if value is None:
            return None
        text = value.decode(errors="replace")
        number, _, rest = text.partition(" ")
        floor, _, kept = rest.partition(" ")
        if not number.isdigit() or (rest and not floor.isdigit()):
            return None
        return cls(text, int(number), int(floor or 0), kept)

    def allows(self, record: SessionRecord) -> bool:
        """Tell whether a record of this user is valid."""
        if record.epoch == self.number:
            return True
        return record.id == self.kept and self.floor <= record.epoch < self.number
