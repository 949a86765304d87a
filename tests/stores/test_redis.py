"""The Redis store on a real server: the contract, and what is Redis's own about it."""

import asyncio
import logging
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from coatcheck.errors import SessionRefused, StoreUnavailable, UsageError, WrongEventLoop
from coatcheck.record import Changes, SessionRecord, Tombstone
from coatcheck.stores._redis_keys import bucket_of
from coatcheck.stores._redis_link import Link
from coatcheck.stores._redis_scripts import Script
from coatcheck.stores.contract import ChangeStream
from coatcheck.stores.redis import RedisStore
from coatcheck.testing import ManualClock, conformance
from tests.clients.certificates import write_pair
from tests.clients.redis_server import RedisServer, redis_cli
from tests.stores.redis_nodes import NOW, anew, hold, identity, record, started, steps_of


@pytest.mark.parametrize("apart", [False, True], ids=["one_server", "as_in_a_cluster"])
@pytest.mark.parametrize("check", conformance.CHECKS)
async def test_redis_keeps_the_contract(
    check: str, apart: bool, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Link, "together", not apart)  # no script may then look at a session and at its user
    prefix = secrets.token_hex(4)
    await conformance.run(check, lambda clock: RedisStore(redis_server.url, clock=clock, prefix=prefix))


# ---- what is stored


async def test_one_session_is_one_key_that_redis_forgets_an_hour_late(redis_server: RedisServer) -> None:
    async with started(redis_server.url) as (store,):
        session = await anew(store, user_id="ann", values={"k": b"1"})
        keys = steps_of(store).keys
        key = keys.record(session.id)
        assert redis_server.cli("--scan", "--pattern", f"*{session.id}*") == key
        lifetime = int(redis_server.cli("PTTL", key)) / 1000
        assert 1000 + 3590 < lifetime <= 1000 + 3600
        await store.apply(session.id, Changes(set={"k": b"2"}))
        assert 1000 + 3590 < int(redis_server.cli("PTTL", key)) / 1000 <= lifetime
        await store.apply(session.id, identity(expires_at=NOW + 5000))
        assert int(redis_server.cli("PTTL", key)) / 1000 > 5000 + 3590
        assert int(redis_server.cli("PTTL", keys.index("ann"))) > 0
        assert redis_server.cli("PTTL", keys.user("ann")) == "-1", "an epoch that were forgotten would let old ones in"
        await store.end([session.id], reason="x", now=NOW)
        assert 60 < int(redis_server.cli("PTTL", key)) / 1000 <= 120
        for times in (keys.seen(bucket_of(session.id)), keys.expiry(bucket_of(session.id))):
            assert redis_server.cli("ZSCORE", times, session.id) == ""


async def test_a_session_that_never_expires_is_stored_too(redis_server: RedisServer) -> None:
    async with started(redis_server.url) as (store,):
        session = await anew(store, expires_at=float("inf"), last_seen_at=float("-inf"))
        assert await store.read(session.id) == session
        assert await store.sweep(now=9e99, limit=10, unseen_since=float("-inf")) == 0


async def test_what_cannot_be_read_is_not_unknown_and_can_be_ended(redis_server: RedisServer) -> None:
    async with started(redis_server.url) as (store,):
        sessions = [await anew(store) for _ in range(5)]
        keys = [steps_of(store).keys.record(session.id) for session in sessions]
        redis_server.cli("SET", keys[0], "rubbish")
        redis_server.cli("SET", keys[1], "r:1:1:3:abcd")
        redis_server.cli("SET", keys[2], "t:never:x:")
        redis_server.cli("DEL", keys[3])
        redis_server.cli("RPUSH", keys[3], "a list")
        ids = [session.id for session in sessions]
        for session_id in ids[:4]:
            for asked in (store.read(session_id), store.apply(session_id, Changes(set={"k": b"1"}))):
                with pytest.raises(StoreUnavailable):
                    await asked
        assert await store.alive(ids) == {ids[4]: 1}
        assert await store.end(ids[:2], reason="x", now=NOW) == ids[:2]
        assert await store.read(ids[0]) == Tombstone(id=ids[0], ended_at=NOW, reason="x")
        with pytest.raises(SessionRefused):
            await store.create(sessions[3])


async def test_a_last_seen_time_that_is_lost_makes_nobody_idle(redis_server: RedisServer) -> None:
    clock = ManualClock()
    async with started(redis_server.url, clock=clock) as (store,):
        session = await anew(store)
        key = steps_of(store).keys.seen(bucket_of(session.id))
        redis_server.cli("DEL", key)
        clock.advance(500)
        assert await store.end([session.id], reason="idle", now=clock.time(), unseen_since=clock.time() - 100) == []
        assert await store.sweep(now=clock.time(), limit=10, unseen_since=clock.time() - 100) == 0
        found = await store.read(session.id)
        assert isinstance(found, SessionRecord)
        assert found.last_seen_at == clock.time()
        assert float(redis_server.cli("ZSCORE", key, session.id)) == clock.time()


async def test_indexes_that_somebody_put_something_else_in_the_place_of_are_made_anew(
    redis_server: RedisServer,
) -> None:
    async with started(redis_server.url) as (store,):
        keys = steps_of(store).keys
        session = await anew(store, user_id="ann")
        bucket = bucket_of(session.id)
        places = (keys.seen(bucket), keys.expiry(bucket), keys.index("ann"))

        def spoil() -> None:
            for place in places:
                redis_server.cli("SET", place, "something else")

        for asked in (
            lambda: store.read(session.id),
            lambda: store.apply(session.id, identity(user_id="ann", epoch=session.epoch)),
            lambda: store.create(record(id=f"{session.id}{secrets.token_hex(2)}", user_id="ann", epoch=session.epoch)),
            lambda: store.touch({session.id: NOW + 1}),
            lambda: store.sweep(now=NOW, limit=10, unseen_since=NOW - 1),
        ):
            spoil()
            await asked()
        redis_server.cli("SET", places[0], "something else")
        await store.list_user("ann")
        spoil()
        assert [found.id for found in await store.list_user("ann")] == []
        assert isinstance(await store.read(session.id), SessionRecord)
        spoil()
        assert await store.end([session.id], reason="idle", now=NOW, unseen_since=NOW + 9) == [], "unknown is not idle"
        assert await store.end([session.id], reason="x", now=NOW) == [session.id]
        other = await anew(store, user_id="ann")
        spoil()
        await store.end_user("ann", reason="x", now=NOW)
        assert await store.read(other.id) is None
        redis_server.cli("DEL", keys.user("ann"))
        redis_server.cli("RPUSH", keys.user("ann"), "a list")
        assert await store.read(other.id) is None


async def test_a_sweep_forgets_what_redis_itself_has_forgotten(redis_server: RedisServer) -> None:
    async with started(redis_server.url) as (store,):
        session = await anew(store)
        keys = steps_of(store).keys
        redis_server.cli("DEL", keys.record(session.id))
        assert await store.sweep(now=NOW + 2000, limit=10, unseen_since=NOW + 2000) == 0
        assert redis_server.cli("EXISTS", keys.seen(bucket_of(session.id)), keys.expiry(bucket_of(session.id))) == "0"


async def test_a_users_index_forgets_who_is_gone_but_not_at_once(redis_server: RedisServer) -> None:
    clock = ManualClock()
    async with started(redis_server.url, clock=clock) as (store,):
        gone, moved, stays = [await anew(store, user_id="ann") for _ in range(3)]
        index = steps_of(store).keys.index("ann")
        await store.end([gone.id], reason="x", now=NOW)
        await store.apply(moved.id, identity(user_id="bob", epoch=await store.epoch("bob")))
        for seconds, left in ((0, 3), (61, 1)):
            clock.advance(seconds)
            assert [session.id for session in await store.list_user("ann")] == [stays.id]
            assert redis_server.cli("ZCARD", index) == str(left)


async def test_ids_and_reasons_and_users_may_hold_anything(redis_server: RedisServer) -> None:
    async with started(redis_server.url, 2) as (one, two):
        stream = two.changes()
        for odd in ("", "{}", "a:w:1:2", "ü * ? [", "\x00\n", "%41", "x" * 500):
            session = await anew(one, id=f"{odd}-{secrets.token_hex(4)}", user_id=odd)
            assert await two.read(session.id) == session
            assert await two.list_user(odd) == [session]
            assert await two.end([session.id], reason=odd, now=NOW) == [session.id]
            stone = await one.read(session.id)
            assert isinstance(stone, Tombstone)
            assert (stone.reason, stone.hashes) == (odd, (session.secret_hash,))
            async with asyncio.timeout(5):
                while not stream.behind():
                    await stream.wait()
            heard: list[Any] = []
            stream.poll(heard.append)
            assert [(change.kind, change.id, change.reason) for change in heard] == [("ended", session.id, odd)]


# ---- commands on their way


async def test_what_is_asked_for_at_once_travels_together(redis_server: RedisServer) -> None:
    async with started(redis_server.url, connections=2) as (store,):
        sessions = [await anew(store, user_id="ann") for _ in range(50)]
        before = int(dict(_facts(redis_server.cli("INFO", "clients")))["connected_clients"])
        found = await asyncio.gather(*(store.read(session.id) for session in sessions * 20))
        assert found == sessions * 20
        after = int(dict(_facts(redis_server.cli("INFO", "clients")))["connected_clients"])
        assert after - before <= 2


def _facts(text: str) -> list[list[str]]:
    return [line.strip().split(":", 1) for line in text.splitlines() if ":" in line]


async def test_a_caller_that_gives_up_harms_nobody_and_what_it_asked_for_is_done(redis_server: RedisServer) -> None:
    async with started(redis_server.url, connections=1) as (store,):
        session = await anew(store)
        for _ in range(20):
            asked = [
                asyncio.ensure_future(store.apply(session.id, Changes(set={"k": b"1"}))),
                *(asyncio.ensure_future(store.read(session.id)) for _ in range(5)),
            ]
            for _ in range(secrets.randbelow(8)):
                await asyncio.sleep(0)
            for one in asked[::2]:
                one.cancel()
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert all(isinstance(answer, SessionRecord) for answer in answers[1::2])
        other = await anew(store)
        assert await store.read(other.id) == other


async def test_scripts_that_redis_has_forgotten_are_sent_again(redis_server: RedisServer) -> None:
    async with started(redis_server.url) as (store,):
        session = await anew(store)
        redis_server.cli("SCRIPT", "FLUSH")
        answers = await asyncio.gather(
            *(store.apply(session.id, Changes(set={f"k{number}": b"1"})) for number in range(5)), store.read(session.id)
        )
        assert isinstance(answers[-1], SessionRecord)
        found = await store.read(session.id)
        assert isinstance(found, SessionRecord)
        assert len(found.values) == 5
        assert repr(Script("name", "return 1")) == "<script name>"


async def test_ten_thousand_sessions_are_looked_up_at_once(redis_server: RedisServer) -> None:
    async with started(redis_server.url) as (store,):
        epoch = await store.epoch("ann")
        sessions = [record(user_id="ann", epoch=epoch) for _ in range(1100)]
        await asyncio.gather(*(store.create(session) for session in sessions))
        ids = [session.id for session in sessions]
        assert len(await store.alive(ids * 9)) == 1100
        await store.touch(dict.fromkeys(ids, NOW + 5))
        assert {session.last_seen_at for session in await store.list_user("ann")} == {NOW + 5}
        assert sorted(await store.end_user("ann", reason="x", now=NOW)) == sorted(ids)


async def test_a_store_belongs_to_the_loop_it_was_started_on(redis_server: RedisServer) -> None:
    async with started(redis_server.url) as (store,):

        async def elsewhere() -> None:
            for asked in (store.read("a"), store.start(), store.close()):
                with pytest.raises(WrongEventLoop, match="another event loop"):
                    await asked

        await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
    with pytest.raises(UsageError, match="not started"):
        await store.read("a")


async def test_a_close_waits_for_steps_that_take_several_messages(redis_server: RedisServer) -> None:
    async with started(redis_server.url) as (store,):
        session = await anew(store)
        gate = hold(store, "replace")
        writing = asyncio.ensure_future(store.apply(session.id, Changes(set={"k": b"1"})))
        await gate.arrived.wait()
        closing = asyncio.ensure_future(store.close())
        await asyncio.sleep(0)
        with pytest.raises(UsageError, match="not started"):
            await store.read(session.id)
        assert not closing.done()
        gate.release()
        assert await writing is not None
        await closing


async def test_a_close_lets_what_was_asked_for_come_to_its_end(redis_server: RedisServer) -> None:
    prefix = secrets.token_hex(4)
    store = RedisStore(redis_server.url, prefix=prefix, clock=ManualClock(), connections=1)
    await asyncio.gather(store.start(), store.start())
    sessions = [record() for _ in range(1200)]
    created = [asyncio.ensure_future(store.create(session)) for session in sessions]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*created) == [None] * 1200
    async with started(redis_server.url, prefix=prefix) as (other,):
        assert len(await other.alive([session.id for session in sessions])) == 1200


# ---- servers that cannot be used, or not in this manner


async def test_a_server_that_is_not_there_is_told_from_one_that_is_wrong(redis_server: RedisServer) -> None:
    store = RedisStore("redis://127.0.0.1:1/0", connect_timeout=0.5)
    with pytest.raises(StoreUnavailable, match=r"redis://127\.0\.0\.1:1 cannot be asked"):
        await store.start()
    with pytest.raises(UsageError, match="no part of a cluster"):
        await RedisStore(f"redis+cluster://127.0.0.1:{redis_server.port}").start()
    with pytest.raises(StoreUnavailable, match="cannot be asked"):
        await RedisStore(f"redis+sentinel://127.0.0.1:{redis_server.port}/service").start()


async def test_a_server_with_other_rules_is_refused_or_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(maxmemory_policy="allkeys-lru", maxmemory="100mb") as server:
        url = f"redis://127.0.0.1:{server.port}"
        with caplog.at_level(logging.WARNING, "coatcheck.stores.redis"):
            async with started(url):
                pass
        assert "allkeys-lru" in caplog.text
        assert "appendonly is off" in caplog.text
        with pytest.raises(UsageError, match="appendonly is off"):
            await RedisStore(url, durability="require").start()
        server.cli("CONFIG", "SET", "appendonly", "yes")
        with pytest.raises(UsageError, match="appendfsync is everysec"):
            await RedisStore(f"{url}?durability=require").start()
        server.cli("CONFIG", "SET", "appendfsync", "always")
        caplog.clear()
        async with started(url, durability="require"):
            pass
        server.cli("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
        async with started(url, durability="any"):
            pass
        assert "may forget" not in caplog.text
        with RedisServer(replicaof=f"127.0.0.1 {server.port}") as replica:
            with pytest.raises(StoreUnavailable, match="is a replica"):
                await RedisStore(replica.url).start()


async def test_a_user_with_the_rights_in_the_documentation_has_all_that_is_needed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = (Path(__file__).parents[2] / "docs/reference/redis.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("ACL SETUSER")]
    words = [word.replace("PASSWORD", "pa:ss/w@rd") for word in line.split()]
    with RedisServer() as server:
        assert server.cli(*words) == "OK"
        url = f"redis://coatcheck:pa%3Ass%2Fw%40rd@127.0.0.1:{server.port}/0"
        for check in ("the_feed_tells_what_happens_in_order", "ending_a_user_ends_all_but_the_kept"):
            await conformance.run(check, lambda clock: RedisStore(url, clock=clock))
            server.cli("FLUSHALL")
        with caplog.at_level(logging.WARNING, "coatcheck.stores.redis"):
            async with started(url, prefix="coatcheck", wait_replicas=0) as (store,):
                session = await anew(store, user_id="ann")
                await store.list_user("ann")
                await store.touch({session.id: NOW + 1})
                await store.sweep(now=NOW, limit=10, unseen_since=NOW - 1000)
                await store.end_user("ann", reason="x", now=NOW)
        assert "may not be read (CONFIG GET)" in caplog.text
        with pytest.raises(UsageError, match="may not be read"):
            await RedisStore(url, durability="require").start()
        denied = [line for line in server.cli("ACL", "LOG").splitlines() if line in ("command", "key", "channel")]
        assert denied == ["command"], "of all that was asked for, nothing but CONFIG GET was denied"
        with pytest.raises(UsageError, match="refuses the URL's user or password") as refused:
            await RedisStore(url.replace("coatcheck:", "nobody:")).start()
        assert "pa:ss" not in str(refused.value)
        server.cli("ACL", "SETUSER", "coatcheck", "-client|tracking")
        with pytest.raises(UsageError, match="may not do what the store needs"):
            await RedisStore(url).start()
        assert "pa:ss" not in caplog.text


async def test_over_tls_the_certificate_counts(tmp_path: Path) -> None:
    write_pair(tmp_path)
    with RedisServer(tls=tmp_path) as server:
        url = f"rediss://localhost:{server.port}/0?durability=any&tls_ca={tmp_path}/ca.pem"
        async with started(url, tls_cert=f"{tmp_path}/cert.pem", tls_key=f"{tmp_path}/key.pem") as (store,):
            session = await anew(store)
            assert await store.read(session.id) == session
        with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
            await RedisStore(f"rediss://localhost:{server.port}/0").start()
        with pytest.raises(UsageError, match="cannot be read"):
            await RedisStore(url, tls_cert="/nowhere.pem", tls_key=f"{tmp_path}/key.pem").start()


# ---- what Redis may lose, and the settings against it


async def test_an_end_counts_as_done_once_the_replicas_have_it() -> None:
    with RedisServer() as server, RedisServer(replicaof=f"127.0.0.1 {server.port}") as replica:
        await _until(lambda: "state=online" in server.cli("INFO", "replication"))
        async with started(server.url, wait_replicas=1, wait_timeout=5.0) as (store,):
            session = await anew(store, user_id="ann")
            moved = await store.apply(session.id, identity(user_id="ann", epoch=session.epoch))
            assert moved is not None
            assert redis_cli(replica.port, "GET", steps_of(store).keys.record(session.id)).startswith("r:2:2:")
            assert await store.end_user("ann", reason="x", now=NOW) == [session.id]
            assert redis_cli(replica.port, "GET", steps_of(store).keys.record(session.id)).startswith("t:")
        replica.kill()
        async with started(server.url, wait_replicas=1, wait_timeout=0.05) as (store,):
            session = await anew(store)  # a visitor is nobody's loss
            with pytest.raises(StoreUnavailable, match="only 0 replicas have it"):
                await store.end([session.id], reason="x", now=NOW)
            assert isinstance(await store.read(session.id), Tombstone), "it may or may not have happened, and it has"


async def test_a_primary_that_has_too_few_replicas_is_not_written_to() -> None:
    with RedisServer() as server:
        async with started(server.url) as (store,):
            stream, session = store.changes(), await anew(store)
            server.cli("CONFIG", "SET", "min-replicas-to-write", "1")
            with pytest.raises(StoreUnavailable, match="NOREPLICAS"):
                await store.end([session.id], reason="x", now=NOW)
            with pytest.raises(StoreUnavailable, match="NOREPLICAS"):  # no probe can be written
                await followed(stream)
            assert await store.read(session.id) == session
            server.cli("CONFIG", "SET", "min-replicas-to-write", "0")
            assert await store.end([session.id], reason="x", now=NOW) == [session.id]


async def test_when_the_memory_is_full_sessions_can_still_be_ended() -> None:
    with RedisServer() as server:
        async with started(server.url) as (store,):
            sessions = [await anew(store, user_id="ann") for _ in range(3)]
            server.cli("CONFIG", "SET", "maxmemory", "1")
            with pytest.raises(StoreUnavailable, match="maxmemory"):
                await anew(store)
            with pytest.raises(StoreUnavailable, match="maxmemory"):
                await store.apply(sessions[0].id, Changes(set={"k": bytes(1000)}))
            assert await store.end([sessions[0].id], reason="x", now=NOW) == [sessions[0].id]
            assert await store.end_user("ann", reason="x", now=NOW, keep=sessions[1].id) == [sessions[2].id]
            assert await store.alive([session.id for session in sessions]) == {sessions[1].id: 1}


async def followed(stream: ChangeStream) -> None:
    async with asyncio.timeout(10):
        while True:
            await stream.wait()
            stream.poll(lambda change: None)


async def _until(true: Any) -> None:
    async with asyncio.timeout(10):
        while not await asyncio.to_thread(true):
            await asyncio.sleep(0.01)


# ---- in a cluster


async def test_a_node_that_dies_in_the_middle_of_a_login_leaves_nothing_valid(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Link, "together", False)  # on one server there is no middle
    async with started(redis_server.url, 2) as (one, two):
        visitor, made = await anew(one), record(user_id="ann", epoch=await one.epoch("ann"))
        for step in (one.create(made), one.apply(visitor.id, identity(user_id="ann", epoch=made.epoch))):
            before = hold(one, "replace" if made.id in await two.alive([made.id]) else "create")
            after = hold(one, "note")
            login = asyncio.ensure_future(step)
            await before.arrived.wait()
            if step.__name__ == "apply":
                await two.end_user("ann", reason="x", now=NOW)
            before.release()
            await after.arrived.wait()  # the record is written, and nobody has looked at the epoch again
            login.cancel()
            with suppress(asyncio.CancelledError):
                await login
        assert not await two.alive([made.id])
        assert not await two.alive([visitor.id])
