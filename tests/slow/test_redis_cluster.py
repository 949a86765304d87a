"""The Redis store on a cluster of six nodes: the contract, and what happens when the cluster changes beneath it."""

import asyncio
import secrets
import signal
import time
from collections.abc import Iterator

import pytest

from coatcheck import Sessions, StoreUnavailable
from coatcheck.record import Changes, SessionRecord
from coatcheck.stores.redis import RedisStore
from coatcheck.testing import ManualClock, conformance
from tests.clients.redis_server import RedisCluster, RedisServer, free_port, redis_cli
from tests.faults.test_redis import is_in, is_out, log_in, until
from tests.stores.redis_nodes import NOW, anew, settled, started, told


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as cluster:
        yield cluster


@pytest.mark.parametrize("check", conformance.CHECKS)
async def test_a_cluster_keeps_the_contract(check: str, cluster: RedisCluster) -> None:
    prefix = secrets.token_hex(4)
    await conformance.run(check, lambda clock: RedisStore(cluster.url, clock=clock, prefix=prefix))


async def test_what_happens_on_any_primary_is_told(cluster: RedisCluster) -> None:
    async with started(cluster.url, 2) as (one, two):
        stream = two.changes()
        sessions = [await anew(one, user_id=f"user {number}") for number in range(60)]
        assert await one.end([session.id for session in sessions], reason="x", now=NOW) == [s.id for s in sessions]
        heard = await told(stream, lambda heard: len(heard) >= 60)
        assert {change.id for change in heard} == {session.id for session in sessions}


async def test_sessions_live_on_while_their_slots_move_to_a_primary_that_has_just_come() -> None:
    """What is ended on the new one while nobody listens to it yet must not be believed alive anywhere."""
    with RedisCluster(3, replicas=0) as cluster:
        clock = ManualClock()
        async with started(cluster.url, 2, clock=clock, timeout=5.0) as (one, two):
            stream = two.changes()
            sessions = [await anew(one, user_id=f"user {number % 7}") for number in range(200)]
            stop = asyncio.Event()
            changed = [0]

            async def change() -> None:
                while not stop.is_set():
                    session = sessions[changed[0] % len(sessions)]
                    merged = await one.apply(session.id, Changes(set={"n": b"%d" % changed[0]}))
                    assert merged is not None
                    changed[0] += 1
                    await asyncio.sleep(0.001)

            changing = asyncio.ensure_future(change())
            new = RedisCluster.node()
            cluster.nodes.append(new)
            first = f"127.0.0.1:{cluster.nodes[0].port}"
            await _cluster("add-node", f"127.0.0.1:{new.port}", first)
            await asyncio.to_thread(cluster.settle)
            own = new.cli("CLUSTER", "MYID")
            await _cluster(
                "reshard",
                first,
                "--cluster-from",
                "all",
                "--cluster-to",
                own,
                "--cluster-slots",
                "4000",
                "--cluster-yes",
            )
            stop.set()
            await changing
            assert changed[0] > 50
            await settled(stream, two, clock)
            assert (("127.0.0.1", new.port)) in two._feed._trackers
            stream.poll(lambda change: None)
            for session in sessions:
                assert isinstance(await two.read(session.id), SessionRecord)
                assert await one.end([session.id], reason="x", now=NOW) == [session.id]
            heard = await told(stream, lambda heard: len(heard) >= 200)
            assert {change.id for change in heard} >= {session.id for session in sessions}
            assert int(redis_cli(new.port, "DBSIZE")) > 20


async def _cluster(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "redis-cli", "--cluster", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-2000:]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_when_a_primary_goes_its_replica_takes_over_and_nobody_is_let_in_meanwhile(how: signal.Signals) -> None:
    with RedisCluster(cluster_node_timeout="1000") as cluster:
        prefix = secrets.token_hex(4)
        nodes = [Sessions(RedisStore(cluster.url, prefix=prefix, timeout=0.5), max_staleness=1.0) for _ in range(2)]
        for node in nodes:
            await node.start()
        one, two = nodes
        tokens = [(await log_in(one, f"user {number}"))[1] for number in range(12)]
        ended = [(await log_in(one, f"user {number}"))[1] for number in range(12)]
        for token in tokens + ended:
            assert await is_in(two, token)
        for token in ended:
            await one.end(token[:22].decode())
        for token in ended:
            await until(lambda token=token: is_out(two, token))
        await asyncio.sleep(0.3)  # replication is asynchronous, and what it had no time for is lost: not our subject
        gone = cluster.primaries()[0]
        gone.kill(how)
        began = time.monotonic()
        async with asyncio.timeout(30):
            for token in tokens:
                while True:
                    try:
                        assert await is_in(two, token)
                        break
                    except StoreUnavailable:
                        await asyncio.sleep(0.02)
        assert time.monotonic() - began < 20
        for token in ended:
            await until(lambda token=token: is_out(one, token), within=20)
        for token in tokens[:6]:
            await until(lambda token=token: _ended(one, token), within=20)
            await until(lambda token=token: is_out(two, token))
        if how is signal.SIGSTOP:
            gone.kill(signal.SIGCONT)  # and believes for a moment that it is a primary
            for _ in range(50):
                for token in ended + tokens[:6]:
                    await until(lambda token=token: is_out(two, token))
                await asyncio.sleep(0.01)
        for node in nodes:
            await node.close()


async def _ended(sessions: Sessions, token: bytes) -> bool:
    await sessions.end(token[:22].decode())
    return True


# ---- Sentinels


class Watched:
    """A primary, its replica, and three Sentinels that watch over them."""

    def __init__(self) -> None:
        self.primary = RedisServer()
        self.replica = RedisServer(replicaof=f"127.0.0.1 {self.primary.port}")
        self.sentinels = [self._sentinel() for _ in range(3)]

    def _sentinel(self) -> RedisServer:
        port = free_port()
        return RedisServer.sentinel(
            port,
            f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {self.primary.port} 2\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n",
        )

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/main?durability=any"

    def stop(self) -> None:
        for server in (*self.sentinels, self.replica, self.primary):
            server.stop()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_sentinels_are_followed_to_the_new_primary(how: signal.Signals) -> None:
    watched = Watched()
    try:
        async with asyncio.timeout(20):
            while "slaves=1,sentinels=3" not in watched.sentinels[0].cli("INFO", "sentinel"):
                await asyncio.sleep(0.05)
        prefix = secrets.token_hex(4)
        nodes = [Sessions(RedisStore(watched.url, prefix=prefix, timeout=0.5), max_staleness=1.0) for _ in range(2)]
        for node in nodes:
            await node.start()
        one, two = nodes
        (_, kept), (_, gone) = await log_in(one), await log_in(one, "bob")
        assert await is_in(two, kept)
        assert await is_in(two, gone)
        await one.end(gone[:22].decode())
        await until(lambda: is_out(two, gone))
        await asyncio.sleep(0.3)
        watched.primary.kill(how)
        await until(lambda: _ended(one, (b"A" * 22)), within=30)
        await until(lambda: is_in(two, kept), within=30)
        await until(lambda: is_out(two, gone), within=30)
        await until(lambda: _ended(one, kept), within=10)
        await until(lambda: is_out(two, kept), within=10)
        if how is signal.SIGSTOP:
            watched.primary.kill(signal.SIGCONT)  # and is a primary still, by what it knows
            for _ in range(100):
                assert not await is_in(two, kept)
                assert not await is_in(one, gone)
                await asyncio.sleep(0.01)
        for node in nodes:
            await node.close()
    finally:
        watched.stop()


async def test_a_redis_that_is_stopped_for_ten_seconds_is_back_when_it_goes_on() -> None:
    with RedisServer() as server:
        prefix = secrets.token_hex(4)
        one, two = (Sessions(RedisStore(server.url, prefix=prefix)) for _ in range(2))
        async with one, two:
            _, token = await log_in(one)
            assert await is_in(two, token)
            server.kill(signal.SIGSTOP)
            stopped = time.monotonic()
            let_in = stopped
            while (now := time.monotonic()) < stopped + 10:
                try:
                    assert await is_in(two, token)
                    let_in = time.monotonic()
                except StoreUnavailable:
                    pass
                assert time.monotonic() - now < 5, "nobody waits for ever"
                await asyncio.sleep(0.02)
            assert let_in - stopped < 2.1
            server.kill(signal.SIGCONT)
            began = time.monotonic()
            await until(lambda: is_in(two, token))
            await until(lambda: _ended(one, token))
            await until(lambda: is_out(two, token))
            assert time.monotonic() - began < 5
