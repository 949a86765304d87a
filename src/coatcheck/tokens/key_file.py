"""Keeps a ring of keys in one file of mode 0600, changed in one step by however many processes. Leaves the keys to `keys`."""

import fcntl
import os
import stat
from pathlib import Path

import msgspec

from coatcheck.errors import UsageError
from coatcheck.tokens.keys import Change, SigningKey

__all__ = ["KeyFile", "decode_ring", "encode_ring"]


class _Ring(msgspec.Struct, frozen=True):
    format: int
    keys: list[SigningKey]


def encode_ring(keys: list[SigningKey]) -> bytes:
    """Give the stored form of a ring. Secret."""
    return msgspec.json.encode(_Ring(1, keys))


def decode_ring(data: bytes, source: str) -> list[SigningKey]:
    """Read the stored form. Raises UsageError naming `source`, and nothing of what is in it."""
    try:
        ring = msgspec.json.decode(data, type=_Ring)
    except msgspec.MsgspecError:
        # The decoder's own words could quote a key.
        raise UsageError(f"{source} holds no signing keys: restore it from a backup, or remove it") from None
    if ring.format != 1:
        raise UsageError(f"{source} has format {ring.format}, and this release knows 1: upgrade Coatcheck")
    return ring.keys


class KeyFile:
    """The file is replaced, never written over: a reader sees the ring before or after a change, and a crash neither."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = Path(path)

    def version(self) -> object:
        """The file's identity; None where there is none."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def load(self) -> list[SigningKey]:
        """Read the ring. Raises UsageError where others may read the file, or it holds no ring."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UsageError(f"the signing keys in {self.path} cannot be read: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
                raise UsageError(f"others may read the signing keys in {self.path}: chmod 600, and rotate them")
            data = file.read()
        return decode_ring(data, str(self.path))

    def update(self, change: Change) -> list[SigningKey]:
        """Change the ring under a lock that all processes respect."""
        lock = -1
        try:
            lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = change(self.load())
            partial = self.path.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(encode_ring(keys))
                file.flush()
                os.fsync(descriptor)
            partial.replace(self.path)
            return keys
        except OSError as error:
            raise UsageError(f"the signing keys in {self.path} cannot be written: {error.strerror}") from error
        finally:
            if lock >= 0:
                os.close(lock)
