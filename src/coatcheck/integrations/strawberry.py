"""Strawberry's GraphQL: the session in every resolver, the demand for a login, and a login by `connection_init`.

    @strawberry.type
    class Query:
        @strawberry.field(permission_classes=[LoginRequired])
        def profile(self, info: strawberry.Info[SessionContext, None]) -> str:
            return f"Hello, {info.context.session.user_id}"

    graphql = SessionGraphQL(strawberry.Schema(Query), sessions)

Alike for HTTP, for subscriptions over WebSockets and for those over server-sent events. Leaves loading, and ending what is
open when a session ends, to SessionMiddleware.
"""

import logging
import math
from collections.abc import Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

from coatcheck.credentials import Authenticator, Refusal, Verifier
from coatcheck.errors import MissingDependency, TooManyConnections, UsageError
from coatcheck.manager import Sessions
from coatcheck.session import Session, current_session, session_of

try:
    from strawberry.asgi import GraphQL
    from strawberry.exceptions import ConnectionRejectionError
    from strawberry.http.exceptions import WebSocketDisconnected
    from strawberry.http.streaming import HTTPStreamTransport, MultipartSubscriptionTransport, SSETransport
    from strawberry.permission import BasePermission
    from strawberry.schema.base import BaseSchema
    from strawberry.subscriptions import GRAPHQL_SSE_PROTOCOL, MULTIPART_SUBSCRIPTION_PROTOCOL
    from strawberry.types import Info
    from strawberry.types.graphql import OperationType
except ImportError as _error:
    raise MissingDependency("strawberry-graphql", "strawberry", "coatcheck.integrations.strawberry") from _error

if TYPE_CHECKING:
    from graphql import GraphQLErrorExtensions
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket
    from strawberry.http.async_base_view import AsyncBaseHTTPView

    _View = AsyncBaseHTTPView[Any, Any, Any, Any, Any, Any, Any]
else:
    _View = object

__all__ = ["CanSetCookie", "LoginRequired", "SessionContext", "SessionGraphQL", "SessionView", "session_of_info"]

_log = logging.getLogger("coatcheck.integrations.strawberry")

_CONNECTIONS = ("request", "ws", "websocket", "socket")
"""What Strawberry's views call the request or WebSocket in the contexts that they make."""
_JSON = frozenset(("application/json", "application/graphql-response+json", "application/*", "*/*"))
_TRY_AGAIN = 1013  # IANA's registry of WebSocket close codes


def session_of_info(info: "Info[Any, Any]") -> Session:
    """Give the session of the operation that a resolver works for, whatever context the view makes.

    Over a WebSocket it is that of the handshake, or the one that `connection_init` has led to. Raises UsageError where
    SessionMiddleware has not seen the request.
    """
    return _session(info.context)


class SessionContext(dict[str, Any]):
    """Strawberry's own context, `request` and `response`, with the session as an attribute: `info.context.session`."""

    @property
    def session(self) -> Session:
        """The session of the operation (see `session_of_info`)."""
        return _session(self)


class LoginRequired(BasePermission):
    """Demands a logged-in user: `permission_classes=[LoginRequired]`, or as `PermissionExtension([LoginRequired(fresh_within=300)])`.

    With `fresh_within` the user must have proved who they are within that many seconds. The error's extensions say `code`
    UNAUTHENTICATED, and `maxAge` where a recent login is demanded. A subscription is looked at when it begins; it ends
    with its session. Raises UsageError for a `fresh_within` that is not positive.
    """

    message: str | None = "Nobody is logged in."

    def __init__(self, fresh_within: float | None = None) -> None:
        if fresh_within is not None and not fresh_within > 0:
            raise UsageError(f"fresh_within={fresh_within!r} must be a positive number of seconds, or None")
        self.fresh_within: float | None = fresh_within
        self.error_extensions: GraphQLErrorExtensions | None = {"code": "UNAUTHENTICATED"}
        if fresh_within is not None:
            self.message: str | None = "A more recent login is required."
            self.error_extensions["maxAge"] = math.floor(fresh_within)

    def has_permission(self, source: Any, info: "Info[Any, Any]", **kwargs: Any) -> bool:
        """Tell whether somebody is logged in, and recently enough."""
        session = _session(info.context)
        return session.is_authenticated and (self.fresh_within is None or session.is_fresh(self.fresh_within))


class CanSetCookie(BasePermission):
    """Refuses what comes over a WebSocket, whose response has left long since: for mutations that log in or out.

    There `log_in` would make a session whose cookie nobody gets, and end the WebSocket as one of the old secret.
    """

    message: str | None = "Over a WebSocket no cookie can be set: send this by HTTP."
    error_extensions: ClassVar[Any] = {"code": "BAD_REQUEST"}

    def has_permission(self, source: Any, info: "Info[Any, Any]", **kwargs: Any) -> bool:
        """Tell whether a response is still to come."""
        return _scope(info.context)["type"] == "http"


class _EventStream(SSETransport):
    """A stream's headers leave before anything is executed, so a mutation, which may set a cookie, is never answered by one.

    Clients that take JSON as well get JSON.
    """

    def accepts(self, accept: str) -> bool:
        kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
        return super().accepts(accept) and kinds.isdisjoint(_JSON)

    def allowed_operation_types(self, allowed_operation_types: set[OperationType]) -> Iterable[OperationType]:
        return allowed_operation_types - {OperationType.MUTATION}


class SessionView(_View):
    """Makes any of Strawberry's asynchronous views know sessions: `class Router(SessionView, GraphQLRouter)`.

    Set `authenticator` for clients of WebSockets that can send no header: a `connection_init` with the payload
    `{"authorization": "Bearer …"}` makes an anonymous WebSocket that of the token's session, with which it ends. A token
    that leads nowhere closes it with 4403, as the protocol (graphql-transport-ws) has it; a store that cannot be asked,
    and too many connections, with 1013. Origins are judged by SessionMiddleware, and by it alone.
    """

    authenticator: Authenticator | None = None
    stream_transport_classes_by_protocol: ClassVar[Mapping[str, type[HTTPStreamTransport]]] = {  # pyright: ignore[reportIncompatibleVariableOverride]
        GRAPHQL_SSE_PROTOCOL: _EventStream,
        MULTIPART_SUBSCRIPTION_PROTOCOL: MultipartSubscriptionTransport,  # has nothing but subscriptions
    }

    async def on_ws_connect(self, context: Any) -> Any:
        """Look at the payload of `connection_init`."""
        await self._log_in(context)
        return await super().on_ws_connect(context)

    async def authenticate(self, scope: MutableMapping[str, Any], bearer: str) -> Session | Refusal:
        """Give the session that a bearer in `connection_init` leads to, or why the WebSocket goes no further."""
        if self.authenticator is None:
            return Refusal(401, "No access tokens are taken here.")
        return await self.authenticator.load(bearer)

    def is_websocket_origin_allowed(self, request: Any, origin: str) -> bool:
        """Tell whether SessionMiddleware, which refuses WebSockets of other sites, has let this one through."""
        return isinstance(request.scope.get("session"), Session)

    async def _log_in(self, context: Any) -> None:
        bearer = _bearer(_entry(context, "connection_params"))
        if bearer is None:
            return
        websocket = _connection(context)
        scope = cast("MutableMapping[str, Any]", websocket.scope)
        if session_of(scope).record is not None:
            _log.info("refused a connection_init: its WebSocket belongs to a session already")
            raise ConnectionRejectionError
        found = await self.authenticate(scope, bearer)
        if isinstance(found, Refusal):
            if found.status != 503:
                raise ConnectionRejectionError
            await _close(websocket, found.detail)
            return
        adopt = scope.get("coatcheck.adopt")
        if adopt is None:
            raise UsageError(
                "this WebSocket did not come through SessionMiddleware, which would end it with its session"
            )
        try:
            adopt(found)
        except TooManyConnections as error:
            await _close(websocket, str(error))
        scope["session"] = found


class SessionGraphQL(SessionView, GraphQL["SessionContext", None]):
    """Strawberry's ASGI application, for `app.mount` and routes, with sessions.

    - `schema`: a `strawberry.Schema`
    - `sessions`: the manager that SessionMiddleware has
    - `tokens`: what verifies access tokens (`coatcheck.tokens.AccessTokens`), for logins by `connection_init`
    - further keywords go to `strawberry.asgi.GraphQL`, as `subscription_protocols=["graphql-transport-ws", "graphql-sse"]`

    Resolvers get a SessionContext.
    """

    def __init__(
        self, schema: BaseSchema, sessions: Sessions, *, tokens: Verifier | None = None, **options: Any
    ) -> None:
        super().__init__(schema, **options)
        if tokens is not None:
            self.authenticator: Authenticator | None = Authenticator(sessions, tokens)

    async def get_context(self, request: "Request | WebSocket", response: "Response | WebSocket") -> SessionContext:
        """Give what resolvers find in `info.context`."""
        return SessionContext(request=request, response=response)


def _session(context: Any) -> Session:
    connection = _connection(context)
    return current_session() if connection is None else session_of(connection)


def _scope(context: Any) -> MutableMapping[str, Any]:
    connection = _connection(context)
    if connection is None:
        raise UsageError("this GraphQL context has no request: start it from the context that Strawberry's view makes")
    return connection.scope


def _connection(context: Any) -> Any:
    """Give the request or WebSocket in a context; None where there is none."""
    for name in _CONNECTIONS:
        found = _entry(context, name)
        if isinstance(getattr(found, "scope", None), MutableMapping):
            return found
    return None


def _entry(context: Any, name: str) -> Any:
    if isinstance(context, Mapping):
        return cast("Mapping[str, Any]", context).get(name)
    return getattr(context, name, None)


def _bearer(payload: Any) -> str | None:
    """Give the bearer in the payload of `connection_init`; None where it says nothing. Raises ConnectionRejectionError."""
    if not isinstance(payload, Mapping):
        return None
    given = [
        value
        for name, value in cast("Mapping[str, Any]", payload).items()
        if name.lower() == "authorization" and value not in (None, "")
    ]
    if not given:
        return None
    if len(given) > 1 or not isinstance(given[0], str) or given[0][:7].lower() != "bearer ":
        raise ConnectionRejectionError
    return given[0][7:].strip(" ")


async def _close(websocket: Any, reason: str) -> None:
    """Close a WebSocket with which nothing is wrong but the moment."""
    await websocket.close(code=_TRY_AGAIN, reason=reason[:120])
    raise WebSocketDisconnected
