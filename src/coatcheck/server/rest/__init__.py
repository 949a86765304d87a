"""The REST API: one router for each topic, and the hot `verify` beside them as plain ASGI. Leaves composing to `app`."""

from coatcheck.server.rest import connection, events, health, logins, revocations, service, sessions, tokens, users

__all__ = ["ROUTERS"]

ROUTERS = (
    users.router,
    logins.router,
    sessions.router,
    events.router,
    tokens.router,
    service.router,
    revocations.router,
    connection.router,
    health.router,
)
"""All that FastAPI serves."""
