"""Accounts on a real SQLite file, with argon2 made cheap."""

from collections.abc import Callable
from pathlib import Path

import pytest

from coatcheck.accounts import Accounts, HashParameters, PasswordHasher

CHEAP = HashParameters(memory_kib=8, passes=1, lanes=1)


class SetClock:
    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class RecordingHasher(PasswordHasher):
    """The real hasher, which also writes down which parameters each verification had."""

    def __init__(self, parameters: HashParameters = CHEAP, **limits: int) -> None:
        super().__init__(parameters, **limits)
        self.verified: list[str] = []

    def _compare(self, encoded: str, password: bytes) -> None:
        self.verified.append(encoded.rsplit("$", 2)[0])
        super()._compare(encoded, password)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "accounts.sqlite3"


@pytest.fixture
def make_accounts(path: Path) -> Callable[..., Accounts]:
    def make(hasher: PasswordHasher | None = None) -> Accounts:
        return Accounts(f"sqlite:///{path}", hasher=hasher or PasswordHasher(CHEAP), clock=SetClock())

    return make


@pytest.fixture
def recording_hasher() -> Callable[..., RecordingHasher]:
    return RecordingHasher
