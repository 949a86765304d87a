"""FastAPI's dependencies: the session, the user, and the demand for a (recent) login. Leaves loading to SessionMiddleware.

    @app.get("/profile")
    async def profile(user: CurrentUser) -> str: ...

    @app.delete("/account", dependencies=[Depends(require_login(fresh_within=300))])
    async def delete_account() -> None: ...

They work in HTTP and in WebSocket routes, alone, as parameters or in `dependencies=[…]` of routes, routers and apps.
"""

from collections.abc import Mapping
from typing import Annotated, Any, cast

from coatcheck.cookies import CookiePolicy
from coatcheck.errors import MissingDependency
from coatcheck.integrations._login_demand import POLICY_VIOLATION, LoginDemand, must_close
from coatcheck.session import Session, session_of

try:
    from fastapi import Depends, FastAPI, HTTPException, WebSocketException
    from fastapi.openapi.models import APIKey, APIKeyIn
    from fastapi.openapi.models import SecurityBase as SecurityScheme
    from fastapi.requests import HTTPConnection
    from fastapi.security.base import SecurityBase
except ImportError as _error:
    raise MissingDependency("fastapi", "fastapi", "coatcheck.integrations.fastapi") from _error

__all__ = ["CurrentSession", "CurrentUser", "RequireLogin", "describe_sessions", "require_fresh", "require_login"]

_SCHEME = "session"
_BEARER = "bearer"
_CHALLENGE: Mapping[str, Any] = {
    "description": "Nobody is logged in, or not recently enough",
    "headers": {
        "WWW-Authenticate": {
            "description": "`Bearer`; with `insufficient_user_authentication` and `max_age` where the login is too old "
            "(RFC 9470)",
            "schema": {"type": "string"},
        }
    },
}

_ACCESS_TOKEN: Mapping[str, Any] = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "JWT",
    "description": "An access token (RFC 6750, RFC 9068).",
}


class RequireLogin(SecurityBase):
    """What `require_login` gives: a dependency whose value is the session of a user. OpenAPI shows it as a cookie."""

    def __init__(self, fresh_within: float | None = None, *, from_store: bool = False) -> None:
        self._demand = LoginDemand(fresh_within)
        self.fresh_within: float | None = fresh_within
        self.from_store: bool = from_store
        self.scheme_name: str = _SCHEME
        self.model: SecurityScheme = APIKey.model_validate(
            {
                "in": APIKeyIn.cookie,
                "name": CookiePolicy().name,
                "description": "The session cookie, which logging in sets.",
            }
        )

    async def __call__(self, connection: HTTPConnection) -> Session:
        """Give the session; raise HTTPException(401), which also refuses a WebSocket before it is accepted."""
        session = session_of(connection)
        refusal = await self._demand.unmet_in_store(session) if self.from_store else self._demand.unmet_by(session)
        if refusal is None:
            return session
        if must_close(connection.scope):
            raise WebSocketException(POLICY_VIOLATION, refusal.detail)
        raise HTTPException(401, refusal.detail, headers={"WWW-Authenticate": refusal.challenge})


def require_login(*, fresh_within: float | None = None) -> RequireLogin:
    """Demand a logged-in user, as `Depends(require_login())`; the dependency's value is the `Session`.

    With `fresh_within` the user must have proved who they are within that many seconds. Otherwise the answer is 401
    with the `WWW-Authenticate` of RFC 6750, section 3, or, for a login that is too old, of RFC 9470, section 3. A
    WebSocket is refused before it is accepted: with the same 401 where the server can (ASGI's extension
    `websocket.http.response`), else by closing it with 1008, which the server tells as 403. Raises UsageError for a
    `fresh_within` that is not positive.
    """
    return RequireLogin(fresh_within)


def require_fresh(*, fresh_within: float | None = None) -> RequireLogin:
    """Demand a logged-in user as the store has it at this moment, past every copy: for the route that must ask.

    `require_login` believes this node's copy, which on another node's logout may be as old as `max_staleness` while the
    feed fails. This costs one read of the store for each request, and is 503 where it cannot be asked. Pending changes
    of a session are dropped by it: use it as a dependency, before the handler.
    """
    return RequireLogin(fresh_within, from_store=True)


async def _session(connection: HTTPConnection) -> Session:
    return session_of(connection)


async def _user(session: Annotated[Session, Depends(require_login())]) -> str:
    assert session.user_id is not None
    return session.user_id


CurrentSession = Annotated[Session, Depends(_session)]
"""The request's session, an anonymous visitor's included. In OpenAPI it demands nothing, for nothing is demanded."""

CurrentUser = Annotated[str, Depends(_user)]
"""The id of the logged-in user; 401 with `WWW-Authenticate: Bearer` where nobody is logged in (see `require_login`)."""


def describe_sessions(app: FastAPI, *, cookie: CookiePolicy | None = None, bearer: bool = False) -> None:
    """Complete what the app's OpenAPI says of sessions: the cookie's name by your policy, and each 401 that a login can need.

    FastAPI lets no dependency document its answers, and none of them knows the middleware's policy: so this wraps
    `app.openapi`. Without it the schema names the default cookie `__Host-session` and leaves the 401 out. What a route
    documents itself for 401 is left alone. With `bearer` it says that an access token does where the cookie does, as it is
    with a middleware that has `tokens`.
    """
    name = (cookie or CookiePolicy()).name
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        schema = generate()
        schemes = cast("dict[str, dict[str, Any]]", schema.get("components", {}).get("securitySchemes", {}))
        if _SCHEME in schemes:
            schemes[_SCHEME]["name"] = name
            if bearer:
                schemes[_BEARER] = dict(_ACCESS_TOKEN)
        for path in cast("dict[str, dict[str, Any]]", schema.get("paths", {})).values():
            for operation in path.values():
                if isinstance(operation, dict):
                    _add_challenge(cast("dict[str, Any]", operation))
                    if bearer:
                        _add_bearer(cast("dict[str, Any]", operation))
        return schema

    app.openapi = openapi


def _add_bearer(operation: dict[str, Any]) -> None:
    demands = cast("list[dict[str, list[str]]]", operation.get("security", []))
    if {_SCHEME: []} in demands and {_BEARER: []} not in demands:
        demands.append({_BEARER: []})


def _add_challenge(operation: dict[str, Any]) -> None:
    demands = cast("list[dict[str, list[str]]]", operation.get("security", []))
    if any(_SCHEME in demand for demand in demands):
        responses = cast("dict[str, Any]", operation.setdefault("responses", {}))
        responses.setdefault("401", dict(_CHALLENGE))
