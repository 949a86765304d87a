"""The Redis store where there are several servers: a small cluster whose slots move, and a Sentinel that changes its mind.

What takes a cluster of six, its fail-overs and its resharding are in the slow tier.
"""

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from redis.crc import key_slot

from coatcheck.errors import StoreUnavailable, UsageError
from coatcheck.record import Changes, SessionRecord
from coatcheck.stores._redis_keys import bucket_of
from coatcheck.stores.redis import RedisStore
from coatcheck.testing import ManualClock, conformance
from tests.clients.redis_server import RedisCluster, RedisServer, free_port
from tests.stores.redis_nodes import NOW, anew, confirmed, hold, identity, record, settled, started, steps_of, told


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[RedisServer]]:
    """Two primaries with half of the slots each, and one that has none yet."""
    made: list[RedisServer] = []
    try:
        for _ in range(3):
            # A primary that has given its last slot away would else become a replica of whoever has it now.
            made.append(RedisCluster.node(cluster_allow_replica_migration="no"))
        made[0].cli("CLUSTER", "ADDSLOTSRANGE", "0", "8191")
        made[1].cli("CLUSTER", "ADDSLOTSRANGE", "8192", "16383")
        for number, node in enumerate(made):
            node.cli("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
            for other in made[number + 1 :]:
                node.cli("CLUSTER", "MEET", "127.0.0.1", str(other.port))
        RedisCluster.wait_for(made)
        yield made
    finally:
        for node in made:
            node.stop()


def url_of(nodes: list[RedisServer]) -> str:
    return f"redis+cluster://127.0.0.1:1,127.0.0.1:{nodes[0].port}?durability=any&timeout=5"


CHECKS = [
    "what_is_created_is_read_back_whole",
    "ending_a_user_ends_all_but_the_kept",
    "a_login_with_an_old_epoch_writes_nothing",
    "sweeping_goes_in_small_steps",
    "last_seen_times_only_rise",
    "the_feed_tells_what_happens_in_order",
    "an_ended_session_is_refused_everywhere",
]


@pytest.mark.parametrize("check", CHECKS)
async def test_a_small_cluster_keeps_the_contract(check: str, nodes: list[RedisServer]) -> None:
    prefix = secrets.token_hex(4)
    await conformance.run(check, lambda clock: RedisStore(url_of(nodes), clock=clock, prefix=prefix))


class Move:
    """A session's slot on its way from the primary that has it to the third one, step by step."""

    def __init__(self, nodes: list[RedisServer], store: RedisStore, session_id: str) -> None:
        keys = steps_of(store).keys
        bucket = bucket_of(session_id)
        self.slot = str(key_slot(keys.record(session_id).encode()))
        self.keys = [keys.record(session_id), keys.seen(bucket), keys.expiry(bucket)]
        self.source = nodes[0] if int(self.slot) < 8192 else nodes[1]
        self.target = nodes[2]
        self.all = nodes
        self.ids = [node.cli("CLUSTER", "MYID") for node in (self.source, self.target)]

    def begin(self) -> None:
        self.target.cli("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self.ids[0])
        self.source.cli("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self.ids[1])

    def carry(self) -> None:
        to = ("127.0.0.1", str(self.target.port), "", "0", "5000", "KEYS")
        assert self.source.cli("MIGRATE", *to, *self.keys) == "OK"

    def finish(self) -> None:
        for node in (self.target, self.source):
            assert node.cli("CLUSTER", "SETSLOT", self.slot, "NODE", self.ids[1]) == "OK"

    def undo(self) -> None:
        """Give the slot back, with whatever is in it by now."""
        self.source.cli("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self.ids[1])
        self.target.cli("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self.ids[0])
        while names := self.target.cli("CLUSTER", "GETKEYSINSLOT", self.slot, "100").split():
            back = ("127.0.0.1", str(self.source.port), "", "0", "5000", "KEYS")
            self.target.cli("MIGRATE", *back, *names)
        for node in (self.source, self.target):
            node.cli("CLUSTER", "SETSLOT", self.slot, "NODE", self.ids[0])


async def test_a_session_is_served_while_its_slot_moves_and_what_ends_it_there_is_told(
    nodes: list[RedisServer],
) -> None:
    clock = ManualClock()
    async with started(url_of(nodes), 2, clock=clock) as (one, two):
        stream = two.changes()
        session = await anew(one, user_id="ann", values={"k": b"1"})
        move = Move(nodes, one, session.id)
        try:
            move.begin()
            assert await two.read(session.id) == session
            move.carry()
            assert await two.read(session.id) == session, "by the way that the old primary shows (ASK)"
            writing = asyncio.ensure_future(one.apply(session.id, Changes(set={"k": b"2"})))
            await asyncio.sleep(0.1)  # nothing can be written by several keys while some are here and some there
            move.finish()
            merged = await writing
            assert merged is not None
            assert await two.read(session.id) == merged
            assert await one.alive([session.id]) == {session.id: 1}
            clock.advance(1.0)
            ended = clock.monotonic()
            assert await one.end([session.id], reason="x", now=NOW) == [session.id]
            # Ended on a primary that had no slots when node two began: nothing is confirmed before that was told.
            heard = await confirmed(stream, two, ended)
            assert {change.kind for change in heard} & {"ended", "missed"}
            again = await anew(one, id=session.id[:-4] + "AAAA")
            await one.end([again.id], reason="y", now=NOW)
        finally:
            move.undo()
        await settled(stream, two, clock)
        assert isinstance(await two.read((await anew(one)).id), SessionRecord)


async def test_a_primary_that_comes_late_is_listened_to_before_anything_is_confirmed(nodes: list[RedisServer]) -> None:
    clock = ManualClock()
    async with started(url_of(nodes), clock=clock) as (store,):
        stream = store.changes()
        assert {address[1] for address in store._feed._trackers} == {node.port for node in nodes}
        late = store._feed._trackers.pop(("127.0.0.1", nodes[2].port))
        await late.close()
        clock.advance(1.0)
        heard = await told(stream, len)
        assert [change.kind for change in heard] == ["missed"]
        await settled(stream, store, clock)
        assert ("127.0.0.1", nodes[2].port) in store._feed._trackers


async def test_a_store_of_one_server_refuses_a_node_of_a_cluster(nodes: list[RedisServer]) -> None:
    with pytest.raises(UsageError, match=r"is part of a cluster: write redis\+cluster"):
        await RedisStore(nodes[0].url).start()


async def test_a_login_in_a_cluster_that_an_end_of_all_overtakes_is_refused(nodes: list[RedisServer]) -> None:
    async with started(url_of(nodes), 2) as (one, two):
        for number in range(6):  # users and sessions on either primary
            user = f"user {number}"
            visitor, made = await anew(one), record(user_id=user, epoch=await one.epoch(user))
            gates = [hold(one, "replace"), hold(one, "create")]
            logins = [
                asyncio.ensure_future(one.apply(visitor.id, identity(user_id=user, epoch=made.epoch))),
                asyncio.ensure_future(one.create(made)),
            ]
            for gate in gates:
                await gate.arrived.wait()
            await two.end_user(user, reason="x", now=NOW)
            for gate in gates:
                gate.release()
            answers = await asyncio.gather(*logins, return_exceptions=True)
            assert [type(answer).__name__ for answer in answers] == ["LoginRefused"] * 2
            assert await two.alive([visitor.id, made.id]) == {visitor.id: 1}


# ---- Sentinels


@contextmanager
def watched(primary: RedisServer) -> Iterator[RedisServer]:
    port = free_port()
    sentinel = RedisServer.sentinel(
        port, f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {primary.port} 1\nrequirepass sesame\n"
    )
    try:
        yield sentinel
    finally:
        sentinel.stop()


async def test_the_primary_that_sentinels_name_is_the_one_that_counts(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer() as first, RedisServer() as second, watched(first) as sentinel:
        url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/main?durability=any&sentinel_password=sesame"
        clock = ManualClock()
        async with started(url, clock=clock) as (store,):
            stream = store.changes()
            session = await anew(store)
            assert await store.read(session.id) == session
            sentinel.cli("-a", "sesame", "SENTINEL", "REMOVE", "main")
            sentinel.cli("-a", "sesame", "SENTINEL", "MONITOR", "main", "127.0.0.1", str(second.port), "1")
            heard = await told(stream, len)
            assert [change.kind for change in heard] == ["missed"]
            assert await store.read(session.id) is None, "the new primary has never heard of it"
            await settled(stream, store, clock)
            again = await anew(store)
            assert await store.end([again.id], reason="x", now=NOW) == [again.id]
            # It becomes a replica before any Sentinel says so: nothing is written to it, nor confirmed by it.
            second.cli("REPLICAOF", "127.0.0.1", str(first.port))
            with pytest.raises(StoreUnavailable, match="read only"):
                await anew(store)
            sentinel.kill()
            first.kill()
            second.kill()
            with pytest.raises(StoreUnavailable):
                await store.read(again.id)
            with pytest.raises(StoreUnavailable):
                await store.read(again.id)
        assert "sesame" not in caplog.text
    with RedisServer() as first, watched(first) as sentinel:
        place = f"redis+sentinel://127.0.0.1:{sentinel.port}/other"
        with pytest.raises(StoreUnavailable, match="knows no such service"):
            await RedisStore(place, sentinel_password="sesame").start()
        with pytest.raises(UsageError, match="refuses the URL's user or password"):
            await RedisStore(place, sentinel_password="open").start()
