import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import resources
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from coatcheck.accounts import Accounts, AccountsSchemaTooNew, AccountsUnavailable
from coatcheck.accounts.database import ensure_private_file, place_of
from coatcheck.accounts.migrate import _one_at_a_time, migrate
from coatcheck.accounts.tables import SCHEMA, VERSION_TABLE, metadata

PASSWORD = "tangerine bicycle"

START_AND_REGISTER = """
import asyncio, sys
from coatcheck.accounts import Accounts, HashParameters, PasswordHasher

async def main(url, name):
    hasher = PasswordHasher(HashParameters(memory_kib=8, passes=1, lanes=1))
    print("ready", flush=True)
    sys.stdin.readline()
    async with Accounts(url, hasher=hasher) as accounts:
        await accounts.register(name, "tangerine bicycle")
        print([user.username for user in await accounts.list()])

asyncio.run(main(*sys.argv[1:]))
"""


def rows(path: Path, statement: str) -> list[tuple[str, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


async def test_an_empty_place_becomes_a_database_with_the_schema_that_the_code_expects(
    path: Path, make_accounts: Callable[..., Accounts]
) -> None:
    async with make_accounts():
        pass
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
        assert context.get_current_heads() == (SCHEMA,)
    engine.dispose()


async def test_a_second_start_finds_what_the_first_one_left(make_accounts: Callable[..., Accounts]) -> None:
    async with make_accounts() as accounts:
        alice = await accounts.register("alice", PASSWORD)
    async with make_accounts() as accounts:
        assert await accounts.find("alice") == alice
        assert await accounts.verify(alice, PASSWORD)


def test_processes_that_start_at_once_migrate_once_and_all_work(path: Path) -> None:
    names = ["ann", "bob", "cy"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", START_AND_REGISTER, f"sqlite:///{path}", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    try:
        greetings = [process.stdout.readline() for process in processes]
        for process in processes:
            with suppress(BrokenPipeError):  # it ended already, and will say why
                process.stdin.write("\n")
                process.stdin.flush()
        ends = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert [(errors, status) for _, errors, status in ends] == [("", 0)] * len(names)
    assert greetings == ["ready\n"] * len(names)
    assert rows(path, "SELECT username FROM coatcheck_users ORDER BY 1") == [(name,) for name in names]
    assert rows(path, f"SELECT version_num FROM {VERSION_TABLE}") == [(SCHEMA,)]
    assert list(path.parent.iterdir()) == [path]


async def test_accounts_that_start_at_once_in_one_process_migrate_once(make_accounts: Callable[..., Accounts]) -> None:
    several = [make_accounts() for _ in range(4)]
    await asyncio.gather(*(accounts.start() for accounts in several))
    await several[0].register("alice", PASSWORD)
    for accounts in several:
        assert await accounts.find("alice")
        await accounts.close()


async def test_a_process_that_comes_while_another_migrates_waits_for_it(
    path: Path, make_accounts: Callable[..., Accounts]
) -> None:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("PRAGMA journal_mode = WAL")
    other.execute("BEGIN IMMEDIATE")
    accounts = make_accounts()
    starting = asyncio.create_task(accounts.start())
    done, _ = await asyncio.wait([starting], timeout=0.3)
    assert not done
    other.execute("COMMIT")
    await starting
    await accounts.register("alice", PASSWORD)
    await accounts.close()
    other.close()


async def test_a_newer_process_that_migrated_while_this_one_waited_is_noticed(
    path: Path, make_accounts: Callable[..., Accounts]
) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode = WAL")
    other.execute("BEGIN IMMEDIATE")
    accounts = make_accounts()
    starting = asyncio.create_task(accounts.start())
    await asyncio.wait([starting], timeout=0.3)  # it has looked, found nothing, and waits for the lock
    other.execute(f"CREATE TABLE {VERSION_TABLE} (version_num TEXT)")
    other.execute(f"INSERT INTO {VERSION_TABLE} VALUES ('9999')")
    other.execute("COMMIT")
    with pytest.raises(AccountsSchemaTooNew, match="has schema 9999"):
        await starting
    await accounts.close()
    other.close()


async def test_databases_of_one_process_are_migrated_one_after_the_other_because_alembic_is_global(
    tmp_path: Path,
) -> None:
    several = [Accounts(f"sqlite:///{tmp_path}/{number}.sqlite3") for number in range(2)]
    with _one_at_a_time:
        starting = [asyncio.create_task(accounts.start()) for accounts in several]
        done, _ = await asyncio.wait(starting, timeout=0.3)
        assert not done
    await asyncio.gather(*starting)
    for accounts in several:
        assert await accounts.list() == []
        await accounts.close()


async def test_a_file_that_is_being_read_becomes_wal_when_the_reader_has_finished(
    path: Path, make_accounts: Callable[..., Accounts]
) -> None:
    reader = sqlite3.connect(path, isolation_level=None)
    reader.executescript("CREATE TABLE something (x); BEGIN; SELECT * FROM something")
    accounts = make_accounts()
    starting = asyncio.create_task(accounts.start())
    done, _ = await asyncio.wait([starting], timeout=0.3)
    assert not done
    reader.execute("COMMIT")
    await starting
    reader.close()
    assert rows(path, "PRAGMA journal_mode") == [("wal",)]
    await accounts.close()


async def test_a_lock_that_is_never_given_back_is_an_error_in_the_end(
    path: Path, make_accounts: Callable[..., Accounts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coatcheck.accounts.migrate.LOCK_TIMEOUT", 0.05)
    monkeypatch.setattr("coatcheck.accounts.database.BUSY_TIMEOUT", 0.01)
    for statement in (
        "BEGIN EXCLUSIVE",
        "CREATE TABLE something (x); BEGIN; SELECT * FROM something",
        "PRAGMA journal_mode = WAL; BEGIN IMMEDIATE",
    ):
        other = sqlite3.connect(path, isolation_level=None)
        other.executescript(statement)
        accounts = make_accounts()
        with pytest.raises(AccountsUnavailable, match="cannot be opened or brought up to date: SQLITE_BUSY"):
            await accounts.start()
        await accounts.close()
        other.close()


async def test_a_schema_newer_than_the_code_is_one_clear_error_and_nothing_is_touched(
    path: Path, make_accounts: Callable[..., Accounts]
) -> None:
    async with make_accounts() as accounts:
        await accounts.register("alice", PASSWORD)
    connection = sqlite3.connect(path)
    connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    accounts = make_accounts()
    with pytest.raises(AccountsSchemaTooNew) as refusal:
        await accounts.start()
    assert str(refusal.value) == (
        f"The accounts' database {path} has schema 9999, which a newer Coatcheck made; this one knows {SCHEMA} at most."
        " Install the newer one again, or restore the backup made before it ran."
    )
    assert path.read_bytes() == before
    await accounts.close()


async def test_a_migration_that_fails_leaves_nothing(path: Path, make_accounts: Callable[..., Accounts]) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE coatcheck_users (somebody_elses TEXT)")
    connection.commit()
    connection.close()
    accounts = make_accounts()
    with pytest.raises(AccountsUnavailable, match="cannot be opened or brought up to date: SQLITE_ERROR"):
        await accounts.start()
    assert rows(path, "SELECT name FROM sqlite_master") == [("coatcheck_users",)]
    await accounts.close()


def test_every_step_can_be_taken_back(path: Path) -> None:
    place = place_of(f"sqlite:///{path}")
    ensure_private_file(path)
    migrate(place)
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", "coatcheck.accounts:migrations")
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    engine.dispose()
    assert rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'") == [(VERSION_TABLE,)]
    migrate(place)
    assert ("coatcheck_users",) in rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")


async def test_a_database_that_is_up_to_date_is_not_written_to_nor_alembic_loaded(
    path: Path, make_accounts: Callable[..., Accounts]
) -> None:
    async with make_accounts():
        pass
    before = path.read_bytes()
    start = "import asyncio, sys; from coatcheck.accounts import Accounts; accounts = Accounts(sys.argv[1]);"
    start += "asyncio.run(accounts.start()); print('alembic' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", start, f"sqlite:///{path}"], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
    assert path.read_bytes() == before


def test_the_code_works_with_the_last_step_that_there_is() -> None:
    config = Config()
    config.set_main_option("script_location", "coatcheck.accounts:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA]


def test_the_steps_are_part_of_the_package() -> None:
    versions = resources.files("coatcheck.accounts") / "migrations" / "versions"
    names = sorted(file.name for file in versions.iterdir() if file.name.startswith("v"))
    assert names == [
        "v0001_users.py",
        "v0002_throttling.py",
        "v0003_services.py",
        "v0004_signing_keys.py",
        "v0005_activity.py",
        "v0006_passkeys.py",
        "v0007_login_hours.py",
    ]


async def test_a_database_of_the_first_release_keeps_its_users(
    path: Path, make_accounts: Callable[..., Accounts]
) -> None:
    async with make_accounts() as accounts:
        alice = await accounts.register("alice", PASSWORD)
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", "coatcheck.accounts:migrations")
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    engine.dispose()
    assert rows(path, f"SELECT version_num FROM {VERSION_TABLE}") == [("0001",)]
    async with make_accounts() as accounts:
        assert await accounts.verify(alice, PASSWORD)
        assert await accounts.list() == [alice]
    assert rows(path, f"SELECT version_num FROM {VERSION_TABLE}") == [(SCHEMA,)]


async def test_the_release_before_can_add_users_and_none_becomes_an_administrator(
    path: Path, make_accounts: Callable[..., Accounts]
) -> None:
    async with make_accounts() as accounts:
        before = sqlite3.connect(path)
        before.execute(
            "INSERT INTO coatcheck_users (id, username, username_key, name, password_hash, created_at, disabled)"
            " VALUES ('AAAAAAAAAAAAAAAAAAAAAA', 'ada', 'ada', 'Ada', '$argon2id$', 1.0, 0)"
        )
        before.commit()
        before.close()
        ada = await accounts.find("ada")
        assert ada is not None
        assert not ada.is_admin
