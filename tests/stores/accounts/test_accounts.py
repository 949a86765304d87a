import asyncio
import sqlite3
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import event

from coatcheck.accounts import (
    Accounts,
    AccountsNotStarted,
    HashParameters,
    HashQueueFull,
    NameRefused,
    PasswordHasher,
    PasswordRefused,
    UnknownUser,
    User,
    UsernameRefused,
    UsernameTaken,
)
from coatcheck.accounts.database import Database
from coatcheck.accounts.hashing import EncodedHash, Verdict
from coatcheck.ids import is_id

Make = Callable[..., Accounts]
PASSWORD = "tangerine bicycle"
OTHER = "marmalade submarine"
CHEAP = HashParameters(memory_kib=8, passes=1, lanes=1)
DEARER = HashParameters(memory_kib=16, passes=2, lanes=1)


def stored_hash(database: Any, username: str) -> str:
    ((found,),) = database.run(f"SELECT password_hash FROM coatcheck_users WHERE username = '{username}'")
    return found


def statements(accounts: Accounts) -> list[str]:
    seen: list[str] = []
    assert accounts._database is not None
    engine = accounts._database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    return seen


# Registering and finding


async def test_a_registered_user_can_be_found_and_verified(make_accounts: Make) -> None:
    async with make_accounts() as accounts:
        alice = await accounts.register("Alice", PASSWORD, "Alice Liddell")
        assert alice == User(
            id=alice.id, username="Alice", name="Alice Liddell", created_at=1_000_000.0, disabled=False
        )
        assert is_id(alice.id)
        assert await accounts.get(alice.id) == alice
        assert await accounts.find("ＡＬＩＣＥ") == alice
        assert await accounts.verify(alice, PASSWORD)
        assert not await accounts.verify(alice, OTHER)
        assert not await accounts.verify(alice, "")


async def test_an_administrator_is_made_on_purpose_and_never_by_being_first(make_accounts: Make) -> None:
    async with make_accounts() as accounts:
        assert not (await accounts.register("alice", PASSWORD)).is_admin
        assert (await accounts.register("bob", PASSWORD, is_admin=True)).is_admin
        assert [user.is_admin for user in await accounts.list()] == [False, True]
        for username, expected in (("alice", False), ("bob", True)):
            user = await accounts.find(username)
            assert user is not None
            assert user.is_admin is expected
            assert await accounts.get(user.id) == user


async def test_a_blank_name_becomes_the_username(make_accounts: Make) -> None:
    async with make_accounts() as accounts:
        assert (await accounts.register("alice", PASSWORD)).name == "alice"
        assert (await accounts.register("bob", PASSWORD, "  ")).name == "bob"


async def test_ids_are_never_given_twice(make_accounts: Make) -> None:
    async with make_accounts() as accounts:
        ids = {(await accounts.register(f"user{number}", PASSWORD)).id for number in range(20)}
    assert len(ids) == 20


@pytest.mark.parametrize("username, password, name, error", [
    ("", PASSWORD, "A", UsernameRefused),
    ("a b", PASSWORD, "A", UsernameRefused),
    ("alice", "short", "A", PasswordRefused),
    ("tangerine.bicycle", "Tangerine.Bicycle", "A", PasswordRefused),
    ("alice", "password1", "A", PasswordRefused),
    ("alice", PASSWORD, "A\nB", NameRefused),
    ("alice", PASSWORD, "x" * 101, NameRefused),
])  # fmt: skip
async def test_a_refused_registration_hashes_nothing_and_keeps_nothing(
    make_accounts: Make, username: str, password: str, name: str, error: type[Exception]
) -> None:
    hasher = PasswordHasher(CHEAP)
    async with make_accounts(hasher) as accounts:
        with pytest.raises(error):
            await accounts.register(username, password, name)
        assert await accounts.list() == []
        assert not hasher._executor._threads


@pytest.mark.parametrize("username", ["alice", "ALICE", "ａlice"])
async def test_a_taken_username_is_refused_in_any_case_and_form(make_accounts: Make, username: str) -> None:
    async with make_accounts() as accounts:
        alice = await accounts.register("Alice", PASSWORD)
        with pytest.raises(UsernameTaken, match=r"^The username alice is taken\.$" if username != "ALICE" else "ALICE"):
            await accounts.register(username, OTHER)
        assert await accounts.verify(alice, PASSWORD)


async def test_of_registrations_of_one_name_at_once_exactly_one_wins(make_accounts: Make) -> None:
    at_the_gate = asyncio.Barrier(4)

    class Gated(PasswordHasher):
        async def hash(self, password: bytes) -> EncodedHash:
            hashed = await super().hash(password)
            await at_the_gate.wait()  # each has seen that the name is free, none has written
            return hashed

    several = [make_accounts(Gated(CHEAP)) for _ in range(2)]
    for accounts in several:
        await accounts.start()
    passwords = [f"{PASSWORD} {number}" for number in range(4)]
    attempts = [several[number % 2].register("alice", password) for number, password in enumerate(passwords)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    winners = [number for number, result in enumerate(results) if isinstance(result, User)]
    assert len(winners) == 1
    for number, result in enumerate(results):
        if number not in winners:
            assert isinstance(result, UsernameTaken)
            assert result.__context__ is None or not hasattr(result.__context__, "params")
    [alice] = await several[0].list()
    assert results[winners[0]] == alice
    for number, password in enumerate(passwords):
        assert await several[1].verify(alice, password) == (number in winners)
    for accounts in several:
        await accounts.close()


@pytest.mark.parametrize("username", ["nobody", "", " ", "a b", "\ud800", "\x00", "x" * 65, "x" * 1_000_000])
async def test_an_unknown_or_impossible_username_finds_nobody(make_accounts: Make, username: str) -> None:
    async with make_accounts() as accounts:
        await accounts.register("alice", PASSWORD)
        assert await accounts.find(username) is None


@pytest.mark.parametrize("user_id", ["", "-", "A" * 22, "\ud800", "\x00", "x" * 1_000_000])
async def test_an_unknown_or_impossible_id_is_nobodys(make_accounts: Make, user_id: str) -> None:
    async with make_accounts() as accounts:
        await accounts.register("alice", PASSWORD)
        assert await accounts.get(user_id) is None
        with pytest.raises(UnknownUser, match=r"^There is no user with this id\.$"):
            await accounts.set_password(user_id, OTHER)
        with pytest.raises(UnknownUser):
            await accounts.set_disabled(user_id, True)


async def test_users_are_listed_by_username_page_by_page(make_accounts: Make) -> None:
    async with make_accounts() as accounts:
        for name in ("dora", "Bea", "ann", "Carl", "eve"):
            await accounts.register(name, PASSWORD)
        first = await accounts.list(2)
        second = await accounts.list(2, after=first[-1].username)
        third = await accounts.list(2, after=second[-1].username)
        assert [[user.username for user in page] for page in (first, second, third)] == [
            ["ann", "Bea"],
            ["Carl", "dora"],
            ["eve"],
        ]
        assert await accounts.list(2, after="eve") == []
        with pytest.raises(UsernameRefused):
            await accounts.list(2, after="\ud800")


# Changing


async def test_a_changed_password_replaces_the_old_one(make_accounts: Make) -> None:
    async with make_accounts() as accounts:
        alice = await accounts.register("alice", PASSWORD)
        await accounts.set_password(alice.id, OTHER)
        assert await accounts.verify(alice, OTHER)
        assert not await accounts.verify(alice, PASSWORD)


async def test_a_user_who_is_gone_before_the_new_password_is_hashed_is_unknown(
    make_accounts: Make, database: Any
) -> None:
    class Slow(PasswordHasher):
        async def hash(self, password: bytes) -> EncodedHash:
            hashed = await super().hash(password)
            database.run("DELETE FROM coatcheck_users WHERE name = 'gone'")
            return hashed

    async with make_accounts() as accounts:
        gone = await accounts.register("gone", PASSWORD)
    async with make_accounts(Slow(CHEAP)) as accounts:
        with pytest.raises(UnknownUser):
            await accounts.set_password(gone.id, OTHER)


@pytest.mark.parametrize("password", ["short", "password1", "x" * 2000, "Long-Username"])
async def test_a_changed_password_is_held_to_the_same_rules(make_accounts: Make, password: str) -> None:
    async with make_accounts() as accounts:
        alice = await accounts.register("long-username", PASSWORD)
        with pytest.raises(PasswordRefused):
            await accounts.set_password(alice.id, password)
        assert await accounts.verify(alice, PASSWORD)


async def test_a_disabled_users_password_is_never_right_until_enabled_again(make_accounts: Make) -> None:
    async with make_accounts() as accounts:
        alice = await accounts.register("alice", PASSWORD)
        await accounts.set_disabled(alice.id, True)
        disabled = await accounts.get(alice.id)
        assert disabled is not None
        assert disabled.disabled
        assert not await accounts.verify(disabled, PASSWORD)
        assert not await accounts.verify(alice, PASSWORD)  # what was read before counts for nothing
        await accounts.set_disabled(alice.id, False)
        assert await accounts.verify(disabled, PASSWORD)


async def test_changing_one_user_leaves_the_others_alone(make_accounts: Make) -> None:
    async with make_accounts() as accounts:
        alice, bob = await accounts.register("alice", PASSWORD), await accounts.register("bob", PASSWORD)
        await accounts.set_password(alice.id, OTHER)
        await accounts.set_disabled(alice.id, True)
        assert await accounts.verify(bob, PASSWORD)
        assert await accounts.find("bob") == bob


# Verifying


async def test_verifying_takes_the_same_steps_for_a_wrong_password_and_for_unknown_disabled_or_deleted_users(
    make_accounts: Make, recording_hasher: Callable[..., PasswordHasher]
) -> None:
    hasher = recording_hasher()
    async with make_accounts(hasher) as accounts:
        alice = await accounts.register("alice", PASSWORD)
        disabled = await accounts.register("disabled", PASSWORD)
        await accounts.set_disabled(disabled.id, True)
        deleted = msgspec.structs.replace(alice, id="A" * 22)
        seen = statements(accounts)
        steps: dict[str, tuple[list[str], list[str]]] = {}
        for name, user, password in (
            ("right", alice, PASSWORD),
            ("wrong", alice, OTHER),
            ("unknown", None, PASSWORD),
            ("disabled and right", disabled, PASSWORD),
            ("disabled and wrong", disabled, OTHER),
            ("deleted", deleted, PASSWORD),
        ):
            assert await accounts.verify(user, password) == (name == "right")
            steps[name] = (hasher.verified[:], seen[:])
            hasher.verified.clear()
            seen.clear()
        verified, queries = steps["right"]
        assert verified == ["$argon2id$v=19$m=8,t=1,p=1"]
        assert len(queries) == 1
        assert all(taken == steps["right"] for taken in steps.values())


async def test_logging_in_asks_the_database_as_often_for_an_unknown_user_as_for_a_known_one(
    make_accounts: Make,
) -> None:
    async with make_accounts() as accounts:
        await accounts.register("alice", PASSWORD)
        seen = statements(accounts)
        taken: list[list[str]] = []
        for username in ("alice", "nobody"):
            assert not await accounts.verify(await accounts.find(username), OTHER)
            taken.append(seen[:])
            seen.clear()
        assert taken[0] == taken[1]


async def test_an_unknown_user_takes_as_long_as_a_wrong_password(make_accounts: Make) -> None:
    hasher = PasswordHasher(HashParameters(memory_kib=8 * 1024, passes=1, lanes=1))
    async with make_accounts(hasher) as accounts:
        alice = await accounts.register("alice", PASSWORD)
        times: dict[str, list[float]] = {"known": [], "unknown": []}
        for _ in range(15):
            for name, user in (("known", alice), ("unknown", None)):
                start = time.perf_counter()
                await accounts.verify(user, OTHER)
                times[name].append(time.perf_counter() - start)
    # Without a dummy hash the ratio would be ten or more.
    ratio = statistics.median(times["known"]) / statistics.median(times["unknown"])
    assert 1 / 3 < ratio < 3


@pytest.mark.parametrize("password", ["x" * 1025, "x" * 1_000_000, "half \ud800 a character"])
async def test_a_password_that_nobody_can_have_is_wrong_for_everybody_without_hashing(
    make_accounts: Make, password: str, recording_hasher: Callable[..., PasswordHasher]
) -> None:
    hasher = recording_hasher()
    async with make_accounts(hasher) as accounts:
        alice = await accounts.register("alice", PASSWORD)
        assert not await accounts.verify(alice, password)
        assert not await accounts.verify(None, password)
        assert hasher.verified == []


async def test_a_full_queue_refuses_known_and_unknown_users_alike(make_accounts: Make) -> None:
    hasher = PasswordHasher(CHEAP, threads=1, queue=0)
    async with make_accounts(hasher) as accounts:
        alice = await accounts.register("alice", PASSWORD)
        assert hasher._places.acquire(blocking=False)  # somebody else's hash is under way
        for attempt in (
            accounts.verify(alice, PASSWORD),
            accounts.verify(None, PASSWORD),
            accounts.register("bob", PASSWORD),
            accounts.set_password(alice.id, OTHER),
        ):
            with pytest.raises(HashQueueFull):
                await attempt
        hasher._places.release()
        assert await accounts.verify(alice, PASSWORD)
        assert await accounts.find("bob") is None


# Hashing anew


async def test_a_login_renews_the_hash_when_the_parameters_rose(make_accounts: Make, database: Any) -> None:
    async with make_accounts() as accounts:
        alice = await accounts.register("alice", PASSWORD)
    before = stored_hash(database, "alice")
    async with make_accounts(PasswordHasher(DEARER)) as accounts:
        assert not await accounts.verify(alice, OTHER)
        assert stored_hash(database, "alice") == before
        assert await accounts.verify(alice, PASSWORD)
        after = stored_hash(database, "alice")
        assert after.startswith("$argon2id$v=19$m=16,t=2,p=1$")
        assert await accounts.verify(alice, PASSWORD)
        assert stored_hash(database, "alice") == after


async def test_a_disabled_users_hash_is_not_renewed(make_accounts: Make, database: Any) -> None:
    async with make_accounts() as accounts:
        alice = await accounts.register("alice", PASSWORD)
        await accounts.set_disabled(alice.id, True)
    before = stored_hash(database, "alice")
    async with make_accounts(PasswordHasher(DEARER)) as accounts:
        assert not await accounts.verify(alice, PASSWORD)
    assert stored_hash(database, "alice") == before


async def test_renewing_a_hash_does_not_undo_a_password_changed_meanwhile(make_accounts: Make) -> None:
    async with make_accounts() as accounts:
        alice = await accounts.register("alice", PASSWORD)
    async with make_accounts() as other:

        class ChangedMeanwhile(PasswordHasher):
            async def verify(self, encoded: str | None, password: bytes) -> Verdict:
                verdict = await super().verify(encoded, password)
                await other.set_password(alice.id, OTHER)
                return verdict

        async with make_accounts(ChangedMeanwhile(DEARER)) as accounts:
            await accounts.verify(alice, PASSWORD)
        assert await other.verify(alice, OTHER)
        assert not await other.verify(alice, PASSWORD)


async def test_a_hash_that_cannot_be_renewed_does_not_keep_the_user_out(
    make_accounts: Make, database: Any, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_accounts() as accounts:
        alice = await accounts.register("alice", PASSWORD)
    before = stored_hash(database, "alice")
    monkeypatch.setattr("coatcheck.accounts.database.BUSY_TIMEOUT", 0.05)
    async with make_accounts(PasswordHasher(DEARER)) as accounts:
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        assert await accounts.verify(alice, PASSWORD)
        writer.execute("ROLLBACK")
        writer.close()
        [record] = [record for record in caplog.records if record.name == "coatcheck.accounts"]
        assert record.getMessage() == (
            f"the password hash of user {alice.id} could not be renewed:"
            " The accounts' database cannot be asked: SQLITE_BUSY."
        )
        assert stored_hash(database, "alice") == before
        assert await accounts.verify(alice, PASSWORD)
        assert stored_hash(database, "alice") != before


# Life


async def test_accounts_that_are_not_open_say_so(make_accounts: Make) -> None:
    accounts = make_accounts()
    with pytest.raises(AccountsNotStarted, match=r"await accounts\.start"):
        await accounts.find("alice")
    await accounts.start()
    await accounts.start()  # twice does no harm
    await accounts.register("alice", PASSWORD)
    await accounts.close()
    await accounts.close()
    for attempt in (accounts.find("alice"), accounts.verify(None, PASSWORD), accounts.register("bob", PASSWORD)):
        with pytest.raises(AccountsNotStarted):
            await attempt


async def test_a_user_cannot_be_changed_in_place(make_accounts: Make) -> None:
    async with make_accounts() as accounts:
        alice = await accounts.register("alice", PASSWORD)
        with pytest.raises(AttributeError):
            alice.disabled = True  # type: ignore[misc]


async def test_many_at_once_share_a_few_connections(make_accounts: Make) -> None:
    async with make_accounts() as accounts:
        alice = await accounts.register("alice", PASSWORD)
        found = await asyncio.gather(*(accounts.find("alice") for _ in range(200)))
        assert found == [alice] * 200
        database: Database | None = accounts._database
        assert database is not None
        assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_request_that_goes_away_leaves_no_connection_taken(make_accounts: Make) -> None:
    async with make_accounts() as accounts:
        for number in range(30):
            task = asyncio.create_task(accounts.register(f"user{number}", PASSWORD))
            for _ in range(number):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        await accounts.register("alice", PASSWORD)
        assert accounts._database.engine.pool.checkedout() == 0
