"""The composition root: settings and a worker's context in, one ASGI application out.

From outside to inside: the facts about the connection, the envelope, the session by the cookie of the request's scheme,
then `verify`, GraphQL or FastAPI. Leaves sockets and processes to `worker` and `supervisor`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from importlib.metadata import version
from typing import Any, TypeAlias

from fastapi import FastAPI

from coatcheck.accounts import Accounts, PasswordHasher
from coatcheck.accounts.passkeys import Passkeys
from coatcheck.accounts.recovery import RecoveryCodes
from coatcheck.accounts.security_log import SecurityLog
from coatcheck.errors import CoatcheckError, StoreUnavailable
from coatcheck.manager import Sessions
from coatcheck.server import openapi, problems
from coatcheck.server.activity import Activity
from coatcheck.server.attempts import open_attempts
from coatcheck.server.certificates import ensure_data_dir
from coatcheck.server.connection_facts import ConnectionFactsMiddleware
from coatcheck.server.context import WorkerContext
from coatcheck.server.envelope import Envelope, HeadAsGet
from coatcheck.server.events import EventsSocket, stream
from coatcheck.server.graphql import PATH as GRAPHQL_PATH
from coatcheck.server.graphql import GraphQLApplication
from coatcheck.server.live_table import LiveTable
from coatcheck.server.login_counts import LoginCounts
from coatcheck.server.logs import configure_logging
from coatcheck.server.metrics import Publisher
from coatcheck.server.rest import ROUTERS
from coatcheck.server.rest.revocations import feed_of
from coatcheck.server.rest.verify import PATH, Verify
from coatcheck.server.rest.verify_elsewhere import VerifyElsewhere
from coatcheck.server.revocation_feed import RevocationFeed
from coatcheck.server.schemes import SchemeSessions
from coatcheck.server.services import Services
from coatcheck.server.settings import Settings
from coatcheck.server.signing import keep_maintained, open_access_tokens
from coatcheck.server.ui import page_routes
from coatcheck.tokens import RefreshTokens

__all__ = ["Application", "compose", "create_app", "open_sessions", "rest_app"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_DESCRIPTION = (
    "Log in once and every request knows you; log out and it is over everywhere at once. "
    "Errors are problem documents (RFC 9457). The session travels in a cookie: `__Host-session` over TLS; `session` over "
    "plain HTTP, on loopback only; or an access token leads to it, which wins over a cookie. One that is not valid is 401 at "
    "every address."
)
_log = logging.getLogger("coatcheck.server")


def create_app(settings: Settings, worker: WorkerContext) -> Application:
    """Give the application that a worker process serves, and set up this process's logging."""
    configure_logging(settings.log_format)
    ensure_data_dir(settings.data_dir)
    accounts = Accounts(settings.accounts_url(), hasher=PasswordHasher())
    sessions, access = open_sessions(settings), open_access_tokens(settings)
    return compose(
        Services(
            settings=settings,
            worker=worker,
            sessions=sessions,
            accounts=accounts,
            attempts=open_attempts(settings, accounts),
            access=access,
            refresh=RefreshTokens(sessions, access),
            activity=Activity(accounts, sessions),
            passkeys=Passkeys(accounts, settings.effective_public_origins()),
            recovery=RecoveryCodes(accounts),
            security=SecurityLog(accounts),
            logins=LoginCounts(accounts, sessions),
            live=LiveTable(worker.runtime_dir, worker.worker_id, sessions.connections),
        )
    )


def open_sessions(settings: Settings) -> Sessions:
    """Give the sessions that the settings ask for, not started yet."""
    limits = settings.limits
    return Sessions(
        settings.store_url(),
        idle_timeout=settings.session_idle_timeout,
        lifetime=settings.session_lifetime,
        touch_interval=min(60.0, settings.session_idle_timeout),
        max_per_user=settings.sessions_per_user,
        max_connections_per_session=limits.connections_per_session,
        max_connections_per_user=limits.connections_per_user,
        slow_client_timeout=limits.slow_client_timeout,
    )


def compose(services: Services) -> Application:
    """Put the application together from parts that may be a test's own. Its lifespan starts and closes them."""
    settings, worker = services.settings, services.worker
    worker.on_leave += [services.activity.leave, services.sessions.connections.leave]
    origins = settings.effective_public_origins()
    api = rest_app(services)
    verify = Verify(public_origins=origins)
    graphql = GraphQLApplication(services)
    events_socket = EventsSocket(services)

    def routes(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["path"] == PATH and scope["type"] == "http":
            return verify(scope, receive, send)
        if scope["path"] == GRAPHQL_PATH:
            return graphql(scope, receive, send)
        if scope["path"] == stream.PATH and scope["type"] == "websocket":
            return events_socket(scope, receive, send)
        return api(scope, receive, send)

    sessions = SchemeSessions(HeadAsGet(routes), services.sessions, public_origins=origins, tokens=services.access)
    publisher = Publisher(worker.figures, services.sessions)
    revocations = feed_of(services, api.state)
    if worker.edge:
        # Only the edge leads to it, and only where it is served is it worth its import.
        from coatcheck.server.rpc import RpcServer

        worker.rpc = RpcServer(services, revocations)
    envelope = Envelope(
        VerifyElsewhere(sessions, services),
        worker=worker.worker_id,
        show_worker=settings.is_loopback(),
        max_body=settings.limits.request_body_kb * 1024,
        answered=publisher.answered,
    )
    inside = ConnectionFactsMiddleware(envelope, worker)

    def application(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "lifespan":
            return _lifespan(services, publisher, revocations, receive, send)
        return inside(scope, receive, send)

    return application


def rest_app(services: Services) -> FastAPI:
    """Give the part that FastAPI serves: REST, its description, and the page."""
    api = FastAPI(
        title="Coatcheck",
        version=version("coatcheck"),
        description=_DESCRIPTION,
        # The framework's own pages load scripts from elsewhere.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    api.state.services = services
    problems.install(api, ROUTERS)
    for router in (*ROUTERS, stream.router):
        api.include_router(router)
    openapi.install(api, docs=services.settings.is_loopback())
    api.router.routes.extend(page_routes())
    return api


async def _lifespan(
    services: Services, publisher: Publisher, revocations: RevocationFeed, receive: Receive, send: Send
) -> None:
    """Start and close the parts. What keeps them from starting is one line, not a traceback."""
    await receive()
    try:
        await asyncio.to_thread(services.access.keys.maintain)
        await services.accounts.start()
        try:
            await services.sessions.start()
        except StoreUnavailable as error:
            # Each request tries again; until then it is 503, and `/readyz` says so.
            _log.warning("the session store is away: %s", error)
    except CoatcheckError as error:
        await services.accounts.close()
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return
    background = (
        publisher.run(),
        keep_maintained(services.access.keys),
        revocations.run(),
        services.activity.run(),
        services.live.run(),
        services.logins.run(),
    )
    tasks = [asyncio.create_task(work) for work in background]
    await send({"type": "lifespan.startup.complete"})
    await receive()
    for task in tasks:
        task.cancel()
    publisher.publish()
    await services.logins.flush()
    await services.sessions.close()
    await services.activity.close()
    await services.accounts.close()
    await send({"type": "lifespan.shutdown.complete"})
