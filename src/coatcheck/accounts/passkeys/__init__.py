"""Passkeys: public keys of users' own devices, which prove by a signature, once per challenge, who is there.

Promises that a proof is good once, for this site and this purpose only, that the user was verified by the device (by PIN,
finger or face), and that a copy of an authenticator is noticed by its count (Web Authentication Level 3, sections 6.1.1, 7.1
and 7.2). Leaves the cryptography to the package webauthn, throttling and sessions to the server.
"""

import base64
import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from webauthn import (
    generate_authentication_options,
    generate_registration_options,
    options_to_json,
    verify_authentication_response,
    verify_registration_response,
)
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from coatcheck.accounts.accounts import Accounts
from coatcheck.accounts.database import Conflict
from coatcheck.accounts.errors import PasskeyRefused
from coatcheck.accounts.names import check_name
from coatcheck.accounts.tables import passkey_challenges, passkeys
from coatcheck.accounts.user import User
from coatcheck.clock import Clock, SystemClock
from coatcheck.ids import ID_BYTES, encode, is_id

__all__ = ["CHALLENGE_SECONDS", "MOST_PASSKEYS", "Passkey", "Passkeys", "relying_party"]

CHALLENGE_SECONDS = 300.0
"""Seconds for which a challenge may be answered."""
MOST_PASSKEYS = 20
"""How many a user may have."""
_MOST_CREDENTIAL = 1023  # bytes (Web Authentication Level 3, section 4, "Credential ID")
_TRANSPORTS = frozenset(("usb", "nfc", "ble", "smart-card", "hybrid", "internal"))
_PRUNE = 100
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")


class Passkey(msgspec.Struct, frozen=True, kw_only=True):
    """One of a user's passkeys. Times in seconds since 1970."""

    id: str
    user_id: str
    name: str
    created_at: float
    last_used_at: float | None
    transports: tuple[str, ...]
    backed_up: bool
    """Whether it is kept in its owner's account somewhere, and so outlives the device."""


class Passkeys:
    """The passkeys in one accounts' database. Use it while `accounts` is started; every method raises AccountsUnavailable.

    `origins` are those whose pages may ask for one, such as `https://app.example`; passkeys belong to the host name of the first
    that has one, and of the others only those under it count.
    """

    def __init__(self, accounts: Accounts, origins: Sequence[str], *, clock: Clock | None = None) -> None:
        self._accounts = accounts
        self._clock: Clock = SystemClock() if clock is None else clock
        self._rp_id, self._origins = relying_party(origins)

    # ---- making one

    async def begin_adding(self, user: User, session_id: str) -> dict[str, Any]:
        """Give what `navigator.credentials.create` is to be told (PublicKeyCredentialCreationOptionsJSON).

        Raises PasskeyRefused where the user has too many.
        """
        have = await self._all(passkeys.c.user_id == user.id)
        if len(have) >= MOST_PASSKEYS:
            raise _too_many()
        challenge = await self._challenge(_adding(user.id, session_id))
        options = generate_registration_options(
            rp_id=self._rp_id,
            rp_name="Coatcheck",
            user_id=user.id.encode("ascii"),
            user_name=user.username,
            user_display_name=user.name,
            challenge=challenge,
            timeout=int(CHALLENGE_SECONDS * 1000),
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
            ),
            exclude_credentials=[PublicKeyCredentialDescriptor(id=_decode(row.credential_id)) for row in have],
        )
        return cast("dict[str, Any]", json.loads(options_to_json(options)))

    async def add(self, user: User, session_id: str, name: str, credential: Mapping[str, Any]) -> Passkey:
        """Keep what an authenticator made (RegistrationResponseJSON). Raises PasskeyRefused, NameRefused."""
        name = check_name(name) or "Passkey"
        challenge = await self._take(credential, _adding(user.id, session_id))
        try:
            verified = verify_registration_response(
                credential=dict(credential),
                expected_challenge=challenge,
                expected_rp_id=self._rp_id,
                expected_origin=self._origins,
                require_user_verification=True,
            )
        except (WebAuthnException, ValueError, TypeError, KeyError, AttributeError):
            raise _refused() from None
        if not 16 <= len(verified.credential_id) <= _MOST_CREDENTIAL:
            raise _refused()
        made = Passkey(
            id=encode(secrets.token_bytes(ID_BYTES)),
            user_id=user.id,
            name=name,
            created_at=self._clock.time(),
            last_used_at=None,
            transports=_transports(credential),
            backed_up=verified.credential_backed_up,
        )
        row = {
            **msgspec.structs.asdict(made),
            "rp_id": self._rp_id,
            "credential_id": encode(verified.credential_id),
            "public_key": verified.credential_public_key,
            "sign_count": verified.sign_count,
            "transports": json.dumps(made.transports),
        }

        async def work(connection: AsyncConnection) -> bool:
            # Inserted first: on SQLite the count is then of a transaction that nobody else writes beside.
            await connection.execute(insert(passkeys).values(row))
            count = select(func.count()).select_from(passkeys).where(passkeys.c.user_id == user.id)
            if (await connection.execute(count)).scalar_one() <= MOST_PASSKEYS:
                return True
            await connection.execute(delete(passkeys).where(passkeys.c.id == made.id))
            return False

        try:
            if not await self._accounts.database.run(work):
                raise _too_many()
        except Conflict:
            raise PasskeyRefused("This passkey is known already.") from None
        return made

    # ---- showing one

    async def begin_login(self) -> dict[str, Any]:
        """Give what `navigator.credentials.get` is to be told by whoever is not known yet (PublicKeyCredentialRequestOptionsJSON)."""
        return self._asking(await self._challenge(_LOGIN), [])

    async def begin_again(self, user: User, session_id: str) -> dict[str, Any]:
        """Give the same for a user who is logged in, and is to prove again who they are. Raises PasskeyRefused without a passkey."""
        have = await self._all(passkeys.c.user_id == user.id)
        if not have:
            raise PasskeyRefused("You have no passkey.")
        return self._asking(await self._challenge(_again(user.id, session_id)), [row.credential_id for row in have])

    async def owner(self, credential: Mapping[str, Any]) -> User | None:
        """Give whose the passkey is that a response (AuthenticationResponseJSON) claims to be from: nothing is proved yet."""
        row = await self._row(credential)
        return None if row is None else await self._accounts.get(row.user_id)

    async def verify_login(self, credential: Mapping[str, Any]) -> User | None:
        """Give the user whom a response proves to be there; None for everything else, a disabled user's included."""
        return await self._verify(credential, _LOGIN)

    async def verify_again(self, user: User, session_id: str, credential: Mapping[str, Any]) -> bool:
        """Tell whether a response proves that this user is there, asked for in this session."""
        found = await self._verify(credential, _again(user.id, session_id))
        return found is not None and found.id == user.id

    async def _verify(self, credential: Mapping[str, Any], purpose: str) -> User | None:
        try:
            challenge = await self._take(credential, purpose)
        except PasskeyRefused:
            return None
        row = await self._row(credential)
        if row is None:
            return None
        handle = _part(credential, "userHandle")
        if handle is not None and handle != encode(row.user_id.encode("ascii")):
            return None
        try:
            verified = verify_authentication_response(
                credential=dict(credential),
                expected_challenge=challenge,
                expected_rp_id=row.rp_id,
                expected_origin=self._origins,
                credential_public_key=row.public_key,
                # Looked at below, where it is compared and written in one step.
                credential_current_sign_count=0,
                require_user_verification=True,
            )
        except (WebAuthnException, ValueError, TypeError, KeyError, AttributeError):
            return None
        count = verified.new_sign_count
        # Authenticators that do not count say 0 for ever (section 6.1.1); one that does and goes back has a copy somewhere.
        newer = (passkeys.c.sign_count < count) | ((passkeys.c.sign_count == 0) & (count == 0))
        used = update(passkeys).where((passkeys.c.id == row.id) & newer)
        used = used.values(sign_count=count, last_used_at=self._clock.time(), backed_up=verified.credential_backed_up)
        if not await self._write(used):
            return None
        user = await self._accounts.get(row.user_id)
        return None if user is None or user.disabled else user

    # ---- keeping them

    async def list(self, user_id: str) -> list[Passkey]:
        """Give a user's passkeys, oldest first."""
        return [_passkey(row) for row in await self._all(passkeys.c.user_id == user_id)]

    async def rename(self, user_id: str, passkey_id: str, name: str) -> Passkey | None:
        """Call one of a user's passkeys something; None where there is none. Raises NameRefused."""
        name = check_name(name) or "Passkey"
        mine = (passkeys.c.user_id == user_id) & (passkeys.c.id == passkey_id)
        if not is_id(passkey_id) or not await self._write(update(passkeys).where(mine).values(name=name)):
            return None
        return next((_passkey(row) for row in await self._all(mine)), None)

    async def remove(self, user_id: str, passkey_id: str) -> Passkey | None:
        """Forget one of a user's passkeys, and give it; None where there is none."""
        mine = (passkeys.c.user_id == user_id) & (passkeys.c.id == passkey_id)
        found: Sequence[Any] = await self._all(mine) if is_id(passkey_id) else ()
        return _passkey(found[0]) if found and await self._write(delete(passkeys).where(mine)) else None

    # ---- challenges

    async def _challenge(self, purpose: str) -> bytes:
        challenge = secrets.token_bytes(32)
        now = self._clock.time()
        row = {"hash": _hash(challenge), "purpose": purpose, "expires_at": now + CHALLENGE_SECONDS}
        old = select(passkey_challenges.c.hash).where(passkey_challenges.c.expires_at <= now).limit(_PRUNE)

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(insert(passkey_challenges).values(row))
            await connection.execute(delete(passkey_challenges).where(passkey_challenges.c.hash.in_(old)))

        await self._accounts.database.run(work)
        return challenge

    async def _take(self, credential: Mapping[str, Any], purpose: str) -> bytes:
        """Give the challenge that a response answers, which nobody can answer again. Raises PasskeyRefused."""
        try:
            data = json.loads(_decode(_part(credential, "clientDataJSON") or ""))
            challenge = _decode(data["challenge"])
        except (ValueError, TypeError, KeyError, AttributeError):
            raise _refused() from None
        now = self._clock.time()
        mine = (passkey_challenges.c.hash == _hash(challenge)) & (passkey_challenges.c.purpose == purpose)
        if not await self._write(delete(passkey_challenges).where(mine & (passkey_challenges.c.expires_at > now))):
            raise _refused()
        return challenge

    def _asking(self, challenge: bytes, credential_ids: Sequence[str]) -> dict[str, Any]:
        options = generate_authentication_options(
            rp_id=self._rp_id,
            challenge=challenge,
            timeout=int(CHALLENGE_SECONDS * 1000),
            allow_credentials=[PublicKeyCredentialDescriptor(id=_decode(each)) for each in credential_ids],
            user_verification=UserVerificationRequirement.REQUIRED,
        )
        return cast("dict[str, Any]", json.loads(options_to_json(options)))

    # ---- the database

    async def _row(self, credential: Mapping[str, Any]) -> Any | None:
        shown = credential.get("rawId")
        if not isinstance(shown, str) or len(shown) > 2 * _MOST_CREDENTIAL:
            return None
        rows = await self._all(passkeys.c.credential_id == shown)
        return rows[0] if rows else None

    async def _all(self, condition: Any) -> Sequence[Any]:
        query = select(passkeys).where(condition).order_by(passkeys.c.created_at, passkeys.c.id)

        async def work(connection: AsyncConnection) -> Sequence[Any]:
            return (await connection.execute(query)).all()

        return await self._accounts.database.run(work)

    async def _write(self, statement: Any) -> int:
        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(statement)).rowcount

        return await self._accounts.database.run(work)


def relying_party(origins: Sequence[str]) -> tuple[str, list[str]]:
    """Give the relying party's id, and the origins of it (Web Authentication Level 3, section 4, "RP ID").

    Configured origins, which come last, are before loopback's own. An address is no relying party's id.
    """
    hosts = [urlsplit(origin).hostname or "" for origin in origins]
    names = [host for host in hosts if ":" not in host and not host.replace(".", "").isdigit()]
    rp_id = next((name for name in names if name != "localhost"), "localhost")
    own = [origin for origin, host in zip(origins, hosts, strict=True) if host == rp_id or host.endswith(f".{rp_id}")]
    return rp_id, own


_LOGIN = "login"


def _adding(user_id: str, session_id: str) -> str:
    return f"add:{user_id}:{session_id}"


def _again(user_id: str, session_id: str) -> str:
    return f"again:{user_id}:{session_id}"


def _decode(text: str) -> bytes:
    """Base64url without padding (RFC 4648, section 5). Raises ValueError."""
    if not _BASE64URL.fullmatch(text):
        raise ValueError("not base64url")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _hash(challenge: bytes) -> str:
    return encode(hashlib.sha256(challenge).digest())


def _part(credential: Mapping[str, Any], name: str) -> str | None:
    response = credential.get("response")
    value = cast("Mapping[str, Any]", response).get(name) if isinstance(response, Mapping) else None
    return value if isinstance(value, str) else None


def _transports(credential: Mapping[str, Any]) -> tuple[str, ...]:
    response = credential.get("response")
    said = cast("Mapping[str, Any]", response).get("transports") if isinstance(response, Mapping) else None
    listed = cast("list[object]", said) if isinstance(said, list) else []
    return tuple(sorted({each for each in listed if isinstance(each, str) and each in _TRANSPORTS}))


def _passkey(row: Any) -> Passkey:
    return Passkey(
        id=row.id,
        user_id=row.user_id,
        name=row.name,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        transports=tuple(json.loads(row.transports)),
        backed_up=row.backed_up,
    )


def _refused() -> PasskeyRefused:
    return PasskeyRefused("This passkey could not be taken: ask for it again.")


def _too_many() -> PasskeyRefused:
    return PasskeyRefused(f"You have {MOST_PASSKEYS} passkeys already: remove one first.")
