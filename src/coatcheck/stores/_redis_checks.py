"""What a Redis server must be, and what of its settings would lose sessions. Asked once, when the store starts."""

import logging
from collections.abc import Mapping

from redis.exceptions import ResponseError

from coatcheck.errors import StoreUnavailable, UsageError
from coatcheck.stores._redis_server import Address, Command, Server
from coatcheck.stores._redis_url import Place

__all__ = ["check_server"]

_log = logging.getLogger("coatcheck.stores.redis")

_LEAST = {"Redis": (7, 0), "Valkey": (8, 0)}


async def check_server(server: Server, place: Place, durability: str) -> None:
    """Look at one primary. Raises UsageError for one that cannot be used, StoreUnavailable for a replica.

    `durability` says what is done about settings under which an acknowledged end or login may be lost: with `require`
    UsageError is raised, with `warn` a warning is logged, with `any` nothing is said.
    """
    facts = await _facts(server, ("INFO", "server"), ("INFO", "replication"), ("INFO", "memory"))
    address = server.address
    _check_version(facts, address)
    if facts.get("redis_mode", facts.get("server_mode")) == "cluster" and place.kind != "cluster":
        raise UsageError(f"{_name(address)} is part of a cluster: write redis+cluster:// for it")
    # In a cluster that is just being made, a node may call one a primary that knows better.
    if facts.get("role", "master") != "master" and place.kind != "cluster":
        raise StoreUnavailable(
            f"{_name(address)} is a replica, which takes no writes: name its primary, or use Sentinels"
        )
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys"):
        _log.warning(
            "%s throws sessions and users' epochs away when its memory is full (maxmemory-policy %s): set noeviction",
            _name(address),
            policy,
        )
    if durability != "any":
        await _check_durability(server, durability)


def _check_version(facts: Mapping[str, str], address: Address) -> None:
    name = "Valkey" if facts.get("server_name") == "valkey" or "valkey_version" in facts else "Redis"
    text = facts.get(f"{name.lower()}_version", "0")
    numbers = [int(part) for part in text.split(".")[:2] if part.isdigit()]
    if tuple(numbers) < _LEAST[name]:
        least = ".".join(map(str, _LEAST[name]))
        raise UsageError(f"{_name(address)} runs {name} {text}, and the session store needs {name} {least} or later")


async def _check_durability(server: Server, durability: str) -> None:
    weak: list[str] = []
    try:
        (answer,) = await server.ask([("CONFIG", "GET", "append*")])
        settings = {key.decode(): value.decode() for key, value in zip(answer[::2], answer[1::2], strict=True)}
        if settings.get("appendonly") != "yes":
            weak.append("appendonly is off: a restart forgets what happened since the last snapshot")
        elif settings.get("appendfsync") != "always":
            weak.append(
                f"appendfsync is {settings.get('appendfsync')}: a crash of the machine forgets the last second or more"
            )
    except ResponseError:
        weak.append("its settings may not be read (CONFIG GET): whether a restart forgets sessions is not known")
    if not weak:
        return
    said = f"{_name(server.address)} may forget ends and logins that it has acknowledged: {'; '.join(weak)}"
    if durability == "require":
        raise UsageError(f"{said}. Set appendonly yes and appendfsync always, or allow it with durability='warn'")
    _log.warning("%s", said)


async def _facts(server: Server, *commands: Command) -> dict[str, str]:
    facts: dict[str, str] = {}
    for answer in await server.ask(commands):
        for line in bytes(answer).decode(errors="replace").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                facts[name] = value
    return facts


def _name(address: Address) -> str:
    return f"{address[0]}:{address[1]}"
