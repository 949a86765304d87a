"""What one Redis server tells of its keys by itself (client tracking), and the proof that it still does.

Two connections: one that subscribes to `__redis__:invalidate`, and one that has invalidations redirected to it. If the
second one goes, the first one still answers PING and is told nothing. So the only proof is a probe: a key that the second
one writes, whose invalidation the first one must bring back. Leaves what is told, and what follows from it, to `_redis_feed`.
"""

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, cast

from redis.exceptions import RedisError

from coatcheck.stores._redis_keys import Keys, News
from coatcheck.stores._redis_server import Address, Command, Connecting, Wire, drop, pack

__all__ = ["Tracker"]

_CHANNEL = "__redis__:invalidate"


class Tracker:
    """One primary's tracking. `take` is called with the news of each message, or None where everything was deleted."""

    def __init__(
        self,
        address: Address,
        connect: Connecting,
        keys: Keys,
        take: Callable[[list[News] | None], None],
        on_lost: Callable[[], None],
        timeout: float,
    ) -> None:
        self.address: Address = address
        self._connect = connect
        self._keys = keys
        self._take = take
        self._on_lost = on_lost
        self._timeout = timeout
        # New for each pair of connections: what an earlier pair still has on its way is no answer to this one's probes.
        self._node = secrets.token_hex(8)
        self._probes = 0
        self._awaited: tuple[str, asyncio.Future[None]] | None = None
        self._told: Wire | None = None
        self._redirecting: Wire | None = None
        self._listening: asyncio.Task[None] | None = None
        self.lost: bool = False
        """Whether nothing more will be told. `on_lost` is called when that is so."""

    async def open(self) -> None:
        """Begin: whatever happens after this returned is told. Raises RedisError, OSError, TimeoutError."""
        async with asyncio.timeout(2 * self._timeout):
            self._told = await self._connect(self.address)
            # Asked before it subscribes: a connection that is subscribed answers hardly anything any more.
            number = await _ask(self._told, "CLIENT", "ID")
            await _ask(self._told, "CLIENT", "SETNAME", "coatcheck-told")
            await _ask(self._told, "SUBSCRIBE", _CHANNEL)
            self._redirecting = await self._connect(self.address)
            await _ask(self._redirecting, "CLIENT", "SETNAME", "coatcheck-tracking")
            prefixes = [part for prefix in self._keys.tracked(self._node) for part in ("PREFIX", prefix)]
            # Own writes are told too. With NOLOOP, which of two changes in one turn is left out would be chance.
            await _ask(self._redirecting, "CLIENT", "TRACKING", "ON", "REDIRECT", int(number), "BCAST", *prefixes)
        self._listening = asyncio.create_task(self._listen(self._told), name="coatcheck redis invalidations")

    async def _listen(self, told: Wire) -> None:
        try:
            while True:
                message = await told.read_response()
                if isinstance(message, list) and message[0] == b"message":
                    self._hear(message[2])
        except (RedisError, OSError):
            pass
        finally:
            self.lost = True
            if self._awaited is not None and not self._awaited[1].done():
                self._awaited[1].set_exception(_closed())
                self._awaited[1].exception()  # looked at: perhaps nobody waits any more
            self._on_lost()

    def _hear(self, names: Any) -> None:
        if names is None:
            self._take(None)
            return
        news = [self._keys.read(name) for name in cast("list[bytes]", names if isinstance(names, list) else [names])]
        # First what has happened, then the probe: within one message, and so within one turn, both may be there.
        self._take([one for one in news if one.about != "watch"])
        for one in news:
            if one.about == "watch" and self._awaited is not None and one.rest == self._awaited[0]:
                awaited = self._awaited[1]
                if not awaited.done():
                    awaited.set_result(None)

    async def probe(self, slot_tag: str | None, *also: Command) -> list[Any]:
        """Write a probe and await its invalidation; give the answers to what else was asked, after the probe.

        When it returns, all that was acknowledged to anyone before it was called has been taken. Without a slot there
        is nothing that could be changed, and only the connection is tried. Raises RedisError, OSError, TimeoutError.
        """
        assert self._redirecting is not None
        self._probes += 1
        probe = str(self._probes)
        back: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited = probe, back
        first: Command = ("PING",)
        if slot_tag is not None:
            first = ("SET", f"{self._keys.watch(self._node, slot_tag)}{probe}", "", "PX", 10_000)
        else:
            back.set_result(None)
        if self.lost:
            raise _closed()
        async with asyncio.timeout(self._timeout):
            await self._redirecting.send_packed_command(b"".join(map(pack, (first, *also))), check_health=False)
            replies = [await self._redirecting.read_response() for _ in (first, *also)]
            await back
        return replies[1:]

    async def close(self) -> None:
        """Stop, and let go of both connections. May be called twice."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        for wire in (self._told, self._redirecting):
            if wire is not None:
                await drop(wire)


def _closed() -> ConnectionError:
    return ConnectionError("the server closed the connection on which it tells of changes")


async def _ask(wire: Wire, *command: str | int) -> Any:
    await wire.send_packed_command(pack(command), check_health=False)
    return await wire.read_response()
