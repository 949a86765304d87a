"""Users and their passwords: registers, finds, verifies, changes. Leaves sessions, throttling and HTTP to others.

Whoever changes a password or disables an account ends that user's sessions afterwards (`Sessions.end_user`); accounts
know nothing of sessions.
"""

import asyncio
import logging
import secrets
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Executable, Row, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from coatcheck.accounts.database import Conflict, Database, Place, ensure_private_file, place_of
from coatcheck.accounts.errors import (
    AccountsNotStarted,
    AccountsUnavailable,
    LastAdmin,
    UnknownUser,
    UsernameRefused,
    UsernameTaken,
)
from coatcheck.accounts.hashing import EncodedHash, PasswordHasher
from coatcheck.accounts.migrate import migrate
from coatcheck.accounts.names import check_name, check_username, username_key
from coatcheck.accounts.passwords import check_password, password_bytes
from coatcheck.accounts.tables import users
from coatcheck.accounts.user import User
from coatcheck.clock import Clock, SystemClock
from coatcheck.ids import ID_BYTES, encode, is_id

__all__ = ["Accounts"]

_log = logging.getLogger("coatcheck.accounts")

_PUBLIC = (users.c.id, users.c.username, users.c.name, users.c.created_at, users.c.disabled, users.c.is_admin)
# Asked for when there is nobody to ask for, so that both take the same steps. No id looks like it.
_NOBODY = "-"


class Accounts:
    """The accounts in one database. Use it on one event loop, between `start()` and `close()` or as `async with`.

    `url` names an SQLite file, such as `sqlite:////var/lib/coatcheck/accounts.sqlite3`, or a database of PostgreSQL's, as
    `postgresql://user@host/database`; any number of processes may use it at once. `hasher` is closed with the accounts.
    Every method raises AccountsUnavailable when the database cannot be asked.
    """

    def __init__(self, url: str, *, hasher: PasswordHasher | None = None, clock: Clock | None = None) -> None:
        self._place: Place = place_of(url)
        self._hasher = PasswordHasher() if hasher is None else hasher
        self._clock: Clock = SystemClock() if clock is None else clock
        self._database: Database | None = None

    async def start(self) -> None:
        """Open the database. An SQLite file is made or migrated where that is needed; PostgreSQL with `migrate=true` alone.

        Raises AccountsSchemaTooNew, and UsageError where `migrate` has to be called first.
        """
        if self._database is not None:
            return
        if self._place.path is not None:
            await asyncio.to_thread(ensure_private_file, self._place.path)
        await asyncio.to_thread(migrate, self._place)
        self._database = Database(self._place)

    async def migrate(self) -> None:
        """Make the tables, or bring them to this release's form, in one transaction. Raises AccountsSchemaTooNew."""
        if self._place.path is not None:
            await asyncio.to_thread(ensure_private_file, self._place.path)
        await asyncio.to_thread(migrate, self._place, forced=True)

    async def close(self) -> None:
        """Let hashes under way end, and close the database. Closing twice does nothing."""
        database, self._database = self._database, None
        await self._hasher.close()
        if database is not None:
            await database.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def database(self) -> Database:
        """The open database, for what else of this package is kept in it. Raises AccountsNotStarted."""
        return self._started()

    async def register(self, username: str, password: str, name: str = "", *, is_admin: bool = False) -> User:
        """Make an account; a blank `name` becomes the username.

        Raises UsernameRefused, NameRefused, PasswordRefused, UsernameTaken, each with a sentence to show; HashQueueFull.
        """
        username = check_username(username)
        key = username_key(username)
        name = check_name(name) or username
        encoded = check_password(password, username)
        # Before the costly hash. Of two registrations at once both may pass here; the constraint decides between them.
        if await self._one(select(users.c.id).where(users.c.username_key == key)) is not None:
            raise _taken(username)
        hashed = await self._hasher.hash(encoded)
        user = User(
            id=encode(secrets.token_bytes(ID_BYTES)),
            username=username,
            name=name,
            created_at=self._clock.time(),
            disabled=False,
            is_admin=is_admin,
        )
        values = {
            "id": user.id,
            "username": username,
            "username_key": key,
            "name": name,
            "password_hash": hashed,
            "created_at": user.created_at,
            "disabled": False,
            "is_admin": is_admin,
        }
        try:
            await self._write(insert(users).values(values))
        except Conflict:
            raise _taken(username) from None
        return user

    async def find(self, username: str) -> User | None:
        """Give the user with this username, in whatever case or form it is typed."""
        try:
            key = username_key(check_username(username))
        except UsernameRefused:
            return None
        return _user(await self._one(select(*_PUBLIC).where(users.c.username_key == key)))

    async def get(self, user_id: str) -> User | None:
        """Give the user with this id."""
        if not is_id(user_id):
            return None
        return _user(await self._one(select(*_PUBLIC).where(users.c.id == user_id)))

    async def list(self, limit: int = 100, after: str | None = None) -> list[User]:
        """Give up to `limit` users in the order of their folded usernames; `after` is the last username already seen.

        Raises UsernameRefused for an `after` that cannot be a username.
        """
        query = select(*_PUBLIC).order_by(users.c.username_key).limit(limit)
        if after is not None:
            query = query.where(users.c.username_key > username_key(check_username(after)))
        return [User(*row) for row in await self._all(query)]

    async def verify(self, user: User | None, password: str) -> bool:
        """Tell whether this is the user's password. For None, and for a disabled user, it takes as long and is False.

        "As long" means one query and one verification with today's parameters; a hash that was made with others, and not
        yet renewed by a login, takes the time of those. A right password whose hash has other parameters than today's is
        hashed anew and kept. Disabled and changed since `user` was read counts as it is now. Raises HashQueueFull.
        """
        encoded = password_bytes(password)
        if encoded is None:  # nobody can have it, so that answering at once tells nothing
            return False
        user_id = _NOBODY if user is None else user.id
        row = await self._one(select(users.c.password_hash, users.c.disabled).where(users.c.id == user_id))
        stored: EncodedHash | None = None if row is None or row.disabled else row.password_hash
        verdict = await self._hasher.verify(stored, encoded)
        if verdict.rehashed is not None and stored is not None:
            await self._renew(user_id, stored, verdict.rehashed)
        return verdict.matches

    async def set_password(self, user_id: str, password: str) -> None:
        """Change a password. The caller checks the old one first, where that is due, and ends the sessions afterwards.

        Raises UnknownUser, PasswordRefused, HashQueueFull.
        """
        user = await self.get(user_id)
        if user is None:
            raise _unknown()
        hashed = await self._hasher.hash(check_password(password, user.username))
        if not await self._write(update(users).where(users.c.id == user_id).values(password_hash=hashed)):
            raise _unknown()

    async def set_disabled(self, user_id: str, disabled: bool, *, keep_admin: bool = False) -> None:
        """Disable or enable an account. The caller ends the sessions afterwards. Raises UnknownUser.

        With `keep_admin` also LastAdmin, where there would be no administrator left.
        """
        change = update(users).where(users.c.id == user_id).values(disabled=disabled)
        if not is_id(user_id) or not await self._change(change, keep_admin=keep_admin and disabled):
            raise _unknown()

    async def set_admin(self, user_id: str, is_admin: bool) -> None:
        """Make a user an administrator, or no longer one. Raises UnknownUser, LastAdmin."""
        change = update(users).where(users.c.id == user_id).values(is_admin=is_admin)
        if not is_id(user_id) or not await self._change(change, keep_admin=not is_admin):
            raise _unknown()

    async def _change(self, change: Executable, *, keep_admin: bool) -> int:
        """Change accounts, and give how many; with `keep_admin` all is as it was where no administrator would be left."""
        admins = select(users.c.id).where(users.c.is_admin)

        async def work(connection: AsyncConnection) -> int:
            if keep_admin:
                # Of two administrators who do this to each other at once one stays: PostgreSQL has the second wait here
                # for the first, SQLite at the change itself. What is left is looked at after that.
                await connection.execute(admins.order_by(users.c.id).with_for_update())
            changed = (await connection.execute(change)).rowcount
            if keep_admin and not (await connection.execute(admins.where(~users.c.disabled))).all():
                raise LastAdmin("This is the last administrator: make another user one first.")
            return changed

        return await self._started().run(work)

    async def search(self, text: str = "", *, after: str | None = None, limit: int = 50) -> Sequence[User]:
        """Give users of whose username or name this is a part, in whatever case, in the order of their folded usernames.

        `after` is the last username already seen. Raises UsernameRefused for an `after` that cannot be a username.
        """
        query = select(*_PUBLIC).order_by(users.c.username_key).limit(limit)
        if text:
            part = text.casefold()
            query = query.where(
                users.c.username_key.contains(part, autoescape=True)
                | func.lower(users.c.name).contains(part, autoescape=True)
            )
        if after is not None:
            query = query.where(users.c.username_key > username_key(check_username(after)))
        return [User(*row) for row in await self._all(query)]

    async def count(self) -> tuple[int, int]:
        """Give how many accounts there are, and how many of them are disabled."""
        query = select(func.count(), func.count().filter(users.c.disabled)).select_from(users)
        row = await self._one(query)
        assert row is not None
        total, disabled = tuple(row)
        return total, disabled

    async def _renew(self, user_id: str, stored: EncodedHash, renewed: EncodedHash) -> None:
        # Only if the hash is still the one that was verified: a password changed meanwhile stays changed.
        same = (users.c.id == user_id) & (users.c.password_hash == stored)
        try:
            await self._write(update(users).where(same).values(password_hash=renewed))
        except AccountsUnavailable as error:
            # The password was right all the same, and the next login tries again.
            _log.warning("the password hash of user %s could not be renewed: %s", user_id, error)

    async def _one(self, query: Executable) -> Row[Any] | None:
        rows = await self._all(query)
        return rows[0] if rows else None

    async def _all(self, query: Executable) -> Sequence[Row[Any]]:
        async def work(connection: AsyncConnection) -> Sequence[Row[Any]]:
            return (await connection.execute(query)).all()

        return await self._started().run(work)

    async def _write(self, statement: Executable) -> int:
        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(statement)).rowcount

        return await self._started().run(work)

    def _started(self) -> Database:
        if self._database is None:
            raise AccountsNotStarted("Accounts are not open: `await accounts.start()` first, or use `async with`.")
        return self._database


def _user(row: Row[Any] | None) -> User | None:
    return None if row is None else User(*row)


def _taken(username: str) -> UsernameTaken:
    return UsernameTaken(f"The username {username} is taken.")


def _unknown() -> UnknownUser:
    return UnknownUser("There is no user with this id.")
