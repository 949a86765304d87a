"""From a key to the server that has it: one server, the one that Sentinels name, or a cluster's. Says what errors mean.

Promises that a command is sent again only where that does no harm: it was not carried out, or the caller said that twice
is as good as once. Leaves connections to `_redis_server`, and what the servers tell by themselves to `_redis_feed`.
"""

import asyncio
import random
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast

from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from coatcheck.errors import StoreUnavailable, UsageError
from coatcheck.stores._redis_server import Address, Command, Connecting, Server, Wire, connecting, drop, pack
from coatcheck.stores._redis_shards import Shards
from coatcheck.stores._redis_url import Options, Place

__all__ = ["ClusterLink", "Link", "SentinelLink", "at_start", "failure", "open_link"]

T = TypeVar("T")

_PAUSE = 0.02
_LOOK_SECONDS = 1.0

_NOT_DONE = (ReadOnlyError, ClusterDownError, TryAgainError, MovedError, AskError)
"""What a server answers to one command when it has not done it, and another one or a moment later may do it."""


class Link:
    """The way to one server whose address is known. Belongs to the event loop it was made on."""

    together = True
    """Whether all keys lie on one server, so that a script may look at any of them."""

    def __init__(self, place: Place, options: Options) -> None:
        self.place: Place = place
        self.options: Options = options
        self.connect: Connecting = connecting(place, options)
        self._servers: dict[Address, Server] = {}
        self._refreshing: asyncio.Future[None] | None = None

    async def primaries(self) -> list[Address]:
        """Give every server that takes writes, as found at the last refresh."""
        return [self.place.hosts[0]]

    async def refresh(self) -> None:
        """Find out anew which servers there are, once for all that ask at a time. Raises StoreUnavailable."""
        loop = asyncio.get_running_loop()
        if (under_way := self._refreshing) is not None:
            await asyncio.wait([under_way])
            return
        self._refreshing = done = loop.create_future()
        try:
            await self._refresh()
        except (RedisError, OSError, TimeoutError) as error:
            raise failure(self.place, error) from error
        finally:
            self._refreshing = None
            done.set_result(None)

    async def _refresh(self) -> None:
        pass

    async def renew(self) -> None:
        """Find out anew, and use no old connection again: they may lead to what was the primary once.

        Raises StoreUnavailable.
        """
        await asyncio.gather(*(server.renew() for server in self._servers.values()))
        await self.refresh()

    async def look(self) -> None:
        """Find out from time to time whether the servers are still the same, where they do not tell by themselves."""

    async def _locate(self, key: str) -> Server:
        return self.server(self.place.hosts[0])

    def server(self, address: Address) -> Server:
        """Give the connections to an address."""
        server = self._servers.get(address)
        if server is None:
            server = self._servers[address] = Server(address, self.connect, self.options)
        return server

    async def _keep(self, addresses: Sequence[Address]) -> None:
        """Let go of every other server: what it might still answer no longer counts."""
        gone = [self._servers.pop(address) for address in list(self._servers) if address not in addresses]
        await asyncio.gather(*(server.close() for server in gone))

    async def ask(self, key: str, *commands: Command, again: bool = False, replicated: bool = False) -> list[Any]:
        """Have commands on keys of one slot answered by whoever has it. Raises StoreUnavailable.

        `again` says that doing it twice is as good as once. `replicated` waits for the replicas that `wait_replicas`
        asks for, if it asks for any.
        """
        replicated = replicated and self.options.wait_replicas > 0
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.options.timeout
        server: Server | None = None
        redirected: Server | None = None
        tries = 0
        while True:
            tries += 1
            try:
                server = redirected or await self._locate(key)
                asking, redirected = redirected is not None, None
                replies = await server.ask(commands, asking=asking, replicated=replicated)
            except _NOT_DONE as error:
                if loop.time() >= deadline:
                    raise failure(self.place, error) from error
                if isinstance(error, AskError) and not isinstance(error, MovedError) and server is not None:
                    redirected = self.server(_there(error, server))
                    continue
                await self._not_there(error, server)
                if tries > 1:
                    await asyncio.sleep(_PAUSE)
            except (RedisError, OSError, TimeoutError) as error:
                self._doubt()
                if again and tries == 1 and not isinstance(error, (ResponseError, TimeoutError)):
                    continue
                raise failure(self.place, error) from error
            else:
                if replicated and (acknowledged := replies.pop()) < self.options.wait_replicas:
                    raise StoreUnavailable(
                        f"{self.place}: done, but within {self.options.wait_timeout} s only {acknowledged} replicas have it "
                        f"(wait_replicas={self.options.wait_replicas})"
                    )
                return replies

    async def ask_each(self, asked: Sequence[tuple[str, Command]]) -> list[Any]:
        """Have many commands that only read, or may be done twice, answered, each by whoever has its key.

        Those for one server travel as one. Raises StoreUnavailable.
        """
        groups: dict[Server, list[int]] = {}
        try:
            for number, (key, _) in enumerate(asked):
                groups.setdefault(await self._locate(key), []).append(number)
        except ClusterDownError as error:
            raise failure(self.place, error) from error
        replies: list[Any] = [None] * len(asked)
        await asyncio.gather(*(self._ask_group(server, group, asked, replies) for server, group in groups.items()))
        return replies

    async def _ask_group(
        self, server: Server, group: list[int], asked: Sequence[tuple[str, Command]], replies: list[Any]
    ) -> None:
        try:
            answers = await server.ask([asked[number][1] for number in group])
        except (RedisError, OSError) as error:
            if isinstance(error, TimeoutError) or (
                isinstance(error, ResponseError) and not isinstance(error, _NOT_DONE)
            ):
                raise failure(self.place, error) from error
            # One of them lies elsewhere, or the connection was lost: each finds its own way.
            one_by_one = await asyncio.gather(*(self.ask(*asked[number], again=True) for number in group))
            answers = [answer[0] for answer in one_by_one]
        for number, answer in zip(group, answers, strict=True):
            replies[number] = answer

    async def _not_there(self, error: Exception, server: Server | None) -> None:
        """Take in that a server was the wrong one, or not ready."""
        await asyncio.sleep(_PAUSE)

    def _doubt(self) -> None:
        """Take in that a server could not be asked."""

    async def close(self) -> None:
        """Let go of all connections. What is under way fails."""
        await self._keep([])


class SentinelLink(Link):
    """The way to the primary that Sentinels name. They are asked after every failure, and by the feed every second."""

    def __init__(self, place: Place, options: Options) -> None:
        super().__init__(place, options)
        self._ask_sentinel = connecting(place, options, sentinel=True)
        self._sentinels = list(place.hosts)
        self._wire: Wire | None = None
        self._primary: Address | None = None
        self._looked = float("-inf")

    async def primaries(self) -> list[Address]:
        if self._primary is None:
            await self.refresh()
        if self._primary is None:
            raise StoreUnavailable(f"{self.place}: no primary is known at the moment")
        return [self._primary]

    async def look(self) -> None:
        if asyncio.get_running_loop().time() - self._looked >= _LOOK_SECONDS:
            # A primary that is well is enough, whether or not anybody watches over it.
            with suppress(StoreUnavailable):
                await self.refresh()

    async def _refresh(self) -> None:
        self._looked = asyncio.get_running_loop().time()
        last: Exception = ConnectionError("no Sentinel was named")
        for address in list(self._sentinels):
            try:
                try:
                    found = await self._named_by(address)
                except (RedisError, OSError):
                    await self._hang_up()  # perhaps only an old connection was lost
                    found = await self._named_by(address)
            except (RedisError, OSError) as error:
                last = error
                await self._hang_up()
                continue
            if found is None:
                last = ConnectionError(f"the Sentinel at {address[0]}:{address[1]} knows no such service")
                await self._hang_up()
                continue
            # The one that answered goes first next time.
            self._sentinels.remove(address)
            self._sentinels.insert(0, address)
            if found != self._primary:
                # In this order: nothing that the old primary still answers may be believed along with the new feed.
                await self._keep([found])
                self._primary = found
            return
        raise last

    async def _named_by(self, address: Address) -> Address | None:
        async with asyncio.timeout(self.options.timeout):
            if self._wire is None:
                self._wire = await self._ask_sentinel(address)
            command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.place.service)
            await self._wire.send_packed_command(pack(command), check_health=False)
            found = await self._wire.read_response()
        return None if found is None else (found[0].decode(), int(found[1]))

    async def _hang_up(self) -> None:
        if self._wire is not None:
            await drop(self._wire)
            self._wire = None

    async def _locate(self, key: str) -> Server:
        return self.server((await self.primaries())[0])

    async def _not_there(self, error: Exception, server: Server | None) -> None:
        await super()._not_there(error, server)
        if isinstance(error, ReadOnlyError):
            await self.refresh()

    def _doubt(self) -> None:
        self._primary = None

    async def close(self) -> None:
        await self._hang_up()
        await super().close()


class ClusterLink(Link):
    """The way to a cluster's primaries, each of which has some slots."""

    together = False

    def __init__(self, place: Place, options: Options) -> None:
        super().__init__(place, options)
        self._shards: Shards | None = None
        self._moved: dict[int, Address] = {}

    async def primaries(self) -> list[Address]:
        return list((await self.shards()).primaries)

    async def shards(self) -> Shards:
        """Give the cluster as it was when last looked at. Raises StoreUnavailable."""
        if self._shards is None:
            await self.refresh()
        if self._shards is None:
            raise StoreUnavailable(f"{self.place}: nobody knows at the moment who has which slots")
        return self._shards

    async def _refresh(self) -> None:
        known = [] if self._shards is None else list(self._shards.primaries)
        random.shuffle(known)
        last: Exception | None = None
        for address in dict.fromkeys([*known, *self.place.hosts]):
            try:
                shards = await self._seen_by(address)
            except (RedisError, OSError, TimeoutError) as error:
                last = error
                continue
            self._shards = shards
            self._moved.clear()
            await self._keep(list(shards.primaries))
            return
        raise last or ConnectionError("no node was named")

    async def _seen_by(self, address: Address) -> Shards:
        wire = await self.connect(address)
        try:
            async with asyncio.timeout(self.options.timeout):
                await wire.send_packed_command(pack(Shards.COMMAND), check_health=False)
                return Shards.read(await wire.read_response(), asked=address, tls=self.place.tls)
        except ResponseError as error:
            if "cluster support disabled" in str(error):
                raise UsageError(f"{address[0]}:{address[1]} is no part of a cluster: write redis:// for it") from error
            raise
        finally:
            await drop(wire)

    async def _locate(self, key: str) -> Server:
        slot = key_slot(key.encode())
        if (address := self._moved.get(slot)) is None:
            address = (await self.shards()).owner(slot)
        if address is None:
            raise ClusterDownError(f"nobody has slot {slot}")
        return self.server(address)

    async def _not_there(self, error: Exception, server: Server | None) -> None:
        if isinstance(error, MovedError) and server is not None:
            self._moved[error.slot_id] = _there(error, server)
            return
        await super()._not_there(error, server)
        if not isinstance(error, TryAgainError):
            await self.refresh()


def _there(error: AskError, server: Server) -> Address:
    """Give the address that a server sends us to; one that does not know it means the host it was reached at."""
    return cast(str, error.host) or server.address[0], error.port  # pyright: ignore[reportUnknownMemberType]


def open_link(place: Place, options: Options) -> Link:
    """Give the way to what a URL names. Nothing is connected before something is asked."""
    return {"": Link, "sentinel": SentinelLink, "cluster": ClusterLink}[place.kind](place, options)


def failure(place: Place, error: Exception) -> StoreUnavailable:
    """Say in a sentence what went wrong, and with what."""
    text = str(error) or type(error).__name__
    if isinstance(error, TimeoutError) and not isinstance(error, RedisError):
        text = "there was no answer in time"
    elif isinstance(error, AskError):
        text = "its slots are on their way from one primary to another"
    elif isinstance(error, NoPermissionError):
        text = f"its user may not do what the store needs, see the ACL line in the documentation ({text})"
    return StoreUnavailable(f"{place} cannot be asked: {text}")


async def at_start(place: Place, asked: Awaitable[T]) -> T:
    """Await what is asked at the start, when it can be told who has to mend what. Raises UsageError, StoreUnavailable."""
    try:
        return await asked
    except (StoreUnavailable, RedisError, OSError, TimeoutError) as error:
        cause = error.__cause__ if isinstance(error, StoreUnavailable) else error
        if isinstance(cause, AuthenticationError):
            raise UsageError(f"{place} refuses the URL's user or password: {cause}") from error
        failed = error if isinstance(error, StoreUnavailable) else failure(place, error)
        if isinstance(cause, NoPermissionError):
            raise UsageError(str(failed)) from error
        raise failed from cause
