"""Tickets: good once, for seconds, for one session under one secret; shown in Sec-WebSocket-Protocol, seen by nobody."""

import asyncio
from typing import Any

import pytest

from coatcheck import SessionEnded, Sessions, StoreUnavailable, Tickets, TokenRefused, UsageError, session_of
from coatcheck.ids import encode
from coatcheck.record import Changes
from coatcheck.session import Session
from coatcheck.tickets import TICKET_SECONDS, Ticket
from tests.core.asgi.live_site import ORIGIN, LiveSite
from tests.core.test_websocket import Socket


class Seen:
    """What the application was shown, and what it selects."""

    def __init__(self, subprotocol: str | None = None) -> None:
        self.scopes: list[Any] = []
        self.subprotocol = subprotocol

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        assert (await receive())["type"] == "websocket.connect"
        message: dict[str, Any] = {"type": "websocket.accept"}
        if self.subprotocol is not None:
            message["subprotocol"] = self.subprotocol
        await send(message)
        user = session_of(scope).user_id
        await send({"type": "websocket.send", "text": str(user)})
        await receive()


def offer(*subprotocols: str) -> tuple[bytes, bytes]:
    return (b"sec-websocket-protocol", ", ".join(subprotocols).encode())


def connect(site: LiveSite, *subprotocols: str, headers: Any = (ORIGIN,)) -> Socket:
    return Socket(site.app, headers=[*headers, offer(*subprotocols)])


async def session_at(site: LiveSite) -> Session:
    _, cookie = await site.log_in()
    return await site.sessions.load(cookie.partition(b"=")[2])


async def refused(socket: Socket) -> int:
    message = await socket.next()
    assert message["type"] == "websocket.http.response.start", message
    return int(message["status"])


async def test_a_ticket_opens_one_websocket_and_nobody_else_sees_it() -> None:
    seen = Seen()
    site = LiveSite(seen)
    async with site:
        session = await session_at(site)
        ticket = await Tickets(site.sessions).issue(session)
        socket = connect(site, "coatcheck", f"coatcheck.ticket.{ticket}", "chat")
        accepted = await socket.next()
        assert (accepted["type"], accepted["subprotocol"]) == ("websocket.accept", "coatcheck")
        assert (await socket.next())["text"] == "user"
        (scope,) = seen.scopes
        secret = ticket.partition(".")[2]
        assert secret not in repr(scope)
        assert secret not in repr(accepted)
        assert offer("chat") in scope["headers"]
        assert len(site.sessions.connections.of(session.id or "")) == 1
        assert await refused(connect(site, "coatcheck", f"coatcheck.ticket.{ticket}")) == 401
        await session.log_out()
        assert (await socket.next())["code"] == 4401


async def test_what_the_application_selects_is_selected_and_without_our_offer_nothing_is_added() -> None:
    site = LiveSite(Seen("chat"))
    async with site:
        tickets, session = Tickets(site.sessions), await session_at(site)
        socket = connect(site, "chat", "coatcheck", f"coatcheck.ticket.{await tickets.issue(session)}")
        assert (await socket.next())["subprotocol"] == "chat"
        site.app.app = Seen()
        socket = connect(site, f"coatcheck.ticket.{await tickets.issue(session)}")
        assert "subprotocol" not in await socket.next()


async def test_of_two_who_show_a_ticket_at_once_one_gets_in() -> None:
    site = LiveSite(Seen())
    async with site:
        session = await session_at(site)
        tickets = Tickets(site.sessions)
        ticket = Ticket((await tickets.issue(session)).encode())
        taken = await asyncio.gather(*(tickets.take(ticket) for _ in range(8)), return_exceptions=True)
        assert [type(one) for one in taken if not isinstance(one, Session)] == [TokenRefused] * 7


async def test_a_ticket_is_worth_nothing_late_or_after_its_session_or_under_another_secret() -> None:
    site = LiveSite(Seen())
    async with site:
        tickets = Tickets(site.sessions)

        async def worth(ticket: str) -> bool:
            try:
                return (await tickets.take(Ticket(ticket.encode()))).user_id == "user"
            except TokenRefused:
                return False

        session = await session_at(site)
        late, timely = await tickets.issue(session), await tickets.issue(session)
        site.clock.advance(TICKET_SECONDS - 1)
        assert await worth(timely)
        site.clock.advance(1)
        assert not await worth(late)
        before = await tickets.issue(session)
        await session.regenerate()
        assert not await worth(before)
        after = await tickets.issue(session)
        await session.log_out()
        assert not await worth(after)
        with pytest.raises(UsageError, match="no session to give a ticket for"):
            await tickets.issue(session)


@pytest.mark.parametrize(
    "made_up", ["", "x", "é", f"{encode(bytes(16))}.{encode(bytes(32))}", "a" * 22 + "." + "a" * 43]
)
async def test_what_was_never_issued_is_no_ticket(made_up: str) -> None:
    site = LiveSite(Seen())
    async with site:
        session = await session_at(site)
        ticket = await Tickets(site.sessions).issue(session)
        for shown in (made_up, ticket[:-1], ticket + "A", ticket[:23] + encode(bytes(32))):
            with pytest.raises(TokenRefused):
                await Tickets(site.sessions).take(Ticket(shown.encode()))
        # The session's own token is no ticket, and a ticket no session token.
        assert session.record is not None
        assert (await site.sessions.load(ticket.encode())).is_new


async def test_an_old_request_gets_no_ticket_for_a_session_that_has_ended() -> None:
    site = LiveSite(Seen())
    async with site:
        session = await session_at(site)
        await site.sessions.end(session.id or "")
        with pytest.raises(SessionEnded):
            await Tickets(site.sessions).issue(session)


async def test_tickets_that_wait_are_bounded_and_others_keep_their_section() -> None:
    site = LiveSite(Seen())
    async with site:
        tickets, session = Tickets(site.sessions), await session_at(site)
        assert session.record is not None
        await site.sessions.apply(session.record, Changes(system={"other": b"kept"}))
        issued = [await tickets.issue(session) for _ in range(17)]
        record = await site.sessions.fresh(session.id or "")
        assert record is not None
        assert record.system["other"] == b"kept"
        assert len(record.system["tickets"]) < 16 * 60
        with pytest.raises(TokenRefused):
            await tickets.take(Ticket(issued[0].encode()))
        assert (await tickets.take(Ticket(issued[1].encode()))).by_bearer
        secrets = [ticket.partition(".")[2].encode() for ticket in issued]
        assert not any(secret in record.system["tickets"] for secret in secrets), "only hashes are stored"


class Tokens:
    """Verifies one access token."""

    def __init__(self, record: Any) -> None:
        self.sid, self.sub, self.gen = record.id, record.user_id, record.generation

    def verify(self, token: str) -> "Tokens":
        if token != "a.b.c":
            raise TokenRefused("forged")
        return self


async def test_a_bearer_may_be_offered_too_but_the_origin_decides_first_and_two_credentials_are_none() -> None:
    seen = Seen()
    site = LiveSite(seen)
    async with site:
        session = await session_at(site)
        site = LiveSite(seen, middleware={"tokens": Tokens(session.record)})
        site.sessions.store = session._keeper.store  # type: ignore[attr-defined]
        site.app.sessions = site.sessions
        ticket = await Tickets(site.sessions).issue(session)
        socket = connect(site, "coatcheck", "coatcheck.bearer.a.b.c")
        assert (await socket.next())["subprotocol"] == "coatcheck"
        assert (await socket.next())["text"] == "user"
        assert "a.b.c" not in repr(seen.scopes[-1]["headers"])
        assert await refused(connect(site, "coatcheck", "coatcheck.bearer.x.y.z")) == 401
        evil = [(b"origin", b"https://evil.example")]
        for credential in ("coatcheck.bearer.a.b.c", f"coatcheck.ticket.{ticket}"):
            assert await refused(connect(site, "coatcheck", credential, headers=evil)) == 403
        assert await refused(connect(site, "coatcheck.bearer.a.b.c", f"coatcheck.ticket.{ticket}")) == 401
        both = [ORIGIN, (b"authorization", b"Bearer a.b.c")]
        assert await refused(connect(site, "coatcheck.bearer.a.b.c", headers=both)) == 401


async def test_where_no_tokens_are_taken_an_offered_bearer_is_refused_and_not_overheard() -> None:
    site = LiveSite(Seen())
    async with site:
        assert await refused(connect(site, "coatcheck", "coatcheck.bearer.a.b.c")) == 401
        # Names that only look like ours are the application's own.
        socket = connect(site, "coatchecker", "coatcheck.v2")
        assert (await socket.next())["type"] == "websocket.accept"
        assert offer("coatchecker", "coatcheck.v2") in site.app.app.scopes[-1]["headers"]  # type: ignore[attr-defined]


class Contended:
    """Sessions of which somebody else changes the record just before each of our writes, so many times; then `last` happens."""

    def __init__(self, sessions: Sessions, times: int, last: Any = None) -> None:
        self._sessions = sessions
        self.times = times
        self.last = last

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sessions, name)

    async def apply(self, record: Any, changes: Changes, *, expect_version: int | None = None) -> Any:
        if self.times:
            self.times -= 1
            await self._sessions.apply(record, Changes(set={f"n{self.times}": b"\x01"}))
        applied = await self._sessions.apply(record, changes, expect_version=expect_version)
        if self.last is not None:
            await self.last(record.id)
        return applied


async def test_a_ticket_is_issued_and_taken_past_others_who_write_and_given_up_where_they_never_stop() -> None:
    site = LiveSite(Seen())
    async with site:
        session = await session_at(site)
        few: Any = Contended(site.sessions, 2)
        ticket = Ticket((await Tickets(few).issue(session)).encode())
        few.times = 2
        assert (await Tickets(few).take(ticket)).user_id == "user"
        again = Ticket((await Tickets(few).issue(session)).encode())
        many: Any = Contended(site.sessions, 1000)
        with pytest.raises(StoreUnavailable, match="too many at once"):
            await Tickets(many).issue(session)
        with pytest.raises(StoreUnavailable, match="too many at once"):
            await Tickets(many).take(again)
        # Nobody got in by it, so that it is good still.
        assert (await Tickets(site.sessions).take(again)).user_id == "user"


async def test_a_session_that_ends_while_its_ticket_is_taken_or_issued_lets_nobody_in() -> None:
    site = LiveSite(Seen())
    async with site:
        session = await session_at(site)
        ticket = Ticket((await Tickets(site.sessions).issue(session)).encode())
        ending: Any = Contended(site.sessions, 0, last=site.sessions.end)
        with pytest.raises(TokenRefused, match="just ended"):
            await Tickets(ending).take(ticket)
        session = await session_at(site)
        contended: Any = Contended(site.sessions, 1, last=site.sessions.end)
        with pytest.raises(SessionEnded):
            await Tickets(contended).issue(session)
