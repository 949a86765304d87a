"""Recovery codes: ten that are shown once and good once each, for whoever has lost everything else.

Promises that of two uses of one code at once one counts, and that the database holds nothing that could be used. Leaves
throttling and sessions to the server.
"""

import hashlib
import secrets

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from coatcheck.accounts.accounts import Accounts
from coatcheck.accounts.tables import recovery_codes, users
from coatcheck.accounts.user import User
from coatcheck.clock import Clock, SystemClock
from coatcheck.ids import encode

__all__ = ["CODES", "RecoveryCodes"]

CODES = 10
# Crockford's base 32: no letter looks like a digit. 16 of them are 80 bits, far beyond what can be guessed or tried out.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_LENGTH = 16
_GROUP = 4
_ALIKE = str.maketrans("oil", "011")
_NOBODY = "-"


class RecoveryCodes:
    """The codes in one accounts' database. Use it while `accounts` is started; every method raises AccountsUnavailable."""

    def __init__(self, accounts: Accounts, *, clock: Clock | None = None) -> None:
        self._accounts = accounts
        self._clock: Clock = SystemClock() if clock is None else clock

    async def make(self, user_id: str) -> list[str]:
        """Give new codes, which nobody can look up later; the ones before are worth nothing any more."""
        codes = ["".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH)) for _ in range(CODES)]
        now = self._clock.time()
        rows = [{"user_id": user_id, "hash": _hash(user_id, code), "created_at": now} for code in codes]

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(delete(recovery_codes).where(recovery_codes.c.user_id == user_id))
            await connection.execute(insert(recovery_codes), rows)

        await self._accounts.database.run(work)
        return ["-".join(code[at : at + _GROUP] for at in range(0, _LENGTH, _GROUP)) for code in codes]

    async def left(self, user_id: str) -> int:
        """Tell how many of a user's codes are good still."""
        query = select(func.count()).select_from(recovery_codes).where(recovery_codes.c.user_id == user_id)

        async def work(connection: AsyncConnection) -> int:
            return int((await connection.execute(query)).scalar_one())

        return await self._accounts.database.run(work)

    async def use(self, user: User | None, code: str) -> bool:
        """Tell whether this is a code of the user's, which it is no longer. For None and for a disabled user it is False."""
        plain = code.lower().replace("-", "").replace(" ", "").translate(_ALIKE)
        owner = _NOBODY if user is None or user.disabled else user.id
        right = (recovery_codes.c.user_id == owner) & (recovery_codes.c.hash == _hash(owner, plain))
        # As the account is now: it may have been disabled since it was looked up.
        enabled = select(users.c.id).where(users.c.id == owner, ~users.c.disabled).exists()

        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(delete(recovery_codes).where(right, enabled))).rowcount

        return await self._accounts.database.run(work) == 1


def _hash(user_id: str, code: str) -> str:
    return encode(hashlib.sha256(f"{user_id}:{code}".encode()).digest())
