"""What is particular to accounts and signing keys in PostgreSQL. What they have in common with SQLite runs on both."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, NullPool

from coatcheck.accounts import (
    Accounts,
    AccountsSchemaTooNew,
    AccountsUnavailable,
    HashParameters,
    PasswordHasher,
    ServiceAccounts,
    UsernameTaken,
)
from coatcheck.accounts.database import async_engine, place_of
from coatcheck.accounts.keys import DatabaseKeys
from coatcheck.accounts.tables import SCHEMA, VERSION_TABLE, metadata
from coatcheck.errors import StoreUnavailable, UsageError
from coatcheck.sealed import new_key
from coatcheck.testing import ManualClock
from coatcheck.tokens import KeyRing, KeyState
from coatcheck.tokens.keys import SigningKey
from tests.clients.postgres_server import PgBouncer, PostgresServer, free_port
from tests.stores.accounts.test_migrate import START_AND_REGISTER

PASSWORD = "tangerine bicycle"
MASTER = new_key()


def hasher() -> PasswordHasher:
    return PasswordHasher(HashParameters(memory_kib=8, passes=1, lanes=1))


@pytest.fixture
def empty(postgres: PostgresServer, schema: str) -> Iterator[str]:
    """A database without tables."""
    postgres.by_hand(f"CREATE DATABASE {schema}")
    yield schema
    postgres.by_hand(f"DROP DATABASE {schema} WITH (FORCE)")


def tables(postgres: PostgresServer, database: str) -> list[str]:
    found = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1"
    return postgres.by_hand(found, database=database).split()


# The schema


async def test_nothing_is_made_by_starting_and_the_refusal_names_the_command(
    postgres: PostgresServer, empty: str
) -> None:
    accounts = Accounts(postgres.url(database=empty))
    with pytest.raises(UsageError) as refusal:
        await accounts.start()
    assert str(refusal.value) == (
        f"postgresql://127.0.0.1:{postgres.port}/{empty} has no tables for accounts: run `coatcheck users migrate`, or"
        " await the accounts' migrate()"
    )
    with pytest.raises(UsageError, match="has no tables for accounts"):
        DatabaseKeys(postgres.url(database=empty), [MASTER]).version()
    assert tables(postgres, empty) == []
    await accounts.migrate()
    await accounts.migrate()
    await accounts.start()
    await accounts.close()


async def test_tables_are_those_that_the_code_expects_and_every_step_can_be_taken_back(
    postgres: PostgresServer, empty: str
) -> None:
    url = postgres.url(database=empty)
    await Accounts(url).migrate()

    def look(connection: Connection) -> None:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
        assert context.get_current_heads() == (SCHEMA,)

    def take_back(connection: Connection, to: str) -> None:
        config = Config()
        config.set_main_option("script_location", "coatcheck.accounts:migrations")
        config.attributes["connection"] = connection
        command.downgrade(config, to)

    engine = async_engine(place_of(url), poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(look)
    async with engine.begin() as connection:
        await connection.run_sync(take_back, "0001")
    with pytest.raises(UsageError, match="has accounts of an older release: run `coatcheck users migrate`"):
        await Accounts(url).start()
    async with Accounts(f"{url}?migrate=true", hasher=hasher()) as accounts:
        await accounts.register("alice", PASSWORD)
    async with engine.begin() as connection:
        await connection.run_sync(take_back, "base")
    assert tables(postgres, empty) == [VERSION_TABLE]
    await engine.dispose()


def test_processes_that_start_at_once_migrate_once_and_all_work(postgres: PostgresServer, empty: str) -> None:
    url, names = postgres.url(database=empty, migrate="true"), ["ann", "bob"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", START_AND_REGISTER, url, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        ends = [(*process.communicate("\n", timeout=60), process.returncode) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert [(errors, status) for _, errors, status in ends] == [("", 0)] * len(names)
    users = postgres.by_hand("SELECT username FROM coatcheck_users ORDER BY 1", database=empty)
    assert users.split() == names


async def test_whoever_comes_while_another_migrates_waits_for_it(postgres: PostgresServer, empty: str) -> None:
    url = postgres.url(database=empty, migrate="true")
    several = [Accounts(url, hasher=hasher()) for _ in range(4)]
    await asyncio.gather(*(accounts.start() for accounts in several))
    await several[0].register("alice", PASSWORD)
    for accounts in several:
        assert await accounts.find("alice")
        await accounts.close()
    postgres.by_hand(f"UPDATE {VERSION_TABLE} SET version_num = '9999'", database=empty)
    for attempt in (Accounts(url).start(), Accounts(url).migrate()):
        with pytest.raises(AccountsSchemaTooNew, match=f"{empty} has schema 9999, which a newer Coatcheck made"):
            await attempt


# Races, poolers, outages


@pytest.mark.parametrize("way", ["alone", "behind PgBouncer"])
async def test_of_many_who_take_one_username_at_once_one_gets_it(
    request: pytest.FixtureRequest, postgres: PostgresServer, empty: str, way: str
) -> None:
    server = postgres if way == "alone" else request.getfixturevalue("pgbouncer")
    url = server.url(database=empty)
    workers = [Accounts(url, hasher=hasher()) for _ in range(3)]
    await workers[0].migrate()
    for accounts in workers:
        await accounts.start()
    names = [f"name{number}" for number in range(5)]
    results = await asyncio.gather(
        *(accounts.register(name.upper() if number else name, PASSWORD) for name in names
          for number, accounts in enumerate(workers)),
        return_exceptions=True,
    )  # fmt: skip
    refused = [result for result in results if isinstance(result, BaseException)]
    assert [type(refusal) for refusal in refused] == [UsernameTaken] * 10
    assert [user.username.lower() for user in await workers[1].list()] == names
    services = ServiceAccounts(workers[2])
    orders, secret = await services.add("orders", ["https://orders.example.com"])
    assert await ServiceAccounts(workers[0]).authenticate(orders.id, secret) == orders
    for accounts in workers:
        await accounts.close()


async def test_behind_pgbouncer_nothing_is_prepared_beyond_its_transaction(
    pgbouncer: PgBouncer, accounts_on_postgres: object
) -> None:
    url = pgbouncer.url(database="accounts")
    workers = [Accounts(url, hasher=hasher()) for _ in range(3)]
    for accounts in workers:
        await accounts.start()
    # Far more callers than connections to the server: each transaction is on whichever is free.
    found = await asyncio.gather(*(accounts.find("nobody") for _ in range(40) for accounts in workers))
    assert set(found) == {None}
    for accounts in workers:
        await accounts.close()


async def test_a_server_that_restarts_costs_nobody_a_failure_and_one_that_is_away_is_an_outage(
    start_postgres: Callable[..., PostgresServer],
) -> None:
    server = start_postgres()
    url = server.url(migrate="true")
    async with Accounts(url, hasher=hasher()) as accounts:
        alice = await accounts.register("alice", PASSWORD)
        server.stop()
        began = time.monotonic()
        with pytest.raises(AccountsUnavailable, match="accounts' database cannot be asked: ") as failure:
            await accounts.verify(alice, PASSWORD)
        assert time.monotonic() - began < 5
        assert failure.value.__context__ is None
        server.start()
        assert await accounts.verify(alice, PASSWORD)
        server.stop()
        server.start()
        assert await accounts.verify(alice, PASSWORD)


async def test_a_server_that_says_nothing_is_an_outage_in_time(
    start_postgres: Callable[..., PostgresServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coatcheck.accounts.database.BUSY_TIMEOUT", 0.3)
    server = start_postgres()
    async with Accounts(server.url(migrate="true"), hasher=hasher()) as accounts:
        alice = await accounts.register("alice", PASSWORD)
        server.freeze()
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(AccountsUnavailable):
                await accounts.get(alice.id)
            assert time.monotonic() - began < 3
        server.thaw()
        assert await accounts.get(alice.id) == alice


@pytest.mark.parametrize("url", [
    "postgresql://app:s3cret@127.0.0.1:{port}/d", "postgresql+asyncpg://app:s3cret@127.0.0.1:{port}/d",
    "postgres://127.0.0.1:{port}/d?user=app&password=s3cret",
])  # fmt: skip
async def test_no_password_is_shown_by_whatever_goes_wrong(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    accounts = Accounts(url.format(port=free_port()), hasher=hasher())
    said: list[str] = []
    for attempt in (accounts.start(), accounts.migrate()):
        with pytest.raises(AccountsUnavailable, match=r"postgresql://127\.0\.0\.1:\d+/d cannot be opened") as failure:
            await attempt
        error: BaseException | None = failure.value
        while error is not None:
            said.append(repr(error))
            error = error.__cause__ or error.__context__
    keys = DatabaseKeys(url.format(port=free_port()), [MASTER])
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        keys.version()
    said += [repr(vars(accounts)), repr(accounts._place), repr(vars(keys)), repr(accounts._place.url), caplog.text]
    assert "s3cret" not in "".join(said)
    await accounts.close()


def test_what_libpq_does_not_know_is_refused() -> None:
    with pytest.raises(UsageError, match="has no option 'pool_size'"):
        Accounts("postgresql://localhost/d?pool_size=3")


# Signing keys


@pytest.fixture
def keys_url(accounts_on_postgres: object, postgres: PostgresServer) -> str:
    postgres.by_hand("TRUNCATE coatcheck_signing_keys", database="accounts")
    return postgres.url(database="accounts")


def test_machines_share_a_ring_and_see_at_their_next_look_what_another_has_done(keys_url: str) -> None:
    clock = ManualClock()
    storages = [DatabaseKeys(keys_url, [MASTER]) for _ in range(2)]
    here, there = (KeyRing(storage, clock=clock) for storage in storages)
    here.maintain()
    there.maintain()
    (first,) = here.list()
    assert there.list() == [first]
    rotated = there.rotate()
    _until(lambda: [state for _, state in here.list()] == [KeyState.SIGNING, KeyState.ANNOUNCED])
    clock.advance(601)
    assert here.signing()[0].kid == rotated.kid
    here.retire(rotated.kid)

    def is_refused() -> bool:
        clock.advance(2)
        return there.verifying(rotated.kid) is None

    _until(is_refused)
    for storage in storages:
        storage.close()
    _until(lambda: storages[0].version() == storages[1].version())  # a glance may be a moment old
    for storage in storages:
        storage.close()
        storage.close()


def test_machines_that_change_a_ring_at_once_lose_nothing(keys_url: str) -> None:
    storages = [DatabaseKeys(keys_url, [MASTER]) for _ in range(3)]
    rings = [KeyRing(storage, clock=ManualClock()) for storage in storages]
    start = threading.Barrier(len(rings))

    def begin_and_rotate(ring: KeyRing) -> None:
        start.wait(30)
        ring.maintain()
        ring.rotate()

    threads = [threading.Thread(target=begin_and_rotate, args=(ring,)) for ring in rings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [len(storage.load()) for storage in storages] == [4, 4, 4]
    for storage in storages:
        storage.close()


def test_the_first_of_two_that_begin_at_once_makes_the_ring(keys_url: str) -> None:
    late, early = DatabaseKeys(keys_url, [MASTER]), DatabaseKeys(keys_url, [MASTER])
    asked: list[int] = []

    def change(keys: list[SigningKey]) -> list[SigningKey]:
        asked.append(len(keys))
        if len(asked) == 1:
            KeyRing(early).maintain()
        return keys

    assert len(late.update(change)) == 1
    assert asked == [0, 1]
    late.close()
    early.close()


async def test_a_server_that_is_away_holds_up_nobody_for_long_and_a_stolen_key_is_not_believed_for_ever(
    start_postgres: Callable[..., PostgresServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coatcheck.accounts.keys_row._BELIEVED_SECONDS", 1.0)
    server = start_postgres()
    storage = DatabaseKeys(server.url(migrate="true"), [MASTER])
    await asyncio.to_thread(KeyRing(storage).maintain)
    await asyncio.sleep(0.11)
    assert storage.version() == 1  # on a thread with a loop of its own, as a server asks
    server.freeze()
    began = time.monotonic()
    for _ in range(5):
        await asyncio.sleep(0.11)
        assert storage.version() == 1
    assert time.monotonic() - began < 0.5 * 5
    await asyncio.sleep(1.0)
    with pytest.raises(StoreUnavailable, match="could not be asked for a while"):
        storage.version()
    server.thaw()
    async with asyncio.timeout(20):
        while True:
            try:
                assert storage.version() == 1
                break
            except StoreUnavailable:
                await asyncio.sleep(0.02)
    storage.close()


def _until(condition: object) -> None:
    deadline = time.monotonic() + 10
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)
