"""What the REST API takes and gives, exactly as OpenAPI shows it. Leaves limits of names and passwords to `accounts`."""

from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from coatcheck.accounts import User
from coatcheck.manager import SessionInfo
from coatcheck.record import SessionRecord
from coatcheck.server.actions.access import Entered
from coatcheck.server.live_table import OpenConnections
from coatcheck.server.printable import printable
from coatcheck.server.session_kind import session_kind

__all__ = [
    "AccessToken",
    "AccessTokenWanted",
    "AnyToken",
    "ChangedPassword",
    "ConnectionView",
    "Credentials",
    "EndedSessions",
    "KeySet",
    "LoggedIn",
    "Me",
    "OpenView",
    "PasswordAgain",
    "Person",
    "RefreshToken",
    "Registration",
    "ServiceView",
    "SessionList",
    "SessionName",
    "SessionView",
    "StatusView",
    "TLSView",
    "TicketView",
    "TokenLogin",
    "Tokens",
    "login_view",
    "me",
    "moment",
    "session_view",
]

# Of strict type, so that a number is no username; SecretStr, so that no repr and no traceback shows it.
Password = Annotated[SecretStr, Field(strict=True)]


class _Input(BaseModel):
    """What clients send: strictly of its type, nothing unknown, and never shown in an error."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class Registration(_Input):
    """A new account."""

    username: str = Field(description="Up to 64 characters; upper and lower case are the same.", examples=["ada"])
    password: Password = Field(description="8 to 1024 bytes.")
    name: str = Field(default="", description="To be displayed; the username if left out.", examples=["Ada Lovelace"])


class Credentials(_Input):
    """Username and password."""

    username: str = Field(examples=["ada"])
    password: Password
    remember: bool = Field(default=False, description="Whether the cookie outlives the browser's session.")
    mode: Literal["cookie", "token"] = Field(
        default="cookie",
        description="How the client will say who it is: by the cookie that is set, or by tokens that it keeps itself.",
    )


class PasswordAgain(_Input):
    """The password of whoever is logged in."""

    password: Password


class ChangedPassword(_Input):
    """The password that is, and the one that shall be."""

    current_password: Password
    new_password: Password


class RefreshToken(_Input):
    """A refresh token, to be exchanged."""

    refresh_token: str = Field(description="Of a login, or of the exchange before. Good for one.")


class AnyToken(_Input):
    """A token to be revoked (RFC 7009, section 2.1)."""

    token: str = Field(description="A refresh token, or an access token for this server.")
    token_type_hint: str | None = Field(default=None, description="Not needed: tokens are told apart by themselves.")


class SessionName(_Input):
    """What a session's device is to be called."""

    name: str = Field(
        description="Up to 100 characters, none of them a control character; empty takes it back.",
        examples=["Ada's phone"],
        json_schema_extra={"maxLength": 100},
    )


class AccessTokenWanted(_Input):
    """For whom an access token is wanted."""

    audience: str = Field(
        description="The service's URL, as the operator has it.", examples=["https://orders.example.com"]
    )


class Person(BaseModel):
    """What other users see of a user."""

    id: str = Field(description="128 random bits in base64url.", examples=["Zk0zX2hYQ0dTbmE1cXh3YQ"])
    name: str = Field(examples=["Ada Lovelace"])


class Me(Person):
    """What a user sees of themselves."""

    username: str = Field(examples=["ada"])


class OpenView(BaseModel):
    """WebSockets and streams of one kind that are open."""

    kind: str = Field(examples=["websocket"])
    protocol: str = Field(examples=["HTTP/2"])
    count: int


class SessionView(BaseModel):
    """One session. Its id is no secret: it gives nobody access."""

    id: str
    name: str | None = Field(description="What the user calls its device.", examples=["Ada's phone"])
    current: bool = Field(description="Whether it is the session of this request.")
    created_at: datetime
    authenticated_at: datetime | None = Field(description="When the password was last given.")
    last_seen_at: datetime = Field(description="When it was last used, late by up to a minute.")
    expires_at: datetime = Field(description="When it ends even if it is used.")
    kind: Literal["cookie", "token"] = Field(description="How the client says that it is this session.")
    method: str | None = Field(description="How the user logged in.", examples=["password", "passkey"])
    address: str | None = Field(description="Where the login came from.", examples=["192.0.2.7"])
    user_agent: str | None = Field(
        description="What the client said of itself at login: anything at all, but that control characters are "
        "written as `\\x1b`. Escape it."
    )
    connections: list[OpenView] = Field(
        default=[], description="What is open with it on this machine, in a list of sessions."
    )


class LoggedIn(BaseModel):
    """Who is logged in now, and the session that the cookie names."""

    user: Me
    session: SessionView


class AccessToken(BaseModel):
    """An access token (RFC 6750): a JWT by RFC 9068."""

    access_token: str = Field(description="For `Authorization: Bearer`.")
    token_type: Literal["Bearer"] = "Bearer"  # no password
    expires_in: int = Field(description="Seconds.", examples=[300])


class TicketView(BaseModel):
    """What opens one WebSocket."""

    ticket: str = Field(
        description="To be offered as the subprotocol `coatcheck.ticket.` and this, beside `coatcheck`."
    )
    expires_in: int = Field(description="Seconds.", examples=[30])


class Tokens(AccessToken):
    """An access token, and what to get the next one with."""

    refresh_token: str = Field(description="Good for one exchange, which gives the next. Keep it secret.")


class TokenLogin(Tokens):
    """Who is logged in now, their session, and the tokens that lead to it."""

    user: Me
    session: SessionView


class KeySet(BaseModel):
    """The public keys that verify access tokens (RFC 7517, section 5)."""

    keys: list[dict[str, str]]


class SessionList(BaseModel):
    """The live sessions of one user in order of creation."""

    sessions: list[SessionView]


class EndedSessions(BaseModel):
    """How many sessions were ended."""

    ended: int = Field(ge=0)


class ServiceView(BaseModel):
    """What a service sees of itself."""

    id: str = Field(description="128 random bits in base64url.", examples=["Zk0zX2hYQ0dTbmE1cXh3YQ"])
    name: str = Field(description="What the operator calls it.", examples=["orders"])
    audiences: list[str] = Field(
        description="The URLs under which it is the audience of tokens.", examples=[["https://orders.example.com"]]
    )


class TLSView(BaseModel):
    """What the client and the edge agreed on."""

    version: str = Field(examples=["TLSv1.3"])
    cipher: str | None = Field(examples=["TLS_AES_128_GCM_SHA256"])
    server_name: str | None = Field(description="The host name that the client asked for (SNI).")


class ConnectionView(BaseModel):
    """What is known of the connection that brought this request."""

    protocol: str = Field(description="As the client spoke it.", examples=["HTTP/2"])
    connection_id: str
    requests: int = Field(description="Requests on this connection so far, this one included, over all workers.")
    scheme: Literal["http", "https"]
    tls: TLSView | None
    age_ms: int | None = Field(description="Milliseconds from the connection's begin to this request.")
    client_address: str
    client_port: int
    worker: int = Field(description="The worker process that answers.")


class StatusView(BaseModel):
    """How the server is."""

    status: Literal["ok"]


def moment(seconds: float) -> datetime:
    """Give seconds since 1970 as RFC 3339 writes them."""
    return datetime.fromtimestamp(seconds, UTC)


def session_view(
    session: SessionInfo | SessionRecord, current: str | None, live: OpenConnections | None = None
) -> SessionView:
    """Show a session; `current` is the id of the request's own, `live` what is open with it."""
    about = session.about
    name, user_agent = about.get("name"), about.get("user_agent")
    return SessionView(
        id=session.id,
        name=None if name is None else printable(name),
        current=session.id == current,
        created_at=moment(session.created_at),
        authenticated_at=None if session.authenticated_at is None else moment(session.authenticated_at),
        last_seen_at=moment(session.last_seen_at),
        expires_at=moment(session.expires_at),
        kind=session_kind(about),
        method=about.get("method"),
        address=about.get("address"),
        user_agent=None if user_agent is None else printable(user_agent),
        connections=[
            OpenView(kind=kind, protocol=protocol, count=count)
            for (kind, protocol), count in sorted((live or {}).items())
        ],
    )


def me(user: User) -> Me:
    """Show a user to themselves."""
    return Me(id=user.id, name=user.name, username=user.username)


def login_view(entered: Entered) -> LoggedIn | TokenLogin:
    """Show a login to whoever has just logged in."""
    user, session = me(entered.user), session_view(entered.record, entered.record.id)
    if entered.tokens is None:
        return LoggedIn(user=user, session=session)
    return TokenLogin(**entered.tokens._asdict(), user=user, session=session)
