import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from coatcheck.accounts import (
    Accounts,
    AccountsUnavailable,
    Allowance,
    Allowances,
    HashQueueFull,
    PasswordRefused,
    Throttle,
    Throttled,
    UsernameTaken,
)
from coatcheck.accounts.throttling import address_group
from coatcheck.errors import StoreUnavailable
from coatcheck.testing import ManualClock

PASSWORD, WRONG = "tangerine bicycle", "marmalade submarine"
HERE, THERE = "192.0.2.1", "192.0.2.2"
ACCOUNT, ADDRESS, DEVICE, REGISTRATION = 10, 25, 5, 4
PERIOD = 900.0
STEP = PERIOD / ACCOUNT
ALLOWANCES = Allowances(
    account=Allowance(ACCOUNT, PERIOD),
    device=Allowance(DEVICE, PERIOD),
    address=Allowance(ADDRESS, PERIOD),
    registration=Allowance(REGISTRATION, 3600),
)


class House:
    def __init__(self, accounts: Accounts, database: Any) -> None:
        self.database = database
        self.accounts = accounts
        self.clock = ManualClock()
        self.throttle = self.worker()

    def worker(self, clock: ManualClock | None = None, allowances: Allowances = ALLOWANCES) -> Throttle:
        """What another worker counts with; on another machine it has a clock of its own."""
        return Throttle(self.accounts, allowances, clock=clock or self.clock)

    async def guess(self, username: str = "ada", address: str = HERE, device: str | None = None) -> int | None:
        """Give a wrong password: None where it was looked at, or the seconds until one would be."""
        try:
            async with self.throttle.password(username, address, device):
                return None
        except Throttled as refusal:
            return refusal.retry_after

    async def succeed(self, username: str = "ada", address: str = HERE, device: str | None = None) -> None:
        async with self.throttle.password(username, address, device) as attempt:
            await attempt.refund()

    async def burn(self, username: str = "ada", address: str = HERE, device: str | None = None) -> int:
        """Guess until it is refused; give how many guesses were looked at."""
        for number in range(1000):
            if await self.guess(username, address, device) is not None:
                return number
        raise AssertionError("nothing stops it")

    def rows(self) -> dict[str, int]:
        return dict(self.database.run("SELECT counter, spent_until FROM coatcheck_throttling"))


@pytest.fixture
def open_house(make_accounts: Callable[..., Accounts], database: Any) -> Callable[[], Any]:
    @asynccontextmanager
    async def house() -> Any:
        async with make_accounts() as accounts:
            yield House(accounts, database)

    return house


async def test_the_allowance_of_an_account_comes_at_once_and_then_evenly(open_house: Callable[[], Any]) -> None:
    async with open_house() as house:
        assert await house.burn() == ACCOUNT
        assert await house.guess() == STEP
        house.clock.advance(STEP)
        assert await house.guess() is None
        assert await house.guess() == STEP
        house.clock.advance(PERIOD)
        assert await house.burn() == ACCOUNT


async def test_retry_after_is_the_second_from_which_an_attempt_counts(open_house: Callable[[], Any]) -> None:
    async with open_house() as house:
        await house.burn()
        house.clock.advance(0.25)
        seconds = await house.guess()
        assert seconds == STEP
        house.clock.advance(seconds - 0.3)
        assert await house.guess() == 1
        house.clock.advance(0.05)
        assert await house.guess() is None


async def test_what_is_refused_is_not_counted_and_writes_nothing(open_house: Callable[[], Any]) -> None:
    async with open_house() as house:
        await house.burn()
        before = house.rows()
        for _ in range(5):
            assert await house.guess() == STEP
        assert house.rows() == before
        house.clock.advance(STEP)
        assert await house.guess() is None


async def test_a_refusal_says_in_a_sentence_when_to_try_again(open_house: Callable[[], Any]) -> None:
    async with open_house() as house:
        await house.burn()
        for advance, words in ((0, "in 90 seconds."), (89, "in 1 second.")):
            house.clock.advance(advance)
            with pytest.raises(Throttled) as refusal:
                async with house.throttle.password("ada", HERE):
                    raise AssertionError("it was let through")
            assert str(refusal.value) == f"Too many attempts. Try again {words}"


async def test_success_is_given_back_and_so_never_runs_out(open_house: Callable[[], Any]) -> None:
    async with open_house() as house:
        for _ in range(3 * ADDRESS):
            await house.succeed()
        assert await house.burn() == ACCOUNT


async def test_success_gives_back_itself_and_no_guesses(open_house: Callable[[], Any]) -> None:
    async with open_house() as house:
        for _ in range(ACCOUNT - 1):
            assert await house.guess() is None
        await house.succeed()
        await house.succeed()
        assert await house.burn() == 1


async def test_a_refund_comes_once_and_never_more_than_what_still_weighs(open_house: Callable[[], Any]) -> None:
    async with open_house() as house:
        async with house.throttle.password("ada", HERE) as first:
            await first.refund()
            await first.refund()
        assert await house.burn() == ACCOUNT
        house.clock.advance(PERIOD)
        async with house.throttle.password("ada", HERE) as slow:
            house.clock.advance(STEP / 2)
            assert await house.guess() is None
            before = max(house.rows().values())
            await slow.refund()
            # Half of it had gone by itself.
            assert before - max(house.rows().values()) == STEP / 2 * 1_000_000
        house.clock.advance(PERIOD)
        async with house.throttle.password("ada", HERE) as slower:
            house.clock.advance(2 * STEP)
            assert await house.guess() is None
            before = house.rows()
            await slower.refund()
            assert house.rows() == before


@pytest.mark.parametrize("failure", [HashQueueFull("full"), AccountsUnavailable("away"), StoreUnavailable("away")])
async def test_a_password_that_could_not_be_looked_at_was_no_guess(
    open_house: Callable[[], Any], failure: Exception
) -> None:
    async with open_house() as house:
        for _ in range(2 * ACCOUNT):
            with pytest.raises(type(failure)):
                async with house.throttle.password("ada", HERE):
                    raise failure
        assert await house.burn() == ACCOUNT


@pytest.mark.parametrize("failure", [RuntimeError("broken"), asyncio.CancelledError()])
async def test_an_attempt_whose_outcome_is_unknown_stays_counted(
    open_house: Callable[[], Any], failure: BaseException
) -> None:
    async with open_house() as house:
        with pytest.raises(type(failure)):
            async with house.throttle.password("ada", HERE):
                raise failure
        assert await house.burn() == ACCOUNT - 1


async def test_accounts_are_counted_apart_and_spellings_of_one_together(open_house: Callable[[], Any]) -> None:
    async with open_house() as house:
        assert await house.burn("ada") == ACCOUNT
        for spelling in ("ADA", "Ada", "ａｄａ"):
            assert await house.guess(spelling, THERE) == STEP
        assert await house.guess("bob", THERE) is None


async def test_usernames_that_nobody_has_or_could_have_are_counted_as_others_are(
    open_house: Callable[[], Any],
) -> None:
    async with open_house() as house:
        await house.accounts.register("ada", PASSWORD)
        for number, username in enumerate(["ada", "nobody", "not a username", "", "x" * 5000, "\ud800", "ada\0"]):
            assert await house.burn(username, f"198.51.100.{number}") == ACCOUNT, username
            assert await house.guess(username, f"198.51.100.{number}") == STEP


async def test_an_address_is_counted_across_accounts_and_is_refused_alone(open_house: Callable[[], Any]) -> None:
    async with open_house() as house:
        looked_at = 0
        for number in range(ADDRESS + 5):
            looked_at += await house.guess(f"user{number}") is None
        assert looked_at == ADDRESS
        assert await house.guess("somebody else") == PERIOD / ADDRESS
        # The account was not charged for what the address was refused.
        assert await house.burn(f"user{ADDRESS}", THERE) == ACCOUNT


async def test_an_account_that_refuses_costs_the_address_nothing(open_house: Callable[[], Any]) -> None:
    async with open_house() as house:
        await house.burn("ada", THERE)
        for _ in range(ADDRESS):
            assert await house.guess("ada", HERE) == STEP
        assert sum([await house.guess(f"user{number}", HERE) is None for number in range(ADDRESS + 1)]) == ADDRESS


async def test_retry_after_waits_for_the_last_counter_to_give_way(open_house: Callable[[], Any]) -> None:
    async with open_house() as house:
        house.throttle = house.worker(allowances=Allowances(account=Allowance(1, 10), address=Allowance(1, 600)))
        assert await house.guess() is None
        assert await house.guess() == 600
        house.clock.advance(599)
        assert await house.guess() == 1
        assert await house.guess("bob") == 1
        assert await house.guess("ada", THERE) is None


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:C000:0201", "192.0.2.1"),
        ("2001:db8:1:2::1", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::"),
        ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ("fe80::1%eth0", "fe80::"),
        ("::1", "::"),
        ("", "unknown"),
        ("somewhere", "unknown"),
    ],
)
def test_addresses_are_grouped_as_clients_have_them(address: str, group: str) -> None:
    assert address_group(address) == group


async def test_a_whole_64_network_has_one_allowance_and_the_next_one_its_own(open_house: Callable[[], Any]) -> None:
    async with open_house() as house:
        for number in range(ADDRESS):
            assert await house.guess(f"user{number}", f"2001:db8::{number:x}") is None
        assert await house.guess("another", "2001:db8::ffff:ffff:ffff:ffff") is not None
        assert await house.guess("another", "2001:db8:0:1::1") is None


async def test_an_ipv4_address_in_ipv6_form_is_the_same_address(open_house: Callable[[], Any]) -> None:
    async with open_house() as house:
        for number in range(ADDRESS):
            assert await house.guess(f"user{number}", HERE) is None
        assert await house.guess("another", f"::ffff:{HERE}") is not None


async def test_a_known_device_gets_in_while_account_and_address_are_burnt(open_house: Callable[[], Any]) -> None:
    async with open_house() as house:
        await house.burn("ada")
        for number in range(ADDRESS):
            await house.guess(f"user{number}")
        assert await house.guess("another") is not None
        await house.succeed("ada", HERE, "ada.laptop")
        assert await house.guess("ada", HERE, "ada.laptop") is None


async def test_a_device_has_a_small_allowance_and_no_other(open_house: Callable[[], Any]) -> None:
    async with open_house() as house:
        assert await house.burn("ada", HERE, "ada.stolen") == DEVICE
        assert await house.guess("ada", THERE, "ada.stolen") == PERIOD / DEVICE
        assert await house.burn("ada", HERE, "ada.laptop") == DEVICE
        assert await house.burn("ada", HERE) == ACCOUNT


async def test_registrations_are_counted_by_address_apart_from_passwords(open_house: Callable[[], Any]) -> None:
    async with open_house() as house:

        async def register(number: int, address: str = HERE) -> None:
            async with house.throttle.registration(address):
                await house.accounts.register(f"user{number}", PASSWORD)

        for number in range(REGISTRATION):
            await register(number)
        with pytest.raises(Throttled) as refusal:
            await register(99)
        assert refusal.value.retry_after == 3600 / REGISTRATION
        await register(99, THERE)
        assert await house.guess() is None


async def test_a_form_that_is_refused_by_looks_costs_nothing_and_a_taken_username_costs(
    open_house: Callable[[], Any],
) -> None:
    async with open_house() as house:
        await house.accounts.register("ada", PASSWORD)
        for _ in range(2 * REGISTRATION):
            with pytest.raises(PasswordRefused):
                async with house.throttle.registration(HERE):
                    await house.accounts.register("bob", "short")
        for _ in range(REGISTRATION):
            with pytest.raises(UsernameTaken):
                async with house.throttle.registration(HERE):
                    await house.accounts.register("ada", PASSWORD)
        with pytest.raises(Throttled):
            async with house.throttle.registration(HERE):
                raise AssertionError("it was let through")


async def test_of_fifty_guesses_at_once_as_many_as_are_allowed_reach_the_hasher(
    make_accounts: Callable[..., Accounts], recording_hasher: Callable[..., Any]
) -> None:
    hasher = recording_hasher(threads=2, queue=100)
    async with make_accounts(hasher) as accounts:
        ada = await accounts.register("ada", PASSWORD)
        throttle = Throttle(accounts, ALLOWANCES, clock=ManualClock())
        gate, waiting = asyncio.Event(), 0

        async def guess(number: int) -> bool:
            nonlocal waiting
            waiting += 1
            await gate.wait()
            with suppress(Throttled):
                async with throttle.password("ada", f"198.51.100.{number}"):
                    assert not await accounts.verify(ada, WRONG)
                    return True
            return False

        guesses = [asyncio.create_task(guess(number)) for number in range(50)]
        while waiting < 50:
            await asyncio.sleep(0)
        gate.set()
        assert sum(await asyncio.gather(*guesses)) == ACCOUNT
        assert len(hasher.verified) == ACCOUNT


async def test_the_owner_gets_in_from_a_known_device_while_fifty_guesses_are_under_way(
    make_accounts: Callable[..., Accounts], recording_hasher: Callable[..., Any]
) -> None:
    async with make_accounts(recording_hasher(threads=2, queue=100)) as accounts, AsyncExitStack() as under_way:
        ada = await accounts.register("ada", PASSWORD)
        throttle = Throttle(accounts, ALLOWANCES, clock=ManualClock())
        for _ in range(ACCOUNT):  # let through, and still being looked at
            await under_way.enter_async_context(throttle.password("ada", THERE))
        with pytest.raises(Throttled):
            await under_way.enter_async_context(throttle.password("ada", HERE))
        async with throttle.password("ada", HERE, "ada.laptop") as attempt:
            assert await accounts.verify(ada, PASSWORD)
            await attempt.refund()


GUESS = """
import asyncio, sys
from coatcheck.accounts import Accounts, Allowance, Allowances, HashParameters, PasswordHasher, Throttle, Throttled

class Counting(PasswordHasher):
    verified = 0

    def _compare(self, encoded, password):
        Counting.verified += 1
        super()._compare(encoded, password)

async def main(url):
    hasher = Counting(HashParameters(memory_kib=8, passes=1, lanes=1), threads=1, queue=100)
    async with Accounts(url, hasher=hasher) as accounts:
        throttle = Throttle(accounts, Allowances(account=Allowance(10, 86400), address=Allowance(1000, 86400)))
        ada = await accounts.find("ada")

        async def guess():
            try:
                async with throttle.password("ada", "192.0.2.1"):
                    await accounts.verify(ada, "marmalade submarine")
            except Throttled:
                pass

        print("ready", flush=True)
        sys.stdin.readline()
        await asyncio.gather(*(guess() for _ in range(50)))
    print(Counting.verified)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_two_processes_that_guess_at_once_share_one_allowance(
    make_accounts: Callable[..., Accounts], database: Any
) -> None:
    async with make_accounts() as accounts:
        await accounts.register("ada", PASSWORD)
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", GUESS, database.url),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            await process.stdout.readline()
        ends = await asyncio.gather(*(process.communicate(b"\n") for process in processes))
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                process.kill()
    assert [errors for _, errors in ends] == [b"", b""]
    verified = [int(output) for output, _ in ends]
    assert sum(verified) == 10


async def test_old_counters_go_in_small_steps_and_those_that_weigh_stay(open_house: Callable[[], Any]) -> None:
    async with open_house() as house:
        now = int(house.clock.time() * 1_000_000)
        dead = [(f"dead:{number}", now - 61_000_000 - number) for number in range(200)]
        young = [("just:1", now - 59_000_000), ("just:2", now + 1_000_000)]
        house.database.run(f"INSERT INTO coatcheck_throttling VALUES {', '.join(map(repr, dead + young))}")
        for _ in range(16):
            await house.succeed()
        left = house.rows()
        assert sum(counter.startswith("dead:") for counter in left) == 72
        assert "dead:199" not in left  # the oldest first
        for _ in range(16):
            await house.succeed()
        assert set(house.rows()) - {"just:1", "just:2"} == {
            counter for counter in house.rows() if counter.startswith(("account:", "address:"))
        }
        assert {"just:1", "just:2"} <= set(house.rows())


async def test_counters_keep_no_username_and_no_address(open_house: Callable[[], Any]) -> None:
    async with open_house() as house:
        await house.guess("hunter2 typed into the wrong field", "2001:db8::1")
        await house.guess("ada", HERE, "ada.laptop")
        kinds = sorted(counter.partition(":")[0] for counter in house.rows())
        assert kinds == ["account", "address", "device"]
        assert {len(counter.partition(":")[2]) for counter in house.rows()} == {43}


async def test_a_clock_that_is_set_back_keeps_nobody_out_for_long(open_house: Callable[[], Any]) -> None:
    async with open_house() as house:
        await house.burn()
        house.clock.step(-86400)
        assert await house.burn() == ACCOUNT
        house.clock.step(86400)
        house.clock.advance(PERIOD)
        assert await house.burn() == ACCOUNT


async def test_clocks_of_workers_that_differ_a_little_still_share_one_allowance(open_house: Callable[[], Any]) -> None:
    async with open_house() as house:
        behind = ManualClock()
        behind.step(-5)
        workers = [house.throttle, house.worker(behind)]
        looked_at = 0
        for number in range(3 * ACCOUNT):
            house.throttle = workers[number % 2]
            looked_at += await house.guess() is None
        assert looked_at == ACCOUNT


async def test_a_smaller_allowance_after_a_restart_keeps_nobody_out_for_the_old_period(
    open_house: Callable[[], Any],
) -> None:
    async with open_house() as house:
        house.throttle = house.worker(allowances=Allowances(account=Allowance(10, 86400)))
        await house.burn()
        house.throttle = house.worker()
        assert await house.burn("ada", THERE) == ACCOUNT


async def test_an_allowance_that_does_not_divide_evenly_is_given_in_full(open_house: Callable[[], Any]) -> None:
    async with open_house() as house:
        for attempts in (1, 3, 7, 13):
            house.throttle = house.worker(allowances=Allowances(account=Allowance(attempts, 10.0)))
            assert await house.burn(f"user{attempts}", f"198.51.100.{attempts}") == attempts


@pytest.mark.parametrize(
    ("attempts", "period"), [(0, 900), (-1, 900), (10, 0), (10, -1), (10, float("nan")), (11, 1e-5)]
)
def test_an_allowance_that_cannot_be_counted_is_refused(attempts: int, period: float) -> None:
    with pytest.raises(ValueError, match="an allowance has one attempt, a period, and a microsecond"):
        Allowance(attempts, period)


def test_the_defaults_are_those_that_are_documented() -> None:
    assert Allowances() == Allowances(
        account=Allowance(10, 900),
        device=Allowance(10, 900),
        address=Allowance(100, 900),
        registration=Allowance(60, 3600),
    )


async def test_what_cannot_be_counted_is_not_let_through(
    open_house: Callable[[], Any], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coatcheck.accounts.database.BUSY_TIMEOUT", 0.01)
    async with open_house() as house:
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(AccountsUnavailable):
            await house.guess()
        writer.close()


async def test_a_refund_and_a_cleaning_that_fail_are_logged_and_nothing_else_fails(
    open_house: Callable[[], Any], path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("coatcheck.accounts.database.BUSY_TIMEOUT", 0.01)
    async with open_house() as house:
        writer = sqlite3.connect(path, isolation_level=None)
        async with house.throttle.password("ada", HERE) as attempt:
            writer.execute("BEGIN IMMEDIATE")
            await attempt.refund()
            await house.throttle._prune(0)
        writer.close()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "an attempt could not be refunded",
        "old counters could not be deleted",
    ]
