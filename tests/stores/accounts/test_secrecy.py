"""No password and no hash in a log, a repr or an exception, at any level of logging."""

import asyncio
import logging
import sqlite3
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from coatcheck.accounts import Accounts, AccountsUnavailable, HashParameters, PasswordHasher, UsernameTaken

PASSWORD = "tangerine bicycle"
OTHER = "marmalade submarine"
TELLING = (PASSWORD, OTHER, "$argon2id$")


def chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


async def test_nothing_secret_is_logged_even_when_every_library_logs_everything(
    make_accounts: Callable[..., Accounts],
    path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("sqlalchemy", "sqlalchemy.engine", "sqlalchemy.pool", "aiosqlite", "asyncio", "alembic"):
        caplog.set_level(logging.DEBUG, logger=name)
    asyncio.get_running_loop().set_debug(True)
    monkeypatch.setattr("coatcheck.accounts.database.BUSY_TIMEOUT", 0.01)
    async with make_accounts() as accounts:
        alice = await accounts.register("alice", PASSWORD)
        await accounts.verify(alice, PASSWORD)
        await accounts.verify(alice, OTHER)
        await accounts.set_password(alice.id, OTHER)
        with pytest.raises(UsernameTaken):
            await accounts.register("alice", PASSWORD)
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(AccountsUnavailable):
            await accounts.set_password(alice.id, PASSWORD)
        writer.close()
    async with make_accounts(PasswordHasher(HashParameters(memory_kib=16, passes=1, lanes=1))) as accounts:
        assert await accounts.verify(alice, OTHER)
    assert any(record.name == "aiosqlite" for record in caplog.records)  # it was listened to
    for record in caplog.records:
        shown = f"{record.getMessage()} {record.args!r} {record.exc_text}"
        assert not [secret for secret in TELLING if secret in shown]


async def test_no_exception_carries_a_secret_in_itself_or_in_what_it_is_chained_to(
    make_accounts: Callable[..., Accounts], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coatcheck.accounts.database.BUSY_TIMEOUT", 0.01)
    async with make_accounts() as accounts:
        alice = await accounts.register("alice", PASSWORD)
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        failures: list[BaseException] = []
        for attempt in (
            accounts.register("bob", PASSWORD),
            accounts.register("alice", PASSWORD),
            accounts.register("bob", "short"),
            accounts.set_password(alice.id, OTHER),
            accounts.set_password(alice.id, "password1"),
            accounts.set_password("nobody", PASSWORD),
        ):
            with pytest.raises(Exception) as failure:
                await attempt
            failures.append(failure.value)
        writer.close()
    for failure in failures:
        for error in chain(failure):
            told = f"{error} {error!r} {vars(error)!r} {error.args!r}" + "".join(traceback.format_exception(error))
            assert not [secret for secret in TELLING if secret in told]
            assert not hasattr(error, "params")


async def test_no_repr_shows_a_secret(make_accounts: Callable[..., Accounts]) -> None:
    async with make_accounts() as accounts:
        alice = await accounts.register("alice", PASSWORD)
        await accounts.verify(alice, PASSWORD)
        for shown in (accounts, vars(accounts), alice, accounts._hasher, accounts._database, vars(accounts._hasher)):
            assert not [secret for secret in TELLING if secret in repr(shown)]
