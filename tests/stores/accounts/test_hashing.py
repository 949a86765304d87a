import asyncio
import subprocess
import sys
import threading
from contextlib import suppress

import argon2
import pytest

from coatcheck.accounts import (
    OWASP,
    RFC_9106_LOW_MEMORY,
    AccountsNotStarted,
    AccountsUnavailable,
    HashParameters,
    HashQueueFull,
    PasswordHasher,
)
from coatcheck.accounts.hashing import EncodedHash

CHEAP = HashParameters(memory_kib=8, passes=1, lanes=1)


class GatedHasher(PasswordHasher):
    """The real hasher, whose hashes wait at a gate."""

    def __init__(self, *, threads: int, queue: int) -> None:
        super().__init__(CHEAP, threads=threads, queue=queue)
        self.gate = threading.Event()
        self.arrived = threading.Semaphore(0)
        self.hashed: list[bytes] = []

    def _hash_now(self, password: bytes) -> EncodedHash:
        self.arrived.release()
        assert self.gate.wait(30)
        self.hashed.append(password)
        return super()._hash_now(password)

    async def full(self, count: int) -> list["asyncio.Task[EncodedHash]"]:
        """Start `count` hashes and come back when each thread holds one."""
        tasks = [asyncio.create_task(self.hash(b"%d" % number)) for number in range(count)]
        for _ in range(min(count, self._executor._max_workers)):
            await asyncio.to_thread(self.arrived.acquire)
        return tasks


async def test_the_default_is_argon2id_as_owasp_advises() -> None:
    hasher = PasswordHasher()
    encoded = await hasher.hash(b"tangerine bicycle")
    assert encoded.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert (await hasher.verify(encoded, b"tangerine bicycle")).matches
    assert not (await hasher.verify(encoded, b"tangerine Bicycle")).matches
    assert not (await hasher.verify(None, b"tangerine bicycle")).matches
    assert hasher.parameters == OWASP
    assert argon2.extract_parameters(hasher._dummy) == argon2.extract_parameters(encoded)
    await hasher.close()


async def test_nobodys_password_is_wrong_even_if_it_could_be_guessed() -> None:
    hasher = PasswordHasher(CHEAP)
    hasher._dummy = await hasher.hash(b"guessed")
    assert not (await hasher.verify(None, b"guessed")).matches
    await hasher.close()


async def test_the_second_option_of_rfc_9106_is_there_to_choose() -> None:
    hasher = PasswordHasher(RFC_9106_LOW_MEMORY)
    assert (await hasher.hash(b"x")).startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    await hasher.close()


async def test_each_hash_has_its_own_salt_of_16_bytes_and_32_bytes_of_output() -> None:
    hasher = PasswordHasher(CHEAP)
    one, other = await hasher.hash(b"x"), await hasher.hash(b"x")
    assert one != other
    assert argon2.extract_parameters(one).salt_len == 16
    assert argon2.extract_parameters(one).hash_len == 32
    await hasher.close()


async def test_a_hash_shows_itself_in_no_repr() -> None:
    hasher = PasswordHasher(CHEAP)
    encoded = await hasher.hash(b"x")
    rehasher = PasswordHasher(HashParameters(memory_kib=16, passes=1, lanes=1))
    verdict = await rehasher.verify(encoded, b"x")
    assert verdict.rehashed is not None
    for shown in (repr(encoded), repr([encoded]), repr(verdict), repr(vars(hasher)), f"{encoded!r}"):
        assert "argon2id$" not in shown
    await hasher.close()
    await rehasher.close()


@pytest.mark.parametrize("raised", [
    HashParameters(memory_kib=16, passes=1, lanes=1),
    HashParameters(memory_kib=8, passes=2, lanes=1),
    HashParameters(memory_kib=16, passes=1, lanes=2),
    HashParameters(memory_kib=8, passes=1, lanes=1, salt_bytes=24),
    HashParameters(memory_kib=8, passes=1, lanes=1, hash_bytes=48),
])  # fmt: skip
async def test_a_right_password_is_hashed_anew_when_any_parameter_has_changed(raised: HashParameters) -> None:
    before, after = PasswordHasher(CHEAP), PasswordHasher(raised)
    encoded = await before.hash(b"x")
    verdict = await after.verify(encoded, b"x")
    assert verdict.matches
    assert verdict.rehashed is not None
    assert argon2.extract_parameters(verdict.rehashed) == argon2.extract_parameters(after._dummy)
    again = await after.verify(verdict.rehashed, b"x")
    assert again.matches
    assert again.rehashed is None
    assert (await after.verify(encoded, b"y")).rehashed is None
    await before.close()
    await after.close()


async def test_beyond_threads_and_queue_a_hash_is_refused_at_once_and_the_others_are_done() -> None:
    hasher = GatedHasher(threads=2, queue=3)
    tasks = await hasher.full(5)
    for attempt in (hasher.hash(b"one too many"), hasher.verify(None, b"one too many")):
        with pytest.raises(HashQueueFull) as refusal:
            await attempt
        assert refusal.value.retry_after >= 1
        assert "one too many" not in str(refusal.value)
    hasher.gate.set()
    assert len(await asyncio.gather(*tasks)) == 5
    assert sorted(hasher.hashed) == [b"%d" % number for number in range(5)]
    assert await hasher.hash(b"there is room again")
    await hasher.close()


async def test_a_request_that_goes_away_frees_its_place_only_when_its_hash_has_ended() -> None:
    hasher = GatedHasher(threads=1, queue=0)
    [task] = await hasher.full(1)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    with pytest.raises(HashQueueFull):
        await hasher.hash(b"x")
    hasher.gate.set()
    await hasher.close()
    assert hasher.hashed == [b"0"]


async def test_a_waiting_request_that_goes_away_is_never_hashed() -> None:
    hasher = GatedHasher(threads=1, queue=1)
    first, second = await hasher.full(2)
    second.cancel()
    with suppress(asyncio.CancelledError):
        await second
    third = asyncio.create_task(hasher.hash(b"third"))
    await asyncio.sleep(0)
    hasher.gate.set()
    await asyncio.gather(first, third)
    assert hasher.hashed == [b"0", b"third"]
    await hasher.close()


async def test_the_event_loop_runs_on_while_a_password_is_hashed() -> None:
    hasher = GatedHasher(threads=1, queue=0)
    [task] = await hasher.full(1)
    await asyncio.sleep(0)  # the loop is here, though the hash is under way
    assert not task.done()
    hasher.gate.set()
    assert await task
    await hasher.close()


async def test_closing_lets_hashes_in_the_queue_end_and_takes_no_more() -> None:
    hasher = GatedHasher(threads=1, queue=2)
    tasks = await hasher.full(3)
    closing = asyncio.create_task(hasher.close())
    await asyncio.sleep(0)
    hasher.gate.set()
    await closing
    assert len(await asyncio.gather(*tasks)) == 3
    for _ in range(5):  # a refusal does not take a place either
        with pytest.raises(AccountsNotStarted, match="closed"):
            await hasher.hash(b"x")


@pytest.mark.parametrize(
    "damaged", ["", "!", "plain text", "$argon2id$v=19$m=8,t=1,p=1$c2FsdA$*", "$2b$12$abcdefghijklmnopqrstuv", "é"]
)
async def test_a_damaged_hash_is_an_error_that_does_not_show_it(damaged: str) -> None:
    hasher = PasswordHasher(CHEAP)
    with pytest.raises(AccountsUnavailable, match=r"^A password could not be checked: ") as failure:
        await hasher.verify(damaged, b"x")
    assert not damaged or damaged not in str(failure.value)
    assert failure.value.__context__ is None
    await hasher.close()


OUT_OF_MEMORY = """
import asyncio, resource
from coatcheck.accounts import AccountsUnavailable, HashParameters, PasswordHasher

async def main():
    hasher = PasswordHasher(HashParameters(memory_kib=2**22, passes=1, lanes=1), threads=1)
    resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
    for attempt in (hasher.hash(b"x"), hasher.verify(None, b"x")):
        try:
            await attempt
        except AccountsUnavailable as error:
            print(error.retry_after, error)
    await hasher.close()

asyncio.run(main())
"""


def test_a_machine_out_of_memory_is_an_error_to_try_again_after() -> None:
    run = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.splitlines() == [
        "1 A password could not be hashed: Memory allocation error.",
        "1 A password could not be checked: Memory allocation error.",
    ]


@pytest.mark.parametrize("wrong", [
    {"memory_kib": 7, "passes": 1, "lanes": 1},
    {"memory_kib": 15, "passes": 1, "lanes": 2},
    {"memory_kib": 8, "passes": 0, "lanes": 1},
    {"memory_kib": 8, "passes": 1, "lanes": 0},
    {"memory_kib": 8, "passes": 1, "lanes": 1, "salt_bytes": 7},
    {"memory_kib": 8, "passes": 1, "lanes": 1, "hash_bytes": 15},
])  # fmt: skip
def test_parameters_that_argon2_cannot_take_are_refused_when_made(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        HashParameters(**wrong)


@pytest.mark.parametrize("limits", [{"threads": 0}, {"queue": -1}])
def test_a_hasher_without_threads_is_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="threads must be 1 or more"):
        PasswordHasher(CHEAP, **limits)
