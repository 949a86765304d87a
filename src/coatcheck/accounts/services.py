"""Services: machines that know Coatcheck by a credential of their own. Leaves what each may do to whoever authenticates one.

A credential is an id and a secret, as HTTP Basic carries them (RFC 7617; decision record 8). The secret is shown once;
only its SHA-256 is kept, which is enough for 256 random bits. A service is no user: it has no password and no session.
"""

import hmac
import json
import re
import secrets
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec
from sqlalchemy import Executable, Row, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from coatcheck.accounts.accounts import Accounts
from coatcheck.accounts.database import Conflict
from coatcheck.accounts.errors import ServiceRefused, UnknownService
from coatcheck.accounts.hashing import EncodedHash
from coatcheck.accounts.tables import services
from coatcheck.clock import Clock, SystemClock
from coatcheck.ids import ID_BYTES, SECRET_BYTES, encode, hash_secret, is_id

__all__ = ["Service", "ServiceAccounts"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MOST_AUDIENCES = 16
_AUDIENCE_LENGTH = 255
_PUBLIC = (services.c.id, services.c.name, services.c.audiences, services.c.created_at)
# Asked for where there is nobody to ask for, so that both take the same steps. No id looks like it.
_NOBODY = "-"


class Service(msgspec.Struct, frozen=True):
    """One service, as everybody may see it. Carries no secret and no hash."""

    id: str
    """128 random bits in base64url, 22 characters; never used for another service."""
    name: str
    """What the operator calls it; unique."""
    audiences: tuple[str, ...]
    """The URLs under which it is known as the audience of tokens (RFC 7519, section 4.1.3), exactly as they were given."""
    created_at: float
    """Seconds since 1970-01-01 UTC."""


class ServiceAccounts:
    """The services in the accounts' database. Use it while `accounts` is started.

    Every method raises AccountsUnavailable when the database cannot be asked.
    """

    def __init__(self, accounts: Accounts, *, clock: Clock | None = None) -> None:
        self._accounts = accounts
        self._clock: Clock = SystemClock() if clock is None else clock

    async def add(self, name: str, audiences: Sequence[str]) -> tuple[Service, str]:
        """Make a service; give it and its secret, which nobody can be shown again. Raises ServiceRefused.

        An audience is an absolute URL with `https` or `http` and without user or fragment (RFC 8707, section 2).
        """
        if _NAME.fullmatch(name) is None:
            raise ServiceRefused(
                "A service's name has up to 64 characters: small letters of ASCII, digits and . _ -, and begins with one "
                "of the first two."
            )
        kept = tuple(dict.fromkeys(audiences))
        if not 0 < len(kept) <= _MOST_AUDIENCES:
            raise ServiceRefused(f"A service has one audience at least, and {_MOST_AUDIENCES} at most.")
        for audience in kept:
            _check_audience(audience)
        service = Service(id=_new_id(), name=name, audiences=kept, created_at=self._clock.time())
        secret = encode(secrets.token_bytes(SECRET_BYTES))
        values = {
            "id": service.id,
            "name": name,
            "secret_hash": _hash(secret),
            "audiences": json.dumps(kept),
            "created_at": service.created_at,
        }
        try:
            await self._write(insert(services).values(values))
        except Conflict:
            raise ServiceRefused(
                f"There is a service {name} already; remove it first, or choose another name."
            ) from None
        return service, secret

    async def authenticate(self, service_id: str, secret: str) -> Service | None:
        """Give the service whose credential this is. Whether it is the id or the secret that is wrong takes as long."""
        asked = service_id if is_id(service_id) else _NOBODY
        rows = await self._all(select(*_PUBLIC, services.c.secret_hash).where(services.c.id == asked))
        given = _hash(secret)
        # With nothing found there is still something to compare with, and no answer that it could make right.
        stored = rows[0].secret_hash if rows else EncodedHash("\0" * len(given))
        if not hmac.compare_digest(stored, given) or not rows:
            return None
        return _service(rows[0])

    async def list(self) -> list[Service]:
        """Give every service by its name."""
        return [_service(row) for row in await self._all(select(*_PUBLIC).order_by(services.c.name))]

    async def remove(self, name: str) -> None:
        """Remove a service: its credential is worth nothing from now on, on every node. Raises UnknownService."""
        if not await self._write(delete(services).where(services.c.name == name)):
            raise UnknownService("There is no service of this name.")

    async def _all(self, query: Executable) -> Sequence[Row[Any]]:
        async def work(connection: AsyncConnection) -> Sequence[Row[Any]]:
            return (await connection.execute(query)).all()

        return await self._accounts.database.run(work)

    async def _write(self, statement: Executable) -> int:
        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(statement)).rowcount

        return await self._accounts.database.run(work)


def _check_audience(text: str) -> None:
    shown = ascii(text[:_AUDIENCE_LENGTH])
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    plain = text.isascii() and text.isprintable() and " " not in text and len(text) <= _AUDIENCE_LENGTH
    if not plain or parts.scheme not in ("https", "http") or not host:
        raise ServiceRefused(f"{shown} is not an audience; give a URL like https://orders.example.com")
    if "#" in text or "@" in parts.netloc:
        raise ServiceRefused(f"{shown} is not an audience; leave out user, password and fragment")


def _new_id() -> str:
    # None begins with a hyphen, so that each can be typed after a command's name.
    while (made := encode(secrets.token_bytes(ID_BYTES))).startswith("-"):
        pass
    return made


def _hash(secret: str) -> EncodedHash:
    return EncodedHash(encode(hash_secret(secret.encode("utf-8", "surrogatepass"))))


def _service(row: Row[Any]) -> Service:
    return Service(id=row.id, name=row.name, audiences=tuple(json.loads(row.audiences)), created_at=row.created_at)
