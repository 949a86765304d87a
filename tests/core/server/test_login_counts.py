"""Failed logins: counted by hour and shown to whoever they concern, without an answer ever waiting for it."""

from pathlib import Path

import pytest

from coatcheck.accounts import AccountsUnavailable
from coatcheck.accounts.login_hours import Hour, LoginHours, hour_of
from coatcheck.server import login_counts
from tests.core.server.house import PASSWORD, House
from tests.core.server.test_app import run_lifespan

WRONG = "not the password"


async def counted(house: House) -> list[Hour]:
    return await house.services.logins.since(house.clock.time() - 86_400)


async def test_whoever_has_an_account_sees_what_failed_on_it_and_nobody_else_does(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        ada, bob = await house.log_in("ada"), await house.log_in("bob")
        house.clock.advance(60)
        stranger = house.client(headers={"user-agent": "Guess/1.0 \x1b[31m"})
        for username in ("ada", "ada", "nobody"):
            answer = await stranger.post("/v1/login", json={"username": username, "password": WRONG})
            assert answer.status_code == 401
        form = {"username": "ada", "code": "AAAA-BBBB-CCCC-DDDD"}
        assert (await stranger.post("/v1/login/recovery", json=form)).status_code == 401
        house.clock.advance(60)
        assert (await ada.post("/v1/reauthenticate", json={"password": WRONG})).status_code == 403
        change = {"current_password": WRONG, "new_password": "another long pass phrase"}
        assert (await ada.post("/v1/me/password", json=change)).status_code == 403
        # So far nothing is written: an answer tells by its time of nobody who has an account.
        assert await counted(house) == []
        await house.services.logins.flush()
        await house.activity.flush()
        first, *_ = (await ada.get("/v1/activity")).json()["events"]
        assert (first["kind"], first["session"], first["by"]) == ("login_failed", None, None)
        assert (first["detail"]["failures"], first["detail"]["address"]) == ("5", "192.0.2.7")
        assert [each["kind"] for each in (await bob.get("/v1/activity")).json()["events"]] == ["created"]
        assert await counted(house) == [Hour(hour_of(house.clock.time()), 2, 6)]


async def test_what_a_guesser_calls_itself_is_cut_and_fit_to_be_shown(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        ada = await house.log_in("ada")
        form = {"username": "ada", "password": WRONG}
        stranger = house.client(headers={"user-agent": "Guess\x1b[31m" + "x" * 5000})
        assert (await stranger.post("/v1/login", json=form)).status_code == 401
        await house.services.logins.flush()
        events = (await ada.get("/v1/activity")).json()["events"]
        (agent,) = [each["detail"]["user_agent"] for each in events if each["kind"] == "login_failed"]
        assert agent.startswith("Guess")
        assert len(agent) <= 310
        assert "\x1b" not in agent


async def test_a_name_that_nobody_has_is_written_nowhere(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.register("ada")
        form = {"username": "my-secret-typed-where-the-name-belongs", "password": WRONG}
        assert (await house.client().post("/v1/login", json=form)).status_code == 401
        await house.services.logins.flush()
        assert await counted(house) == [Hour(hour_of(house.clock.time()), 0, 1)]
    kept = b"".join(file.read_bytes() for file in tmp_path.glob("*.sqlite3*"))
    assert b"coatcheck_failed_logins" in kept
    assert b"typed-where" not in kept


async def test_what_cannot_be_written_waits_and_is_added_once_with_what_came_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with House(tmp_path) as house:
        ada = await house.log_in("ada")
        user = await house.accounts.find("ada")
        logins, add = house.services.logins, LoginHours.add

        async def away(*_: object) -> None:
            # Something fails while the write is under way.
            logins.failed(user, {"address": "meanwhile"})
            raise AccountsUnavailable("the disk is full")

        first = house.clock.time()
        logins.failed(user, {"address": "first"})
        with monkeypatch.context() as patch:
            patch.setattr(LoginHours, "add", away)
            house.clock.advance(1)
            await logins.flush()
            await logins.flush()
        assert [record.message for record in caplog.records if "cannot be counted" in record.message] == [
            "logins and failures cannot be counted, and are kept for a while: the disk is full"
        ]
        assert LoginHours.add is add
        await logins.flush()
        await logins.flush()
        assert await counted(house) == [Hour(hour_of(first), 1, 3)]
        events = (await ada.get("/v1/activity")).json()["events"]
        (event,) = [each for each in events if each["kind"] == "login_failed"]
        assert event["detail"] == {"address": "meanwhile", "failures": "3"}


async def test_nothing_is_asked_of_the_database_where_nothing_was_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with House(tmp_path) as house:
        await house.log_in("ada")
        calls: list[object] = []
        real = LoginHours.add

        async def add(self: LoginHours, *given: object) -> None:
            calls.append(given)
            await real(self, *given)  # type: ignore[arg-type]

        monkeypatch.setattr(LoginHours, "add", add)
        for _ in range(3):
            await house.services.logins.flush()
        assert len(calls) == 1


async def test_of_more_accounts_than_wait_only_the_sum_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login_counts, "MOST_ACCOUNTS", 1)
    async with House(tmp_path) as house:
        users = [await house.accounts.register(name, PASSWORD) for name in ("ada", "bob")]
        for _ in range(2):
            for user in users:
                house.services.logins.failed(user, {"address": "192.0.2.9"})
        await house.services.logins.flush()
        assert await counted(house) == [Hour(hour_of(house.clock.time()), 0, 4)]
        found = [await house.services.security.of_user(user.id) for user in users]
        assert [[one.detail["failures"] for one in each] for each in found] == [["2"], []]


async def test_a_worker_that_stops_writes_what_it_counted(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.services.logins.failed(None, {})
    await run_lifespan(house.app)
    async with House(tmp_path) as again:
        assert [(each.logins, each.failures) for each in await counted(again)] == [(0, 1)]
