"""Counts per connection, shared by all workers without a lock: each writes its own region of one file and reads all.

A region is a set-associative table like a processor's cache: a key may stand in the few slots of its bucket, and
the stalest of them makes way. So memory is bounded, and only counts of connections long silent are ever forgotten.
Leaves what is counted to its caller.
"""

import mmap
import os
from hashlib import blake2b
from pathlib import Path
from time import monotonic

__all__ = ["ConnectionTable"]

_WAYS = 8
_BUCKETS = 1024
_WORDS = _BUCKETS * _WAYS * 2  # a slot is two words: the key, and count << 32 | second of last use
_REGION_BYTES = _WORDS * 8
_LOW = 0xFFFF_FFFF


class ConnectionTable:
    """One worker's view: it alone writes `region`, and sums over every region."""

    __slots__ = ("_map", "_region", "_regions", "_words")

    def __init__(self, memory: mmap.mmap, region: int) -> None:
        self._map = memory
        # Words of native size are loaded and stored whole, which is what makes reading beside a writer safe.
        self._words = memoryview(memory).cast("Q")
        self._regions = len(memory) // _REGION_BYTES
        self._region = region

    @classmethod
    def alone(cls) -> "ConnectionTable":
        """A table for one process, in memory."""
        return cls(mmap.mmap(-1, _REGION_BYTES), 0)

    @staticmethod
    def create(path: Path, regions: int) -> None:
        """Make the file that `open` opens, for `regions` writers; readable by its owner only."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.truncate(descriptor, regions * _REGION_BYTES)
        finally:
            os.close(descriptor)

    @classmethod
    def open(cls, path: Path, region: int) -> "ConnectionTable":
        """The table in `path`, to write in `region`; no other living process may write there."""
        with path.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
        if not 0 <= region < len(memory) // _REGION_BYTES:
            raise ValueError(f"{path} has no region {region}")
        return cls(memory, region)

    @staticmethod
    def key(connection_id: str) -> int:
        """The number under which a connection is counted, the same in every process; never 0."""
        return int.from_bytes(blake2b(connection_id.encode(), digest_size=8).digest(), "little") or 1

    def add(self, key: int) -> None:
        """Count one more under `key`, in this worker's region."""
        words = self._words
        now = int(monotonic()) & _LOW
        first = self._region * _WORDS + (key % _BUCKETS) * _WAYS * 2
        stalest, oldest = first, -1
        for at in range(first, first + _WAYS * 2, 2):
            held = words[at]
            if held == key:
                words[at + 1] = min((words[at + 1] >> 32) + 1, _LOW) << 32 | now
                return
            if held == 0:
                stalest = at
                break
            age = (now - words[at + 1]) & _LOW
            if age > oldest:
                stalest, oldest = at, age
        # A reader in between sees a count of nothing, never another connection's count.
        words[stalest + 1] = 0
        words[stalest] = key
        words[stalest + 1] = 1 << 32 | now

    def total(self, key: int) -> int:
        """How many were counted under `key` by all workers and not forgotten."""
        words = self._words
        total = 0
        bucket = (key % _BUCKETS) * _WAYS * 2
        for region in range(self._regions):
            first = region * _WORDS + bucket
            for at in range(first, first + _WAYS * 2, 2):
                if words[at] == key:
                    count = words[at + 1] >> 32
                    if words[at] == key:
                        total += count
                    break
        return total

    def close(self) -> None:
        """Let go of the memory; the table must not be used afterwards."""
        self._words.release()
        self._map.close()
