"""Tickets of one use for WebSocket handshakes of clients that have no cookie. Leaves the handshake to `credentials`.

A page that keeps its access token to itself asks for a ticket over HTTP and shows it once, within seconds, where browsers
let it show something: in Sec-WebSocket-Protocol. It opens one connection and is worth nothing afterwards, unlike an access
token, which whoever reads it on the way may use for minutes. A ticket lives in its session's record, as a hash, and ends
with the session and with its secret.
"""

import hmac
import secrets
from typing import NamedTuple

import msgspec

from coatcheck.errors import SessionEnded, StoreUnavailable, TokenRefused, UsageError
from coatcheck.ids import SECRET_BYTES, encode, hash_secret, make_token, split_token
from coatcheck.manager import Sessions
from coatcheck.record import Changes, SessionRecord
from coatcheck.session import Session

__all__ = ["TICKET_SECONDS", "Ticket", "Tickets"]

TICKET_SECONDS = 30.0
"""For so long a ticket may be shown."""

_SECTION = "tickets"
_MOST = 16
"""So many of one session may wait to be shown; one more, and the oldest is worth nothing."""
_ATTEMPTS = 20


class Ticket(NamedTuple):
    """A ticket as it was shown, not looked at yet."""

    value: bytes


class _Waiting(msgspec.Struct, frozen=True, array_like=True):
    """A ticket that was not shown yet: the hash of its secret, the generation that it is good for, and until when."""

    hash: bytes
    generation: int
    until: float


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[_Waiting])


class Tickets:
    """Gives and takes the tickets of one manager's sessions."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def issue(self, session: Session) -> str:
        """Give a ticket for a session, good once and for `TICKET_SECONDS`.

        Raises UsageError for a visitor of whom nothing is stored, SessionEnded, StoreUnavailable.
        """
        record: SessionRecord | None = session.record
        if record is None:
            raise UsageError("nothing is stored of this visitor, so there is no session to give a ticket for")
        secret = encode(secrets.token_bytes(SECRET_BYTES))
        generation = record.generation
        for _ in range(_ATTEMPTS):
            now = self._sessions.clock.time()
            waiting = [one for one in _read(record) if one.until > now and one.generation == generation]
            until = now + TICKET_SECONDS
            waiting = [*waiting, _Waiting(hash_secret(secret.encode("ascii")), generation, until)][-_MOST:]
            if await self._write(record, waiting):
                return make_token(record.id, secret)
            record = await self._sessions.fresh(record.id)
            if record is None or record.generation != generation:
                raise SessionEnded("the session has ended, or its secret has changed, since this request read it")
        raise StoreUnavailable("the session is being changed by too many at once: try again")

    async def take(self, ticket: Ticket) -> Session:
        """Give the session of a ticket, which is worth nothing from then on: of two who show it, one gets in.

        Raises TokenRefused for what is no ticket of a live session; StoreUnavailable.
        """
        parts = split_token(ticket.value)
        if parts is None:
            raise TokenRefused("it is no ticket")
        session_id, shown = parts
        for _ in range(_ATTEMPTS):
            record = await self._sessions.fresh(session_id)
            if record is None:
                raise TokenRefused("the ticket belongs to no live session")
            now = self._sessions.clock.time()
            waiting = _read(record)
            found = [one for one in waiting if hmac.compare_digest(one.hash, shown)]
            if not found or found[0].until <= now or found[0].generation != record.generation:
                raise TokenRefused("the ticket was used, is too old, or its session has another secret")
            if await self._write(record, [one for one in waiting if one is not found[0] and one.until > now]):
                current = await self._sessions.fresh(session_id)
                if current is None or current.generation != record.generation:
                    raise TokenRefused("its session has just ended")
                self._sessions.active(session_id)
                session = Session(self._sessions, current)
                session.by_bearer = True
                return session
        raise StoreUnavailable("the session is being changed by too many at once: try again")

    async def _write(self, record: SessionRecord, waiting: list[_Waiting]) -> bool:
        section = {name: data for name, data in record.system.items() if name != _SECTION}
        if waiting:
            section[_SECTION] = _encoder.encode(waiting)
        return await self._sessions.apply(record, Changes(system=section), expect_version=record.version) is not None


def _read(record: SessionRecord) -> list[_Waiting]:
    data = record.system.get(_SECTION)
    if data is None:
        return []
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError:
        return []
