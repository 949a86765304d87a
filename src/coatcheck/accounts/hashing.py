"""Hashes and verifies passwords with argon2id, away from the event loop and no more at once than the machine can bear.

Promises that a password checked against nobody costs what one checked against somebody costs. Leaves to `passwords` which
bytes are hashed, and to `accounts` what is kept.
"""

import asyncio
import base64
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import argon2
import msgspec
from argon2.exceptions import HashingError, InvalidHashError, VerificationError, VerifyMismatchError

from coatcheck.accounts.errors import AccountsNotStarted, AccountsUnavailable, HashQueueFull

__all__ = ["OWASP", "RFC_9106_LOW_MEMORY", "EncodedHash", "HashParameters", "PasswordHasher", "Verdict"]

T = TypeVar("T")

_VERSION = 0x13  # of argon2, as in RFC 9106, section 3.1


class EncodedHash(str):
    """A hash in text, such as `$argon2id$v=19$…`. Its `repr` tells nothing, whatever prints it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<password hash>"


class HashParameters(msgspec.Struct, frozen=True):
    """What one argon2id hash costs (RFC 9106, section 3.1). Raises ValueError for values that argon2 cannot take."""

    memory_kib: int
    """Memory of one hash in KiB; at least 8 for each lane."""
    passes: int
    """How often that memory is gone over."""
    lanes: int
    """How many threads one hash uses."""
    salt_bytes: int = 16
    hash_bytes: int = 32

    def __post_init__(self) -> None:
        if self.passes < 1 or self.lanes < 1 or self.memory_kib < 8 * self.lanes:
            raise ValueError("argon2id needs one pass, one lane, and 8 KiB for each lane, at least")
        if self.salt_bytes < 8 or self.hash_bytes < 16:
            raise ValueError("a password hash needs a salt of 8 bytes and a length of 16 bytes, at least")


OWASP = HashParameters(memory_kib=19 * 1024, passes=2, lanes=1)
"""The default. OWASP Password Storage Cheat Sheet: 19 MiB, two passes, one lane; some 30 ms of one core.

One lane keeps a login from taking several cores; the threads of `PasswordHasher` use those for other logins.
"""
RFC_9106_LOW_MEMORY = HashParameters(memory_kib=64 * 1024, passes=3, lanes=4)
"""RFC 9106, section 4, second recommended option: 64 MiB, three passes, four lanes; some four times the default's cost."""


class Verdict(msgspec.Struct, frozen=True):
    """What a verification found."""

    matches: bool
    rehashed: EncodedHash | None = None
    """The password hashed anew, if it matches and the stored hash was made with other parameters than today's."""


class PasswordHasher:
    """Hashes in `threads` threads; up to `queue` more may wait, and beyond that HashQueueFull is raised at once.

    A hash takes `parameters.memory_kib` while it runs, so the memory in use is bounded by `threads` times that.
    Works from any event loop. Threads are started when first needed.
    """

    def __init__(self, parameters: HashParameters = OWASP, *, threads: int = 2, queue: int = 32) -> None:
        if threads < 1 or queue < 0:
            raise ValueError("threads must be 1 or more, queue 0 or more")
        self.parameters = parameters
        self._argon2 = argon2.PasswordHasher(
            time_cost=parameters.passes,
            memory_cost=parameters.memory_kib,
            parallelism=parameters.lanes,
            hash_len=parameters.hash_bytes,
            salt_len=parameters.salt_bytes,
            type=argon2.Type.ID,
        )
        self._dummy = _dummy_hash(parameters)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="coatcheck-password")
        self._places = threading.BoundedSemaphore(threads + queue)

    async def hash(self, password: bytes) -> EncodedHash:
        """Hash with a new random salt. Raises HashQueueFull, or AccountsUnavailable where memory has run out."""
        return await self._run(lambda: self._hash_now(password))

    async def verify(self, encoded: str | None, password: bytes) -> Verdict:
        """Check a password against a stored hash; None stands for nobody's, costs the same and never matches.

        Raises HashQueueFull, or AccountsUnavailable where memory has run out or the stored hash is damaged.
        """
        return await self._run(lambda: self._verify_now(encoded, password))

    async def close(self) -> None:
        """Let the hashes under way and in the queue end, then stop the threads."""
        await asyncio.to_thread(self._executor.shutdown)

    async def _run(self, job: Callable[[], T]) -> T:
        if not self._places.acquire(blocking=False):
            raise HashQueueFull("Too many passwords are being checked at the moment; try again in a second.")
        try:
            future = self._executor.submit(job)
        except RuntimeError:
            self._places.release()
            raise AccountsNotStarted("The password hasher is closed; make a new one.") from None
        # By the thread's future, not by this task's: a request that goes away does not end the hash it asked for.
        future.add_done_callback(self._leave)
        return await asyncio.wrap_future(future)

    def _leave(self, _: "Future[T]") -> None:
        self._places.release()

    def _hash_now(self, password: bytes) -> EncodedHash:
        try:
            return EncodedHash(self._argon2.hash(password))
        except HashingError as error:
            reason = str(error)
        raise AccountsUnavailable(f"A password could not be hashed: {reason}.")

    def _verify_now(self, encoded: str | None, password: bytes) -> Verdict:
        try:
            self._compare(self._dummy if encoded is None else encoded, password)
            outdated = encoded is not None and self._argon2.check_needs_rehash(encoded)
        except VerifyMismatchError:
            return Verdict(matches=False)
        except (InvalidHashError, UnicodeEncodeError):  # the latter would show the text it could not encode
            reason = "the stored hash is damaged"
        except VerificationError as error:
            reason = str(error)
        else:
            return Verdict(encoded is not None, self._hash_now(password) if outdated else None)
        raise AccountsUnavailable(f"A password could not be checked: {reason}.")

    def _compare(self, encoded: str, password: bytes) -> None:
        """The one place where argon2 verifies; raises what argon2 raises. Tests count its calls."""
        self._argon2.verify(encoded, password)


def _dummy_hash(parameters: HashParameters) -> EncodedHash:
    """A hash in argon2's encoding that no known password has; made without hashing anything."""

    def encoded(size: int) -> str:
        return base64.b64encode(secrets.token_bytes(size)).rstrip(b"=").decode("ascii")

    cost = f"m={parameters.memory_kib},t={parameters.passes},p={parameters.lanes}"
    return EncodedHash(
        f"$argon2id$v={_VERSION}${cost}${encoded(parameters.salt_bytes)}${encoded(parameters.hash_bytes)}"
    )
