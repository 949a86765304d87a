"""Refresh tokens: one use each, exchanged in one atomic step of the session's record (RFC 9700, section 4.14).

Promises that two tabs, a lost response and a retry log nobody out, and that a thief does not stay. Leaves access
tokens to `access`, the record to the store.

A token is `<session id>.<family><secret>`. The family stays for the session's life and is kept as a hash, so that any
token that was ever issued can be told from one that never was, however long ago it was used. The secret changes at
each use. While the grace lasts, the record also keeps the next token sealed under a key that only the spent token
gives: the same answer can be given again, and nothing at rest is worth stealing.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from coatcheck.errors import CoatcheckError, SessionRefused, StoreUnavailable
from coatcheck.ids import ID_LENGTH, SECRET_BYTES, encode, hash_secret
from coatcheck.manager import Sessions
from coatcheck.record import Changes, SessionRecord
from coatcheck.tokens.access import AccessTokens

__all__ = ["RefreshRefused", "RefreshTokens", "TokenPair"]

GRACE = 10.0
"""Seconds in which a spent token still gives the answer that it gave the first time."""
MOST_IN_GRACE = 32
"""Exchanges of one session within the grace, at most; then it is asked to wait."""

_SECTION = "refresh"
_PART = 43
_TOKEN = re.compile(rb"[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{86}")
_ATTEMPTS = 20


class RefreshRefused(CoatcheckError):
    """The token gives nothing. `error` is the code of RFC 6749, section 5.2; `reason` is for logs and events."""

    def __init__(self, reason: str, *, error: Literal["invalid_grant", "slow_down"] = "invalid_grant") -> None:
        super().__init__(f"the refresh token was refused: {reason}")
        self.reason = reason
        self.error = error


class TokenPair(NamedTuple):
    """What a client gets: an access token with its life in seconds, and the refresh token for the next."""

    access_token: str
    expires_in: int
    refresh_token: str

    def __repr__(self) -> str:
        return f"<TokenPair for {self.expires_in} s>"


class _Spent(msgspec.Struct, frozen=True, array_like=True):
    """A token that was used within the grace: when, and the next one sealed until that is used itself."""

    hash: bytes
    at: float
    sealed: bytes


class _State(msgspec.Struct, frozen=True, array_like=True):
    """The record's section. Holds hashes, and ciphertexts whose keys are not here."""

    family: bytes
    current: bytes
    spent: tuple[_Spent, ...] = ()


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_State)


class RefreshTokens:
    """Begins and continues token sessions. The sessions' manager and the access tokens must share a clock."""

    def __init__(self, sessions: Sessions, access: AccessTokens) -> None:
        self._sessions = sessions
        self._access = access

    async def begin(self, record: SessionRecord) -> TokenPair:
        """Give the first pair of a session that was just logged in. Raises SessionRefused if it is over already."""
        family, secret = _new_part(), _new_part()
        state = _State(hash_secret(family), hash_secret(secret))
        section = {**record.system, _SECTION: _encoder.encode(state)}
        merged = await self._sessions.apply(record, Changes(system=section))
        if merged is None:
            raise SessionRefused("the session ended while its tokens were being made: log in again")
        return self._pair(merged, family + secret)

    async def exchange(self, token: str) -> TokenPair:
        """Give the next pair for a refresh token.

        Raises RefreshRefused: for what is no token of a live session; for one whose successor was used, within the
        grace; and after the grace, when the session has just been ended because two parties hold its tokens.
        """
        parts = _split(token)
        if parts is None:
            raise RefreshRefused("it is no refresh token")
        session_id, family, secret = parts
        for _ in range(_ATTEMPTS):
            record = await self._sessions.fresh(session_id)
            state = None if record is None else _read(record.system)
            if record is None or state is None or not hmac.compare_digest(hash_secret(family), state.family):
                raise RefreshRefused("it belongs to no live session")
            now = self._sessions.clock.time()
            presented = hash_secret(secret)
            if not hmac.compare_digest(presented, state.current):
                return await self._spent(record, state, family, secret, presented, now)
            merged, following = await self._rotate(record, state, secret, presented, now)
            if merged is not None:
                return self._pair(merged, family + following)
            # Somebody else changed the record: it is read again, and what was current may be spent by now.
        raise StoreUnavailable("the session is being changed by too many at once: try again")

    async def revoke(self, token: str) -> None:
        """End the session of a refresh token (RFC 7009). A token that is not known is no error."""
        parts = _split(token)
        if parts is None:
            return
        session_id, family, _ = parts
        record = await self._sessions.fresh(session_id)
        state = None if record is None else _read(record.system)
        if record is not None and state is not None and hmac.compare_digest(hash_secret(family), state.family):
            await self._sessions.end(record.id, "revoked")

    async def _rotate(
        self, record: SessionRecord, state: _State, secret: bytes, presented: bytes, now: float
    ) -> tuple[SessionRecord | None, bytes]:
        # The token before this one led here: now that this one is used, nobody may be given it again.
        recent = [_Spent(each.hash, each.at, b"") for each in state.spent if now - each.at <= GRACE]
        if len(recent) >= MOST_IN_GRACE:
            raise RefreshRefused("it was exchanged too often in a moment", error="slow_down")
        following = _new_part()
        spent = _Spent(presented, now, _seal(secret, record.id, following))
        fresh = _State(state.family, hash_secret(following), (*recent, spent))
        section = {**record.system, _SECTION: _encoder.encode(fresh)}
        merged = await self._sessions.apply(record, Changes(system=section), expect_version=record.version)
        if merged is not None:
            self._sessions.active(record.id)
        return merged, following

    async def _spent(
        self, record: SessionRecord, state: _State, family: bytes, secret: bytes, presented: bytes, now: float
    ) -> TokenPair:
        for each in state.spent:
            if hmac.compare_digest(each.hash, presented) and now - each.at <= GRACE:
                following = _open(secret, record.id, each.sealed)
                if following is None:
                    raise RefreshRefused("its successor has been used")
                return self._pair(record, family + following)
        # Of the family, and neither current nor lately spent: two parties go on from one token, and one is a thief.
        await self._sessions.end_record(record, "refresh token reused")
        raise RefreshRefused("it was used before: its session was ended")

    def _pair(self, record: SessionRecord, refresh: bytes) -> TokenPair:
        access, lifetime = self._access.issue(record)
        return TokenPair(access, lifetime, f"{record.id}.{refresh.decode('ascii')}")


def _new_part() -> bytes:
    return encode(secrets.token_bytes(SECRET_BYTES)).encode("ascii")


def _split(token: str) -> tuple[str, bytes, bytes] | None:
    try:
        data = token.encode("ascii")
    except UnicodeEncodeError:
        return None
    if _TOKEN.fullmatch(data) is None:
        return None
    start = ID_LENGTH + 1
    return token[:ID_LENGTH], data[start : start + _PART], data[start + _PART :]


def _read(system: Mapping[str, bytes]) -> _State | None:
    data = system.get(_SECTION)
    if data is None:
        return None
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError:
        return None


def _key(secret: bytes) -> bytes:
    """A key from a secret of 256 random bits. Not its stored hash: another purpose, another name."""
    return hashlib.sha256(b"coatcheck refresh successor\x00" + secret).digest()


def _seal(secret: bytes, session_id: str, following: bytes) -> bytes:
    # One message under each key, since each token is exchanged once: a fixed nonce would do; a random one forgives more.
    nonce = secrets.token_bytes(12)
    return nonce + AESGCM(_key(secret)).encrypt(nonce, following, session_id.encode("ascii"))


def _open(secret: bytes, session_id: str, sealed: bytes) -> bytes | None:
    if not sealed:
        return None
    try:
        return AESGCM(_key(secret)).decrypt(sealed[:12], sealed[12:], session_id.encode("ascii"))
    except (InvalidTag, ValueError):
        return None
