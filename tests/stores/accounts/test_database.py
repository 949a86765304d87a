import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import SQLAlchemyError

from coatcheck.accounts import Accounts, AccountsUnavailable, HashParameters, PasswordHasher
from coatcheck.accounts.database import Database, ensure_private_file, parse_url, place_of
from coatcheck.errors import UsageError

PASSWORD = "tangerine bicycle"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_database_and_its_journal_are_for_the_owner_only(
    path: Path, make_accounts: Callable[..., Accounts]
) -> None:
    before = os.umask(0)
    try:
        async with make_accounts() as accounts:
            await accounts.register("alice", PASSWORD)
            files = sorted(path.parent.iterdir())
            assert [file.name for file in files] == [path.name, f"{path.name}-shm", f"{path.name}-wal"]
            assert [oct(mode(file)) for file in files] == [oct(0o600)] * 3
    finally:
        os.umask(before)
    assert list(path.parent.iterdir()) == [path]


def test_the_file_is_private_from_the_first_moment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coatcheck.accounts.database._make_private", lambda file: None)  # what comes a moment later
    before = os.umask(0)
    try:
        ensure_private_file(path)
    finally:
        os.umask(before)
    assert mode(path) == 0o600


async def test_a_database_that_others_may_read_is_made_private_at_start(
    path: Path, make_accounts: Callable[..., Accounts]
) -> None:
    async with make_accounts():
        pass
    path.chmod(0o664)
    async with make_accounts():
        assert mode(path) == 0o600


def test_making_the_file_never_replaces_one_that_is_there(path: Path) -> None:
    path.write_bytes(b"something")
    ensure_private_file(path)
    assert path.read_bytes() == b"something"
    assert list(path.parent.iterdir()) == [path]


async def test_every_connection_to_sqlite_is_durable_and_waits_and_keeps_foreign_keys(
    path: Path, make_accounts: Callable[..., Accounts]
) -> None:
    async with make_accounts():
        pass
    database = Database(place_of(f"sqlite:///{path}"))
    async with database.engine.connect() as one, database.engine.connect() as other:
        for connection in (one, other):
            found = {
                pragma: (await connection.execute(text(f"PRAGMA {pragma}"))).scalar_one()
                for pragma in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
            assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}
    await database.close()


async def test_a_statement_that_fails_shows_no_parameters(path: Path) -> None:
    database = Database(place_of(f"sqlite:///{path}"))
    async with database.engine.connect() as connection:
        with pytest.raises(SQLAlchemyError) as failure:
            await connection.execute(text("SELECT * FROM missing WHERE x = :x"), {"x": "tangerine"})
    assert "tangerine" not in str(failure.value)
    await database.close()


@pytest.mark.parametrize("url", [
    "sqlite:////tmp/a.sqlite3", "sqlite+aiosqlite:////tmp/a.sqlite3", "sqlite+pysqlite:////tmp/a.sqlite3",
])  # fmt: skip
def test_the_driver_need_not_be_named(url: str) -> None:
    assert parse_url(url).render_as_string() == "sqlite+aiosqlite:////tmp/a.sqlite3"


@pytest.mark.parametrize("url", [
    "", "accounts.sqlite3", "mysql://localhost/accounts", "redis://localhost", "memory://", "sqlite:///a?mode=ro",
])  # fmt: skip
def test_what_is_neither_sqlite_nor_postgresql_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(UsageError, match="give a URL like sqlite:////"):
        Accounts(url)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite+aiosqlite://"])
def test_a_database_in_memory_is_refused_because_workers_could_not_share_it(url: str) -> None:
    with pytest.raises(UsageError, match="Accounts need a file that every worker can open"):
        Accounts(url)


def test_a_url_with_a_password_is_refused_without_showing_it() -> None:
    with pytest.raises(UsageError) as refusal:
        Accounts("mysql://coatcheck:tangerine@localhost/accounts")
    assert "tangerine" not in str(refusal.value)


async def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    accounts = Accounts(f"sqlite:///{tmp_path}/missing/accounts.sqlite3")
    with pytest.raises(
        AccountsUnavailable, match=r"missing/accounts\.sqlite3 cannot be opened: No such file or directory"
    ):
        await accounts.start()
    await accounts.close()


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\x00" + b"\xff" * 5000])
async def test_a_file_that_is_no_database_is_an_error_and_stays_as_it_is(
    path: Path, make_accounts: Callable[..., Accounts], content: bytes
) -> None:
    path.write_bytes(content)
    accounts = make_accounts()
    with pytest.raises(AccountsUnavailable, match=r"accounts\.sqlite3 cannot be opened or brought up to date: SQLITE_"):
        await accounts.start()
    assert path.read_bytes() == content
    await accounts.close()


async def test_a_directory_in_place_of_the_file_is_an_error(path: Path, make_accounts: Callable[..., Accounts]) -> None:
    path.mkdir()
    accounts = make_accounts()
    with pytest.raises(AccountsUnavailable, match="cannot be opened or brought up to date: SQLITE_CANTOPEN"):
        await accounts.start()
    await accounts.close()


async def test_a_database_that_fails_is_an_error_to_try_again_after_which_carries_no_secret(
    path: Path, make_accounts: Callable[..., Accounts]
) -> None:
    async with make_accounts() as accounts:
        alice = await accounts.register("alice", PASSWORD)
        [hashed] = sqlite3_all(path, "SELECT password_hash FROM coatcheck_users")[0]
        with sqlite3.connect(path) as by_hand:
            by_hand.execute("ALTER TABLE coatcheck_users RENAME TO gone")
        by_hand.close()
        for attempt in (
            accounts.find("alice"),
            accounts.get(alice.id),
            accounts.list(),
            accounts.verify(alice, PASSWORD),
            accounts.verify(None, PASSWORD),
            accounts.register("bob", PASSWORD),
            accounts.set_password(alice.id, PASSWORD),
            accounts.set_disabled(alice.id, True),
        ):
            with pytest.raises(
                AccountsUnavailable, match="accounts' database cannot be asked: SQLITE_ERROR"
            ) as failure:
                await attempt
            assert failure.value.retry_after >= 1
            assert failure.value.__context__ is None
            assert failure.value.__cause__ is None
            assert PASSWORD not in str(failure.value)
            assert hashed not in str(failure.value)
        with sqlite3.connect(path) as by_hand:
            by_hand.execute("ALTER TABLE gone RENAME TO coatcheck_users")
        by_hand.close()
        assert await accounts.verify(alice, PASSWORD)


async def test_a_database_that_another_process_keeps_locked_is_an_error_and_nothing_is_half_done(
    path: Path, make_accounts: Callable[..., Accounts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coatcheck.accounts.database.BUSY_TIMEOUT", 0.05)
    async with make_accounts() as accounts:
        alice = await accounts.register("alice", PASSWORD)
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(AccountsUnavailable, match="SQLITE_BUSY"):
            await accounts.register("bob", PASSWORD)
        with pytest.raises(AccountsUnavailable, match="SQLITE_BUSY"):
            await accounts.set_password(alice.id, "another long password")
        assert await accounts.verify(alice, PASSWORD)  # readers do not wait for writers
        writer.execute("ROLLBACK")
        writer.close()
        assert await accounts.find("bob") is None
        assert await accounts.register("bob", PASSWORD)


async def test_a_full_disk_is_an_error_and_what_was_acknowledged_stays(
    path: Path, make_accounts: Callable[..., Accounts]
) -> None:
    async with make_accounts() as accounts:
        alice = await accounts.register("alice", PASSWORD)

    small = Accounts(f"sqlite:///{path}", hasher=PasswordHasher(HashParameters(memory_kib=8, passes=1, lanes=1)))
    await small.start()

    def fill(dbapi_connection: object, _: object) -> None:
        cursor = dbapi_connection.cursor()  # type: ignore[attr-defined]
        cursor.execute("PRAGMA max_page_count = 1")  # SQLite raises it to the present size
        cursor.close()

    event.listen(small._database.engine.sync_engine, "connect", fill)
    registered = ["alice"]

    async def register_until_it_is_full() -> None:
        for number in range(1000):
            await small.register(f"user{number}", PASSWORD, "n" * 100)
            registered.append(f"user{number}")

    with pytest.raises(AccountsUnavailable, match="SQLITE_FULL"):
        await register_until_it_is_full()
    assert [user.username for user in await small.list(2000)] == sorted(registered)
    assert await small.verify(alice, PASSWORD)
    await small.close()


def sqlite3_all(path: Path, statement: str) -> list[tuple[str, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()
