"""What a logged-in user may do with their sessions, as commands: list, end, end all others, rename, follow. For every transport.

Promises: a command is obeyed only while the session that sent it lives, which is looked at for each, however long its
connection has been open; and it reaches nobody's sessions but the user's own. Leaves bytes and replies to the transports.
"""

import re
from typing import Annotated, Literal, TypeAlias

import msgspec

from coatcheck.accounts import NameRefused
from coatcheck.accounts.names import check_name
from coatcheck.errors import StoreUnavailable, TokenRefused
from coatcheck.manager import SessionInfo
from coatcheck.server.services import Services
from coatcheck.session import Session

__all__ = [
    "NAME",
    "TOPICS",
    "Command",
    "Commands",
    "EndOthers",
    "EndSession",
    "ListSessions",
    "Malformed",
    "Refused",
    "RenameSession",
    "RequestId",
    "Result",
    "SessionRenamed",
    "SessionsEnded",
    "SessionsListed",
    "Subscribe",
    "Subscribed",
    "Topic",
    "decode_command",
]

NAME = "name"
"""The key in a session's `about` under which the user's name for its device is."""

RequestId: TypeAlias = Annotated[str, msgspec.Meta(max_length=64)] | Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
"""What the client calls its command; the reply has it again."""
Topic: TypeAlias = Literal["sessions", "connections"]
"""`sessions`: all that happens to them; `connections`: which are opened and closed under them."""
TOPICS: tuple[Topic, ...] = ("sessions", "connections")

_SessionId: TypeAlias = Annotated[str, msgspec.Meta(max_length=64)]


class _Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    id: RequestId | None = None


class ListSessions(_Command, frozen=True, tag="list"):
    """Give every live session of the user, oldest first."""


class EndSession(_Command, frozen=True, kw_only=True, tag="end"):
    """End one of the user's sessions, the one that asks included."""

    session: _SessionId


class EndOthers(_Command, frozen=True, tag="end_others"):
    """End every session of the user but the one that asks, logins under way included."""


class RenameSession(_Command, frozen=True, kw_only=True, tag="rename"):
    """Call the device of one of the user's sessions something; an empty name takes it back."""

    session: _SessionId
    name: Annotated[str, msgspec.Meta(max_length=1000)]


class Subscribe(_Command, frozen=True, kw_only=True, tag="subscribe"):
    """Be told what happens from now on, or from a place on; a second time it changes what is told. No topics: nothing."""

    topics: Annotated[tuple[Topic, ...], msgspec.Meta(max_length=8)] = TOPICS
    after: Annotated[str, msgspec.Meta(max_length=64)] | None = None


Command: TypeAlias = ListSessions | EndSession | EndOthers | RenameSession | Subscribe


class SessionsListed(msgspec.Struct, frozen=True):
    """The sessions, and the id of the one that asked."""

    current: str
    sessions: list[SessionInfo]


class SessionsEnded(msgspec.Struct, frozen=True):
    """How many sessions were ended."""

    ended: int


class SessionRenamed(msgspec.Struct, frozen=True):
    """The session as it is called now, and the id of the one that asked."""

    current: str
    session: SessionInfo


class Subscribed(msgspec.Struct, frozen=True):
    """What will be told. The transport does the telling, by `Activity.follow`."""

    topics: tuple[Topic, ...]


class Refused(msgspec.Struct, frozen=True):
    """Nothing was done: a status of HTTP's, and a sentence that can be shown to a person."""

    status: int
    detail: str


Result: TypeAlias = SessionsListed | SessionsEnded | SessionRenamed | Subscribed | Refused


class Malformed(Exception):
    """What came is no command. Its text is a sentence that repeats nothing of it; `id` is the command's, if it had one."""

    def __init__(self, detail: str, id: RequestId | None = None) -> None:
        super().__init__(detail)
        self.id = id


_PATIENCE = 0.25
"""Seconds that an answer waits until what it did is written down. It is done in any case."""


class Commands:
    """Obeys. One for each worker, or made where it is needed: it keeps nothing."""

    def __init__(self, services: Services) -> None:
        self._sessions = services.sessions
        self._activity = services.activity

    async def run(self, session: Session, command: Command) -> Result:
        """Do what a command says for the session that sent it. Never raises what a client or a store may cause."""
        try:
            if not await self.lives(session):
                return Refused(401, "Your session has ended.")
            return await self._obey(session, command)
        except StoreUnavailable:
            return Refused(503, "The sessions cannot be asked right now. Nothing is lost; try again.")
        except NameRefused as error:
            return Refused(422, str(error))

    async def lives(self, session: Session) -> bool:
        """Look at the credential again: its connection may have been open for days. False where nobody is logged in."""
        record = session.record
        if record is None or record.user_id is None:
            return False
        try:
            # By id and generation, as an access token has them: so it is for cookies, whose secret is in the generation.
            await self._sessions.load_bearer(record.id, record.generation, record.user_id)
        except TokenRefused:
            return False
        return True

    async def list(self, session: Session) -> SessionsListed:
        """Give the live sessions of a session's user, oldest first. Raises StoreUnavailable, as the others do."""
        found = await self._sessions.list_user(_user(session))
        return SessionsListed(_id(session), found)

    async def end(self, session: Session, session_id: str) -> bool:
        """End another session of the user; False where there is none."""
        if await self._own(session, session_id) is None:
            return False
        reason = "logout" if session_id == _id(session) else "ended by user"
        ended = await self._sessions.end(session_id, reason)
        await self._written_down()
        return ended

    async def end_others(self, session: Session) -> int:
        """End every session of the user but this one; their number."""
        ended = await self._sessions.end_user(_user(session), keep=_id(session), reason="ended by user")
        await self._written_down()
        return len(ended)

    async def rename(self, session: Session, session_id: str, name: str) -> SessionInfo | None:
        """Give one of the user's sessions a name; None where there is none. Raises NameRefused."""
        name = check_name(name)
        before = await self._own(session, session_id)
        if before is None or not await self._sessions.describe(session_id, {NAME: name}):
            return None
        if before.about.get(NAME, "") != name:
            self._activity.record("renamed", session_id, user_id=_user(session), detail={NAME: name})
            await self._written_down()
        about = {key: text for key, text in {**before.about, NAME: name}.items() if text}
        return msgspec.structs.replace(before, about=about)

    async def _written_down(self) -> None:
        """Before the answer: what is asked next, of another worker, comes after it in the order of what is told."""
        await self._activity.flush(_PATIENCE)

    async def _obey(self, session: Session, command: Command) -> Result:
        match command:
            case ListSessions():
                return await self.list(session)
            case EndSession():
                return SessionsEnded(1) if await self.end(session, command.session) else _NOT_YOURS
            case EndOthers():
                return SessionsEnded(await self.end_others(session))
            case RenameSession():
                renamed = await self.rename(session, command.session, command.name)
                return _NOT_YOURS if renamed is None else SessionRenamed(_id(session), renamed)
            case Subscribe():
                return Subscribed(tuple(dict.fromkeys(command.topics)))

    async def _own(self, session: Session, session_id: str) -> SessionInfo | None:
        mine = await self._sessions.list_user(_user(session))
        return next((info for info in mine if info.id == session_id), None)


_NOT_YOURS = Refused(404, "You have no session with this id.")


class _Head(msgspec.Struct):
    type: object = None
    id: RequestId | None = None


_head = msgspec.json.Decoder(_Head)
_command: "msgspec.json.Decoder[Command]" = msgspec.json.Decoder(Command)
_KINDS = frozenset(("list", "end", "end_others", "rename", "subscribe"))
_WHERE = re.compile(r" - at `\$\.([a-z]+)")


def decode_command(data: str | bytes) -> Command:
    """Read a command as JSON. Raises Malformed."""
    try:
        return _command.decode(data)
    except msgspec.ValidationError as error:
        where = _WHERE.search(str(error))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise Malformed("This is not JSON.") from None
    try:
        head = _head.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise Malformed(
            "A command is a JSON object whose id, if it has one, is a short text or a whole number."
        ) from None
    if not isinstance(head.type, str) or head.type not in _KINDS:
        raise Malformed(f"A command has one of these types: {', '.join(sorted(_KINDS))}.", head.id)
    what = f": look at {where[1]}" if where else ""
    raise Malformed(f"The command does not have the form that is expected here{what}.", head.id)


def _user(session: Session) -> str:
    assert session.user_id is not None
    return session.user_id


def _id(session: Session) -> str:
    assert session.id is not None
    return session.id
