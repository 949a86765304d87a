"""One Redis server: a bounded number of connections, and commands that are asked for at once travelling together.

Promises that each command is sent at most once, that its answer or error is its own, and that none waits longer than
twice `timeout`: once for its turn, once for its answer. Leaves choosing the server, asking again and what errors mean to `_redis_link`.
"""

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import hiredis
from redis.asyncio import Connection, SSLConnection
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, RedisError, ResponseError

from coatcheck.errors import UsageError
from coatcheck.stores._redis_scripts import Script
from coatcheck.stores._redis_url import Options, Place

__all__ = ["Address", "Command", "Connecting", "Server", "Wire", "connecting"]

Address = tuple[str, int]
Command = tuple["Script | str | bytes | int", ...]

_pack = cast("Callable[[Command], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]

# Which library this is, servers since Redis 7.2 and Valkey would be told on each connection: a right more than is needed.
_UNSAID: dict[str, None] = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(cast(Any, AbstractConnection)).parameters
    else {"lib_name": None, "lib_version": None}
)

_TOGETHER = 200
"""So many commands travel together at most: whoever comes after them should not wait for all their answers."""


class Wire(Protocol):
    """What is used of redis-py's connections."""

    async def connect(self) -> None: ...

    async def disconnect(self, nowait: bool = False) -> None: ...

    async def send_packed_command(self, command: bytes, check_health: bool = True) -> None: ...

    async def read_response(self) -> Any: ...


class Connecting:
    """Makes connections to servers, all in the same manner."""

    def __init__(self, kind: type[Connection], settings: dict[str, Any], patience: float) -> None:
        self._kind = kind
        self._settings = settings
        self._patience = patience

    async def __call__(self, address: Address) -> Wire:
        """Connect, log in and choose the database. Raises RedisError, OSError, TimeoutError."""
        wire = cast(Wire, self._kind(host=address[0], port=address[1], **self._settings))
        try:
            # Of the handshake too: a server that is stopped still has its kernel accept connections.
            async with asyncio.timeout(self._patience):
                await wire.connect()
        except BaseException:
            await drop(wire)
            raise
        return wire


def connecting(place: Place, options: Options, *, sentinel: bool = False) -> Connecting:
    """Tell how to connect to what a URL names; `sentinel` for the Sentinels themselves. Raises UsageError."""
    settings: dict[str, Any] = {
        # One time-out for all that travels together is enough, and costs a tenth of one for each answer.
        "socket_timeout": None,
        "socket_connect_timeout": options.connect_timeout,
        "protocol": 2,
        "db": 0 if sentinel else place.db,
        "username": options.sentinel_username if sentinel else place.username,
        "password": options.sentinel_password if sentinel else place.password,
        "client_name": None if sentinel else "coatcheck",
        **_UNSAID,
    }
    if not place.tls:
        return Connecting(Connection, settings, options.connect_timeout)
    for name, path in (("tls_ca", options.tls_ca), ("tls_cert", options.tls_cert), ("tls_key", options.tls_key)):
        if path is not None:
            try:
                with open(path, "rb"):
                    pass
            except OSError as error:
                raise UsageError(f"{name}={path!r} cannot be read: {error.strerror}") from error
    settings["ssl_ca_certs"] = options.tls_ca
    settings["ssl_certfile"] = options.tls_cert
    settings["ssl_keyfile"] = options.tls_key
    settings["ssl_check_hostname"] = options.tls_check_hostname
    return Connecting(SSLConnection, settings, options.connect_timeout)


async def drop(wire: Wire) -> None:
    """Let go of a connection at once, whatever state it is in."""
    try:
        await wire.disconnect(nowait=True)
    except (RedisError, OSError, TimeoutError):
        pass


def pack(command: Command, *, whole: bool = False) -> bytes:
    """Give a command as it is sent: scripts by their digest, or with their whole text."""
    if isinstance(script := command[0], Script):
        name = ("EVAL", script.text) if whole else ("EVALSHA", script.digest)
        command = (*name, *command[1:])
    return _pack(command)


class Asked:
    """What one caller asked: a script, or commands that only read. Answers come in order, or one error for all."""

    __slots__ = ("at", "commands", "future")

    def __init__(self, commands: Sequence[Command], loop: asyncio.AbstractEventLoop) -> None:
        self.commands = commands
        self.at: float = loop.time()
        self.future: asyncio.Future[list[Any]] = loop.create_future()

    def answer(self, replies: list[Any]) -> None:
        if not self.future.done():
            self.future.set_result(replies)

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # looked at: whoever asked may have been cancelled


class Server:
    """The connections to one address. Belongs to the event loop it was made on."""

    def __init__(self, address: Address, connect: Connecting, options: Options) -> None:
        self.address: Address = address
        self._connect = connect
        self._timeout = options.timeout
        self._most = options.connections
        self._wait = ("WAIT", options.wait_replicas, int(options.wait_timeout * 1000)), options.wait_timeout
        self._loop = asyncio.get_running_loop()
        self._free: list[Wire] = []
        self._generation = 0
        self._flights: set[asyncio.Task[None]] = set()
        self._queue: deque[Asked] = deque()
        self._queued = False
        self._closed = False

    async def ask(self, commands: Sequence[Command], *, asking: bool = False, replicated: bool = False) -> list[Any]:
        """Have commands answered. Raises what redis-py raises, OSError or TimeoutError.

        `asking` says that another server sent us here. `replicated` waits for the replicas too: their number is the
        last answer.
        """
        asked = Asked(commands, self._loop)
        if self._closed:
            raise ConnectionError(f"no connection to {self.address[0]}:{self.address[1]} is kept any more")
        if asking or replicated:
            # On a flight of its own: others should not wait for replicas.
            if asking:
                asked.commands = [part for command in commands for part in (("ASKING",), command)]
            if replicated:
                asked.commands = [*asked.commands, self._wait[0]]
            self._launch([asked], self._timeout + (self._wait[1] if replicated else 0))
        else:
            self._queue.append(asked)
            if not self._queued:
                self._queued = True
                self._loop.call_soon(self._depart)  # whoever else asks in this turn of the loop comes along
        replies = await asked.future
        return [reply for reply, command in zip(replies, asked.commands, strict=True) if command != ("ASKING",)]

    def _depart(self) -> None:
        self._queued = False
        while self._queue and len(self._flights) < self._most:
            together: list[Asked] = []
            size = 0
            late = self._loop.time() - self._timeout
            while self._queue and size < _TOGETHER:
                asked = self._queue.popleft()
                if asked.at < late:
                    asked.fail(TimeoutError("no connection was free in time"))
                    continue
                together.append(asked)
                size += len(asked.commands)
            if together:
                self._launch(together, self._timeout)

    def _launch(self, together: list[Asked], timeout: float) -> None:
        flight = self._loop.create_task(self._fly(together, timeout))
        self._flights.add(flight)
        flight.add_done_callback(self._landed)

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self._flights.discard(flight)
        if self._queue and not self._closed:
            self._depart()

    async def _fly(self, together: list[Asked], timeout: float) -> None:
        wire: Wire | None = None
        generation = self._generation
        try:
            async with asyncio.timeout(timeout):
                wire = await self._wire()
                await _exchange(wire, together)
        except BaseException as error:
            if wire is not None:
                await drop(wire)
            lost = error if isinstance(error, Exception) else ConnectionError("the connection was closed")
            for asked in together:
                asked.fail(lost)
            if not isinstance(error, Exception):
                raise
            return
        if self._closed or generation != self._generation:
            await drop(wire)
        else:
            self._free.append(wire)

    async def _wire(self) -> Wire:
        while self._free:
            wire = self._free.pop()
            if not await _is_stale(wire):
                return wire
            await drop(wire)
        return await self._connect(self.address)

    async def renew(self) -> None:
        """Use none of the present connections again. What is under way comes to its end."""
        self._generation += 1
        while self._free:
            await drop(self._free.pop())

    async def close(self) -> None:
        """Let go of all connections. What is under way fails. May be called twice."""
        self._closed = True
        flights = list(self._flights)
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        for asked in self._queue:
            asked.fail(ConnectionError("the connection was closed"))
        self._queue.clear()
        while self._free:
            await drop(self._free.pop())


async def _is_stale(wire: Any) -> bool:
    """Tell whether an idle connection was closed by the server, or holds what nobody asked for."""
    check = getattr(wire, "can_read", None) or wire.can_read_destructive
    try:
        return bool(await check())
    except (RedisError, OSError):
        return True


async def _exchange(wire: Wire, together: list[Asked]) -> None:
    """Send everything at once, then read the answers. Scripts that the server does not know are sent whole."""
    await wire.send_packed_command(b"".join(pack(c) for asked in together for c in asked.commands), check_health=False)
    unknown: list[Asked] = []
    for asked in together:
        replies, error = await _replies(wire, len(asked.commands))
        if isinstance(error, NoScriptError):
            unknown.append(asked)
        else:
            _settle(asked, replies, error)
    for asked in unknown:
        await wire.send_packed_command(b"".join(pack(c, whole=True) for c in asked.commands), check_health=False)
        _settle(asked, *await _replies(wire, len(asked.commands)))


async def _replies(wire: Wire, number: int) -> tuple[list[Any], ResponseError | None]:
    replies: list[Any] = []
    first: ResponseError | None = None
    for _ in range(number):
        try:
            replies.append(await wire.read_response())
        except ResponseError as error:
            first = first or error
    return replies, first


def _settle(asked: Asked, replies: list[Any], error: ResponseError | None) -> None:
    if error is None:
        asked.answer(replies)
    else:
        asked.fail(error)
