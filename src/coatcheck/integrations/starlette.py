"""Starlette's ways to demand a (recent) login, and its `request.user`. Leaves loading the session to SessionMiddleware.

    @requires_login
    async def profile(request: Request) -> Response: ...

    @requires_login(fresh_within=300)
    async def delete_account(request: Request) -> Response: ...

    app.add_middleware(AuthenticationMiddleware, backend=SessionBackend())
    app.add_middleware(SessionMiddleware, "sqlite:///sessions.sqlite3")  # added last, so it stands in front

`session_of(request)` gives the session, in WebSocket endpoints too.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast, overload

from coatcheck.errors import MissingDependency, UsageError
from coatcheck.integrations._login_demand import POLICY_VIOLATION, LoginDemand, must_close
from coatcheck.session import Session, session_of

try:
    from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser
    from starlette.exceptions import HTTPException, WebSocketException
    from starlette.requests import HTTPConnection
except ImportError as _error:
    raise MissingDependency("starlette", None, "coatcheck.integrations.starlette") from _error

__all__ = ["SessionBackend", "SessionUser", "requires_login"]

T = TypeVar("T")
P = ParamSpec("P")


@overload
def requires_login(endpoint: Callable[P, T], /) -> Callable[P, T]: ...
@overload
def requires_login(*, fresh_within: float | None = None) -> Callable[[Callable[P, T]], Callable[P, T]]: ...
def requires_login(endpoint: Callable[..., Any] | None = None, /, *, fresh_within: float | None = None) -> Any:
    """Demand a logged-in user of an endpoint: `@requires_login`, or `@requires_login(fresh_within=300)`.

    For functions, coroutines or not, that take a request or a WebSocket; for the methods of an HTTPEndpoint; and for a
    WebSocketEndpoint's `on_connect`. With `fresh_within` the user must have proved who they are within that many seconds.
    Otherwise the answer is 401 with the `WWW-Authenticate` of RFC 6750, section 3, or, for a login that is too old, of RFC
    9470, section 3. A WebSocket is refused before it is accepted: with the same 401 where the server can (ASGI's extension
    `websocket.http.response`), else by closing it with 1008, which the server tells as 403. Raises UsageError for a
    `fresh_within` that is not positive.
    """
    demand = LoginDemand(fresh_within)

    def decorate(endpoint: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isclass(endpoint):
            raise UsageError(f"requires_login is for functions and methods: decorate those of {endpoint.__qualname__}")
        if inspect.iscoroutinefunction(endpoint):

            @functools.wraps(endpoint)
            async def demanding_async(*args: Any, **values: Any) -> Any:
                _demand(demand, args, values)
                return await endpoint(*args, **values)

            return demanding_async

        @functools.wraps(endpoint)
        def demanding(*args: Any, **values: Any) -> Any:
            _demand(demand, args, values)
            return endpoint(*args, **values)

        return demanding

    return decorate if endpoint is None else decorate(endpoint)


def _demand(demand: LoginDemand, args: tuple[Any, ...], values: dict[str, Any]) -> None:
    for argument in (*args, *values.values()):
        if isinstance(argument, HTTPConnection):
            scope = cast("dict[str, Any]", argument.scope)
            break
    else:
        raise UsageError("requires_login found neither a request nor a WebSocket among the endpoint's arguments")
    refusal = demand.unmet_by(session_of(scope))
    if refusal is not None:
        if must_close(scope):
            raise WebSocketException(POLICY_VIOLATION, refusal.detail)
        raise HTTPException(refusal.status, refusal.detail, headers={"WWW-Authenticate": refusal.challenge})


class SessionUser(BaseUser):
    """`request.user`: whoever the session belongs to at the moment of asking, a visitor included."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def is_authenticated(self) -> bool:
        """Whether somebody is logged in."""
        return self._session.is_authenticated

    @property
    def identity(self) -> str:
        """The user's id; empty where nobody is logged in."""
        return self._session.user_id or ""

    @property
    def display_name(self) -> str:
        """The user's id: of names the session knows nothing."""
        return self.identity


class _SessionCredentials(AuthCredentials):
    """`request.auth`, whose scopes are looked up when they are asked for."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def scopes(self) -> list[str]:
        return ["authenticated"] if self._session.is_authenticated else []


class SessionBackend(AuthenticationBackend):
    """For Starlette's AuthenticationMiddleware: `request.user` is a SessionUser, and `@requires("authenticated")` works.

    It must stand behind SessionMiddleware. A request that asks neither is none that depends on its cookie. `requires`
    answers 403, as is its way; `requires_login` a 401 that says what is missing.
    """

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser]:
        """Give what `request.auth` and `request.user` are."""
        session = session_of(conn)
        return _SessionCredentials(session), SessionUser(session)
