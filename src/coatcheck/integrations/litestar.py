"""Sessions for Litestar: a plugin, a guard that demands a (recent) login, dependencies. Leaves loading to SessionMiddleware.

    @get("/profile")
    async def profile(current_user: CurrentUser) -> str: ...

    @delete("/account", guards=[requires_login(fresh_within=300)])
    async def delete_account(session: CurrentSession) -> None: ...

    app = Litestar([profile, delete_account], plugins=[SessionPlugin("sqlite:///sessions.sqlite3")])

They work in HTTP and in WebSocket handlers, and are found by the parameter's name. Without the plugin write `middleware=[DefineMiddleware(SessionMiddleware,
sessions=sessions)]`, with `Sessions` and not with an URL: Litestar makes the middleware anew for each route.
"""

import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from copy import copy
from typing import Any, TypeAlias, cast

from coatcheck.asgi import SessionMiddleware
from coatcheck.asgi.refusals import problem, refusal_of, refuse_handshake
from coatcheck.cookies import CookiePolicy
from coatcheck.credentials import Refusal, Verifier
from coatcheck.errors import MissingDependency, SessionRefused, StoreUnavailable
from coatcheck.integrations._login_demand import POLICY_VIOLATION, LoginDemand
from coatcheck.manager import Sessions
from coatcheck.session import Session, session_of

try:
    from litestar import Litestar, Request, Response
    from litestar.config.app import AppConfig
    from litestar.connection import ASGIConnection
    from litestar.di import NamedDependency, Provide
    from litestar.exceptions import HTTPException, NotAuthorizedException, WebSocketException
    from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
    from litestar.middleware import DefineMiddleware
    from litestar.openapi.spec import Components, SecurityScheme
    from litestar.plugins import InitPlugin, ReceiveRoutePlugin
    from litestar.routes import BaseRoute, HTTPRoute
    from litestar.types import Scope
except ImportError as _error:
    raise MissingDependency("litestar", "litestar", "coatcheck.integrations.litestar") from _error

__all__ = [
    "CurrentSession",
    "CurrentUser",
    "RequiresLogin",
    "SessionPlugin",
    "provide_session",
    "provide_user",
    "requires_login",
]

_log = logging.getLogger("coatcheck.litestar")

_REFUSAL = "coatcheck.refusal"


class RequiresLogin:
    """What `requires_login` gives: a guard."""

    def __init__(self, fresh_within: float | None = None) -> None:
        self._demand = LoginDemand(fresh_within)
        self.fresh_within: float | None = fresh_within

    async def __call__(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        """Raise NotAuthorizedException, or for a WebSocket what refuses it before it is accepted."""
        _check(self._demand, connection.scope)


def requires_login(*, fresh_within: float | None = None) -> RequiresLogin:
    """Demand a logged-in user, as `guards=[requires_login()]` of handlers, controllers, routers and applications.

    With `fresh_within` the user must have proved who they are within that many seconds. Otherwise the answer is 401
    with the `WWW-Authenticate` of RFC 6750, section 3, or, for a login that is too old, of RFC 9470, section 3. A
    WebSocket is refused before it is accepted: with the same 401 where the plugin is used and the server can (ASGI's
    extension `websocket.http.response`), else by closing it with 1008, which the server tells as 403. Raises UsageError
    for a `fresh_within` that is not positive.
    """
    return RequiresLogin(fresh_within)


async def provide_session(scope: Scope) -> Session:
    """Give the request's session, an anonymous visitor's included. The plugin provides it as `session`."""
    return session_of(scope)


async def provide_user(scope: Scope) -> str:
    """Give the id of the logged-in user, and refuse as `requires_login` where nobody is. Provided as `current_user`."""
    session = _check(_LOGIN, scope)
    assert session.user_id is not None
    return session.user_id


CurrentSession: TypeAlias = NamedDependency[Session]
"""The type of the parameter `session`."""

CurrentUser: TypeAlias = NamedDependency[str]
"""The type of the parameter `current_user`: the id of the logged-in user."""

_LOGIN = LoginDemand()


def _check(demand: LoginDemand, scope: Scope) -> Session:
    session = session_of(scope)
    refusal = demand.unmet_by(session)
    if refusal is None:
        return session
    if scope["type"] == "websocket":
        cast("dict[str, Any]", scope)[_REFUSAL] = refusal
        raise WebSocketException(detail=refusal.detail, code=POLICY_VIOLATION)
    raise NotAuthorizedException(detail=refusal.detail, headers={"WWW-Authenticate": refusal.challenge})


class SessionPlugin(InitPlugin, ReceiveRoutePlugin):
    """Gives a Litestar application its sessions. Its arguments are those of SessionMiddleware.

    - puts the middleware in front of the others, and starts and closes `sessions` with the application
    - provides `session` and `current_user`, where the application does not provide something else by these names
    - answers StoreUnavailable with 503 and SessionRefused with 401, where the application has no handlers for them
    - an exception that no handler of the application answers (but one for every exception) discards pending changes
    - completes OpenAPI: the cookie, the bearer where there are `tokens`, and each handler that demands a login
    """

    def __init__(
        self,
        sessions: Sessions | str,
        *,
        cookie: CookiePolicy | None = None,
        public_origins: Iterable[str] = (),
        tokens: Verifier | None = None,
        max_message: int | None = 1024 * 1024,
    ) -> None:
        self.sessions: Sessions = Sessions(sessions) if isinstance(sessions, str) else sessions
        self.cookie: CookiePolicy = cookie or CookiePolicy()
        self._middleware = DefineMiddleware(
            _Middleware,
            sessions=self.sessions,
            cookie=self.cookie,
            public_origins=[*public_origins],
            tokens=tokens,
            max_message=max_message,
        )
        self._requirements: list[dict[str, list[str]]] = [{"session": []}]
        if tokens is not None:
            self._requirements.append({"bearer": []})

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Complete the application's configuration (Litestar calls this)."""
        config = cast("Any", app_config)  # most of its types are known in part only
        config.middleware.insert(0, self._middleware)
        config.lifespan.append(self._lifespan)
        config.dependencies.setdefault("session", Provide(provide_session))
        config.dependencies.setdefault("current_user", Provide(provide_user))
        config.after_exception.append(_discard)
        config.exception_handlers = {
            StoreUnavailable: _answer,
            SessionRefused: _answer,
            **config.exception_handlers,
        }
        if app_config.openapi_config is not None:
            app_config.openapi_config = copy(app_config.openapi_config)
            given = app_config.openapi_config.components
            app_config.openapi_config.components = [
                *(given if isinstance(given, list) else [given]),
                Components(security_schemes=dict(self._schemes())),
            ]
        return app_config

    def receive_route(self, route: BaseRoute) -> None:
        """Note in OpenAPI whether a route demands a login (Litestar calls this)."""
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else ():
            if _demands(handler):
                known = [*(handler.security or ())]
                handler.security = [*known, *(each for each in self._requirements if each not in known)]
                raised = [*(handler.raises or ())]
                handler.raises = raised if NotAuthorizedException in raised else [*raised, NotAuthorizedException]

    def _schemes(self) -> Iterable[tuple[str, SecurityScheme]]:
        yield (
            "session",
            SecurityScheme(
                type="apiKey",
                name=self.cookie.name,
                security_scheme_in="cookie",
                description="The session cookie, which logging in sets.",
            ),
        )
        if len(self._requirements) > 1:
            yield (
                "bearer",
                SecurityScheme(
                    type="http",
                    scheme="bearer",
                    bearer_format="JWT",
                    description="An access token (RFC 6750, RFC 9068).",
                ),
            )

    @asynccontextmanager
    async def _lifespan(self, app: Litestar) -> AsyncGenerator[None]:
        try:
            await self.sessions.start()
        except StoreUnavailable as error:
            _log.warning("the session store is away; it is tried again with each request: %s", error)
        try:
            yield
        finally:
            await self.sessions.close()


def _demands(handler: HTTPRouteHandler) -> bool:
    guards = cast("list[object]", handler.resolve_guards())  # pyright: ignore[reportUnknownMemberType]
    if any(isinstance(guard, RequiresLogin) for guard in guards):
        return True
    names = handler.parsed_fn_signature.parameters
    provided = handler.resolve_dependencies()
    return any(name in provided and provided[name].dependency is provide_user for name in names)


class _Middleware(SessionMiddleware):
    """Tells a WebSocket that a guard refused its real status, which Litestar has no way to do."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            await super().__call__(scope, receive, send)
            return

        async def tell(message: Any) -> None:
            refusal: Refusal | None = scope.get(_REFUSAL)
            if refusal is not None and message["type"] == "websocket.close":
                await refuse_handshake(scope, send, refusal)
            else:
                await send(message)

        await super().__call__(scope, receive, tell)


async def _discard(error: Exception, scope: Scope) -> None:
    """Drop pending changes where the application lets an error out. Litestar makes an answer of it, which would store them."""
    about = cast("dict[str, Any]", scope)
    session = about.get("session")
    if isinstance(session, Session) and not _is_answered(error, about.get("route_handler")):
        session.discard()


def _is_answered(error: Exception, handler: Any) -> bool:
    """Whether the application answers an error: by what it is, or by an exception handler that is not for all of them."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status < 500:
        return True
    known: dict[Any, Any] = {} if handler is None else handler.resolve_exception_handlers()
    kinds = {*type(error).__mro__} - {Exception, BaseException, object}
    return not kinds.isdisjoint(known) or (status != 500 and status in known)


def _answer(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer an error of ours. Verbs that were awaited stand, and so does the cookie that they made."""
    assert isinstance(error, StoreUnavailable | SessionRefused)
    session = session_of(request)
    session.discard()
    status, headers, body = problem(refusal_of(error, by_bearer=session.by_bearer))
    return Response(
        body,
        status_code=status,
        headers={name.decode("ascii"): value.decode("latin-1") for name, value in headers},
        media_type="application/problem+json",
    )
