"""Nodes on one Redis for tests: stores with a clock of ours, whose steps can be held at a barrier."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

from coatcheck.errors import StoreUnavailable
from coatcheck.ids import encode
from coatcheck.record import Changes, Identity, SessionRecord
from coatcheck.stores._redis_steps import Steps
from coatcheck.stores.contract import Change, ChangeStream
from coatcheck.stores.redis import RedisStore
from coatcheck.testing import Gate, ManualClock

__all__ = [
    "anew",
    "confirmed",
    "hold",
    "identity",
    "listen",
    "new_id",
    "record",
    "settled",
    "started",
    "steps_of",
    "told",
]

NOW = 1_700_000_000.0


@asynccontextmanager
async def started(
    url: str, count: int = 1, *, prefix: str | None = None, **options: Any
) -> AsyncIterator[list[RedisStore]]:
    """Stores of `count` nodes on data of their own, on one clock that stands still."""
    clock = options.pop("clock", None) or ManualClock()
    prefix = prefix or secrets.token_hex(4)
    stores = [RedisStore(url, clock=clock, prefix=prefix, **options) for _ in range(count)]
    try:
        for store in stores:
            await store.start()
        yield stores
    finally:
        for store in stores:
            await store.close()


def steps_of(store: RedisStore) -> Steps:
    assert store._steps is not None
    return store._steps


def hold(store: RedisStore, step: str, when: Literal["before", "after"] = "before") -> Gate:
    """Hold the next call of one of a store's steps: before it is sent, or after it was answered."""
    steps, gate = steps_of(store), Gate()
    real = getattr(steps, step)

    async def held(*arguments: Any, **named: Any) -> Any:
        setattr(steps, step, real)
        if when == "before":
            await gate.pass_through()
        answer = await real(*arguments, **named)
        if when == "after":
            await gate.pass_through()
        return answer

    setattr(steps, step, held)
    return gate


def new_id() -> str:
    return encode(secrets.token_bytes(16))


def record(**fields: Any) -> SessionRecord:
    common = {"id": new_id(), "secret_hash": secrets.token_bytes(32), "created_at": NOW, "last_seen_at": NOW}
    return SessionRecord(**(common | {"expires_at": NOW + 1000.0} | fields))


def identity(*, user_id: str | None = None, epoch: int = 0, **fields: Any) -> Changes:
    """A login, with a secret of its own."""
    who = {"secret_hash": secrets.token_bytes(32), "at": NOW, "expires_at": NOW + 1000.0}
    return Changes(identity=Identity(user_id=user_id, epoch=epoch, **(who | fields)))


async def anew(store: RedisStore, *, user_id: str | None = None, **fields: Any) -> SessionRecord:
    """Store a new session."""
    epoch = 0 if user_id is None else await store.epoch(user_id)
    made = record(user_id=user_id, epoch=epoch, **fields)
    await store.create(made)
    return made


def listen(stream: ChangeStream, heard: list[Change]) -> None:
    """Take in what a stream has to tell. One that is in trouble has told what it could, and goes on later."""
    with suppress(StoreUnavailable):
        stream.poll(heard.append)


async def told(stream: ChangeStream, until: Callable[[list[Change]], object], *, within: float = 20) -> list[Change]:
    """Follow a stream until something is there."""
    heard: list[Change] = []
    async with asyncio.timeout(within):
        listen(stream, heard)
        while not until(heard):
            await stream.wait()
            listen(stream, heard)
    return heard


async def settled(stream: ChangeStream, store: RedisStore, clock: ManualClock) -> list[Change]:
    """Wait until a probe that was sent from now on has come back: then all that was acknowledged was told. Give that."""
    clock.advance(1e-3)
    return await confirmed(stream, store, clock.monotonic())


async def confirmed(stream: ChangeStream, store: RedisStore, moment: float) -> list[Change]:
    """Wait until a stream is complete up to a moment; give what it told meanwhile."""
    heard: list[Change] = []
    async with asyncio.timeout(20):
        while stream.confirmed() < moment:
            store._feed.hurry()
            await asyncio.sleep(0.001)
            listen(stream, heard)
    return heard
