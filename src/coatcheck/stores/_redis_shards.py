"""A cluster as one of its nodes sees it: who takes writes, and for which slots. Reads `CLUSTER SHARDS`; asks nobody."""

import random
from collections.abc import Mapping
from typing import Any, Final

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from coatcheck.stores._redis_server import Address

__all__ = ["Shards"]


class Shards:
    """One node's view. `primaries` gives the slots of each, as pairs of first and last one.

    Primaries without slots are among them: while slots are being moved to one, it already answers for sessions. One
    without slots that has failed is not, nor one beside which another has its slots: they were taken over, and nobody who
    sees that asks it any more.
    """

    COMMAND: Final = ("CLUSTER", "SHARDS")

    def __init__(self, primaries: Mapping[Address, tuple[tuple[int, int], ...]]) -> None:
        self.primaries = primaries
        self._owners: list[Address | None] = []
        self._holders: set[Address | None] = set()
        self._tags: dict[Address, str] = {}

    @classmethod
    def read(cls, reply: Any, *, asked: Address, tls: bool) -> "Shards":
        """Read a node's answer. A node that does not know its own address goes by the one it was asked at."""
        return cls(dict(_primaries(reply, asked, tls)))

    def owner(self, slot: int) -> Address | None:
        """Give who has a slot. Where two say so, it is one of them, and always the same."""
        if not self._owners:
            self._owners = [None] * REDIS_CLUSTER_HASH_SLOTS
            for address, ranges in self.primaries.items():
                for first, last in ranges:
                    self._owners[first : last + 1] = [address] * (last + 1 - first)
            self._holders = set(self._owners)
        return self._owners[slot]

    def tag_for(self, address: Address) -> str | None:
        """Give a text that, in braces, puts a key into one of a primary's slots; None where it has none.

        Not always the same: while a slot is on its way to another primary, nothing new can be put into it.
        """
        self.owner(0)
        if address not in self._holders:
            return None  # of those that two claim it may have none
        tag = self._tags.get(address)
        if tag is None:
            number = random.randrange(1_000_000)  # noqa: S311 - nothing secret about it
            while self.owner(key_slot(b"%d" % number)) != address:
                number += 1
            tag = self._tags[address] = str(number)
        return tag


def _primaries(reply: Any, asked: Address, tls: bool) -> list[tuple[Address, tuple[tuple[int, int], ...]]]:
    found: list[tuple[Address, tuple[tuple[int, int], ...]]] = []
    for shard in reply:
        fields = _fields(shard)
        numbers = [int(number) for number in fields[b"slots"]]
        ranges = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        masters = [node for node in map(_fields, fields[b"nodes"]) if node[b"role"] == b"master"]
        # While a replica takes over, Valkey lists it beside the one that has failed, with the same slots.
        taken_over = not ranges or any(node[b"health"] != b"fail" for node in masters)
        for node in masters:
            if taken_over and node[b"health"] == b"fail":
                continue
            host = (node.get(b"endpoint") or b"").decode()
            if host in ("", "?"):
                host = (node.get(b"ip") or b"").decode() or asked[0]
            port = node.get(b"tls-port") if tls else None
            found.append(((host, int(port or node.get(b"port") or 0)), ranges))
    return found


def _fields(flat: Any) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
