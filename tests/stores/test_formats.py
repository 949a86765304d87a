"""Records of other releases, on every store: what format 1 left is read, and what is written now, its first release reads.

`tests/history/formats.py` is that release's reader and writer. Nodes of several releases under load: tests/slow.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from coatcheck.errors import StoreUnavailable
from coatcheck.record import Changes, SessionRecord
from coatcheck.stores._redis_keys import Keys, bucket_of
from coatcheck.stores._sqlite_steps import key_of
from coatcheck.stores.contract import Store
from coatcheck.stores.postgres import PostgresStore
from coatcheck.stores.redis import RedisStore
from coatcheck.stores.sqlite import SQLiteStore
from tests.clients.postgres_server import PostgresServer
from tests.clients.redis_server import RedisServer
from tests.history.formats import coming, decode_first, encode_first
from tests.stores.sqlite_peer import by_hand

HASH, OLD_HASH = bytes(range(32)), bytes(reversed(range(32)))
HASHES = "92c420" + HASH.hex() + "c420" + OLD_HASH.hex()
FORMAT_1 = (
    "8da16601a168c420000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1fa163cb41d954fc40000000a178cb41edcd65"
    "00100000a16703a175a47a6fc3aba16505a161cb41d954fc40400000a172c3a17682a463617274c40493010203a46e616d65c404a3416461a173"
    "81a772656672657368c40180a16282aa757365725f6167656e74a746697265666f78a761646472657373a93139322e302e322e37a16f9192c420"
    "1f1e1d1c1b1a191817161514131211100f0e0d0c0b0a09080706050403020100cb41d954fc40400000"
)
"""Bytes as they were first written in format 1. They never change."""
RECORD = SessionRecord(
    id="A" * 22,
    secret_hash=HASH,
    created_at=1_700_000_000.0,
    expires_at=4_000_000_000.5,
    last_seen_at=1_700_000_123.25,
    generation=3,
    version=7,
    user_id="zoë",
    epoch=5,
    authenticated_at=1_700_000_001.0,
    remember=True,
    values={"cart": b"\x93\x01\x02\x03", "name": b"\xa3Ada"},
    system={"refresh": b"\x80"},
    about={"user_agent": "Firefox", "address": "192.0.2.7"},
    replaced=((OLD_HASH, 1_700_000_001.0),),
)


class OnSQLite:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.store: Store = SQLiteStore(path)

    def put(self, data: bytes) -> None:
        """Write the row as an older release left it."""
        by_hand(
            self._path,
            "INSERT INTO user_epoch VALUES ('zoë', 5)",
            "INSERT INTO session (key, id, user_id, epoch, generation, version, expires_at, last_seen_at, hashes, record) "
            f"VALUES ({key_of(RECORD.id)}, '{RECORD.id}', 'zoë', 5, 3, 7, 4000000000.5, 1700000123.25, X'{HASHES}', X'{data.hex()}')",
        )

    def get(self) -> bytes:
        (row,) = by_hand(self._path, f"SELECT record FROM session WHERE id = '{RECORD.id}'")[1]
        return row[0]


class OnPostgres:
    def __init__(self, server: PostgresServer, schema: str) -> None:
        self._server, self._schema = server, schema
        self.store: Store = PostgresStore(server.url(schema=schema), migrate=True)

    def put(self, data: bytes) -> None:
        s = self._schema
        self._server.by_hand(
            f"INSERT INTO {s}.user_epoch VALUES ('zoë', 5)",
            f"INSERT INTO {s}.session (id, user_id, epoch, generation, version, expires_at, last_seen_at, hashes, record) "
            f"VALUES ('{RECORD.id}', 'zoë', 5, 3, 7, 4000000000.5, 1700000123.25, '\\x{HASHES}', '\\x{data.hex()}')",
        )

    def get(self) -> bytes:
        return bytes.fromhex(
            self._server.by_hand(f"SELECT encode(record, 'hex') FROM {self._schema}.session WHERE id = '{RECORD.id}'")
        )


class OnRedis:
    def __init__(self, server: RedisServer, prefix: str) -> None:
        self._server = server
        self._keys = Keys(prefix)
        self.store: Store = RedisStore(server.url, prefix=prefix)

    def put(self, data: bytes) -> None:
        bucket = bucket_of(RECORD.id)
        head = b"r:7:3:69:" + bytes.fromhex(HASHES)
        typed = "".join(f"\\{byte:03d}" for byte in head + data)  # as Lua writes bytes
        self._server.cli("EVAL", f"return redis.call('SET', KEYS[1], '{typed}')", "1", self._keys.record(RECORD.id))
        self._server.cli("ZADD", self._keys.seen(bucket), "1700000123.25", RECORD.id)
        self._server.cli("ZADD", self._keys.expiry(bucket), "4000000000.5", RECORD.id)
        self._server.cli("SET", self._keys.user("zoë"), "5")

    def get(self) -> bytes:
        # Bytes go through redis-cli as hexadecimal digits.
        hexed = "return (redis.call('GET', KEYS[1]):gsub('.', function(c) return string.format('%02x', c:byte()) end))"
        value = bytes.fromhex(self._server.cli("EVAL", hexed, "1", self._keys.record(RECORD.id)))
        length, rest = value.split(b":", 4)[3:]
        return rest[int(length) :]


On = OnSQLite | OnPostgres | OnRedis


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def on(request: pytest.FixtureRequest, tmp_path: Path, schema: str) -> On:
    made: dict[str, Callable[[], On]] = {
        "sqlite": lambda: OnSQLite(tmp_path / "s.sqlite3"),
        "postgres": lambda: OnPostgres(request.getfixturevalue("postgres"), schema),
        "redis": lambda: OnRedis(request.getfixturevalue("redis_server"), schema),
    }
    return made[request.param]()


async def test_what_format_1_left_is_read_whole_and_what_is_written_over_it_format_1_reads(on: On) -> None:
    assert encode_first(RECORD).hex() == FORMAT_1
    await on.store.start()
    try:
        await asyncio.to_thread(on.put, bytes.fromhex(FORMAT_1))
        assert await on.store.read(RECORD.id) == RECORD
        assert await on.store.list_user("zoë") == [RECORD]
        merged = await on.store.apply(RECORD.id, Changes(set={"new": b"\x01"}, delete=frozenset({"name"})))
        assert merged == msgspec.structs.replace(
            RECORD, version=8, values={"cart": b"\x93\x01\x02\x03", "new": b"\x01"}
        )
        data = await asyncio.to_thread(on.get)
        assert decode_first(data, id=RECORD.id, version=8, last_seen_at=RECORD.last_seen_at) == merged
        assert await on.store.end([RECORD.id], reason="x", now=1_700_000_200.0) == [RECORD.id]
    finally:
        await on.store.close()


async def test_what_a_next_release_adds_is_passed_over(
    on: On,
) -> None:
    await on.store.start()
    try:
        await asyncio.to_thread(on.put, coming(RECORD))
        assert await on.store.read(RECORD.id) == RECORD
        assert await on.store.end([RECORD.id], reason="x", now=1_700_000_200.0) == [RECORD.id]
    finally:
        await on.store.close()


async def test_a_format_that_is_too_new_is_said_to_be_so_and_can_be_ended(on: On) -> None:
    await on.store.start()
    try:
        too_new = {**msgspec.msgpack.decode(bytes.fromhex(FORMAT_1)), "f": 2}
        await asyncio.to_thread(on.put, msgspec.msgpack.encode(too_new))
        with pytest.raises(StoreUnavailable, match="has format 2 and this release reads up to 1"):
            await on.store.read(RECORD.id)
        assert await on.store.end([RECORD.id], reason="x", now=1_700_000_200.0) == [RECORD.id]
    finally:
        await on.store.close()
