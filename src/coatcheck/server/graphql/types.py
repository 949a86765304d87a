"""The types of the GraphQL schema, and how what the server knows becomes them. Texts and times are those of REST."""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import NewType

import strawberry
from strawberry.types.scalar import ScalarDefinition

from coatcheck.accounts import User
from coatcheck.manager import SessionInfo
from coatcheck.record import SessionRecord
from coatcheck.server.actions.access import Entered
from coatcheck.server.activity import Begin, Happening, Heartbeat, Reset, Told
from coatcheck.server.connection_facts import ConnectionFacts
from coatcheck.server.rest.models import session_view

__all__ = [
    "SCALARS",
    "TYPES",
    "Connection",
    "Login",
    "LoginMode",
    "Me",
    "Person",
    "Session",
    "SessionEvent",
    "SessionEventKind",
    "SessionKind",
    "Tokens",
    "connection",
    "login",
    "me",
    "session",
    "session_event",
]


def _as_rest_writes_it(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


Moment = NewType("Moment", datetime)
SCALARS: Mapping[object, ScalarDefinition] = {
    Moment: strawberry.scalar(
        name="DateTime",
        description="RFC 3339, in UTC.",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc3339",
        serialize=_as_rest_writes_it,
    )
}


@strawberry.type
class Person:
    """What other users see of a user."""

    id: strawberry.ID
    name: str


@strawberry.type
class Me:
    """What a user sees of themselves."""

    id: strawberry.ID
    name: str
    username: str


@strawberry.enum
class SessionKind(Enum):
    """How a client says that it is this session."""

    COOKIE = "cookie"
    TOKEN = "token"


@strawberry.type
class Session:
    """One session. Its id is no secret: it gives nobody access."""

    id: strawberry.ID
    current: bool = strawberry.field(description="Whether it is the session of this request.")
    created_at: Moment
    authenticated_at: Moment | None = strawberry.field(description="When the password was last given.")
    last_seen_at: Moment = strawberry.field(description="When it was last used, late by up to a minute.")
    expires_at: Moment = strawberry.field(description="When it ends even if it is used.")
    kind: SessionKind
    name: str | None = strawberry.field(description="What the user calls its device.")
    method: str | None = strawberry.field(description="How the user logged in.")
    address: str | None = strawberry.field(description="Where the login came from.")
    user_agent: str | None = strawberry.field(
        description="What the client said of itself at login: anything at all, but that control characters are "
        "written as `\\x1b`. Escape it."
    )


@strawberry.enum
class LoginMode(Enum):
    """How the client will say who it is: by the cookie that is set, or by tokens that it keeps itself."""

    COOKIE = "cookie"
    TOKEN = "token"


@strawberry.type
class Tokens:
    """An access token (RFC 6750), and what to get the next one with."""

    access_token: str
    token_type: str = strawberry.field(description="`Bearer`.")
    expires_in: int = strawberry.field(description="Seconds.")
    refresh_token: str = strawberry.field(description="Good for one exchange, which gives the next. Keep it secret.")


@strawberry.type
class Login:
    """Who is logged in now, and the session that the cookie or the tokens lead to."""

    user: Me
    session: Session
    tokens: Tokens | None = strawberry.field(description="Where no cookie leads to the session.")


@strawberry.type
class TLS:
    """What the client and the edge agreed on."""

    version: str
    cipher: str | None
    server_name: str | None = strawberry.field(description="The host name that the client asked for (SNI).")


@strawberry.type
class Connection:
    """What is known of the connection that brought this request."""

    protocol: str = strawberry.field(description="As the client spoke it.")
    connection_id: strawberry.ID
    requests: int = strawberry.field(
        description="Requests on this connection so far, this one included, over all workers."
    )
    scheme: str = strawberry.field(description="`http` or `https`.")
    tls: TLS | None
    age_ms: float | None = strawberry.field(
        description="Milliseconds from the connection's begin to this request's; over a WebSocket, to its handshake."
    )
    client_address: str
    client_port: int
    worker: int = strawberry.field(description="The worker process that answers.")


@strawberry.enum
class SessionEventKind(Enum):
    """What has happened; the first three say something of the telling itself."""

    BEGIN = strawberry.enum_value("begin", description="From here on everything is told.")
    RESET = strawberry.enum_value(
        "reset", description="What happened since `after` cannot be told: look everything up. From here on it is told."
    )
    HEARTBEAT = strawberry.enum_value("heartbeat", description="Nothing else has happened.")
    CREATED = "created"
    ENDED = "ended"
    REAUTHENTICATED = "reauthenticated"
    PASSWORD_CHANGED = "password_changed"
    REFRESHED = "refreshed"
    RENAMED = "renamed"
    OPENED = "opened"
    CLOSED = "closed"


@strawberry.type
class SessionEvent:
    """Something that happened to one of the user's sessions. What is not known, or does not belong to the kind, is null."""

    id: strawberry.ID = strawberry.field(description="To go on from, as `after`. Opaque.")
    kind: SessionEventKind
    at: Moment | None = None
    session_id: strawberry.ID | None = None
    current: bool = strawberry.field(default=False, description="Whether it is the session that listens.")
    reason: str | None = strawberry.field(default=None, description="Why the session ended.")
    name: str | None = strawberry.field(default=None, description="What the session is called now.")
    method: str | None = strawberry.field(default=None, description="How the user logged in.")
    address: str | None = strawberry.field(default=None, description="Where the login came from.")
    user_agent: str | None = strawberry.field(default=None, description="What the client said of itself. Escape it.")
    connection: str | None = strawberry.field(default=None, description="Names the connection that opened or closed.")
    transport: str | None = None
    protocol: str | None = None


TYPES = (
    Person,
    Me,
    SessionKind,
    Session,
    LoginMode,
    Tokens,
    Login,
    TLS,
    Connection,
    SessionEventKind,
    SessionEvent,
)
_DETAILS = ("reason", "name", "method", "address", "user_agent", "connection", "transport", "protocol")


def me(user: User) -> Me:
    """Show a user to themselves."""
    return Me(id=strawberry.ID(user.id), name=user.name, username=user.username)


def session(known: SessionInfo | SessionRecord, current: str | None) -> Session:
    """Show a session; `current` is the id of the request's own."""
    view = session_view(known, current)
    return Session(
        id=strawberry.ID(view.id),
        current=view.current,
        created_at=Moment(view.created_at),
        authenticated_at=None if view.authenticated_at is None else Moment(view.authenticated_at),
        last_seen_at=Moment(view.last_seen_at),
        expires_at=Moment(view.expires_at),
        kind=SessionKind(view.kind),
        name=view.name,
        method=view.method,
        address=view.address,
        user_agent=view.user_agent,
    )


def login(entered: Entered) -> Login:
    """Show a login to whoever has just logged in."""
    tokens = entered.tokens
    shown = None if tokens is None else Tokens(**tokens._asdict(), token_type="Bearer")  # no password
    return Login(user=me(entered.user), session=session(entered.record, entered.record.id), tokens=shown)


def connection(facts: ConnectionFacts) -> Connection:
    """Show the connection that brought a request."""
    tls = None
    if facts.tls_version is not None:
        tls = TLS(version=facts.tls_version, cipher=facts.tls_cipher, server_name=facts.server_name)
    return Connection(
        protocol=facts.protocol,
        connection_id=strawberry.ID(facts.connection_id),
        requests=facts.requests(),
        scheme=facts.scheme,
        tls=tls,
        age_ms=facts.age_ms,
        client_address=facts.client_host,
        client_port=facts.client_port,
        worker=facts.worker_id,
    )


def session_event(told: Told, current: str | None) -> SessionEvent:
    """Show what has happened; `current` is the id of the session that listens."""
    own = {Begin: SessionEventKind.BEGIN, Reset: SessionEventKind.RESET, Heartbeat: SessionEventKind.HEARTBEAT}
    if not isinstance(told, Happening):
        return SessionEvent(id=strawberry.ID(told.id), kind=own[type(told)])
    return SessionEvent(
        id=strawberry.ID(told.id),
        kind=SessionEventKind(told.kind),
        at=Moment(datetime.fromtimestamp(told.at, UTC)),
        session_id=strawberry.ID(told.session_id),
        current=told.session_id == current,
        **{name: told.detail.get(name) for name in _DETAILS},
    )
