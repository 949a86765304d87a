"""The REST API: one router for each topic, and the hot `verify` beside them as plain ASGI. Leaves composing to `app`."""

from coatcheck.server.rest import (
    admin,
    connection,
    health,
    logins,
    revocations,
    security,
    service,
    sessions,
    tokens,
    users,
)

__all__ = ["ROUTERS"]

ROUTERS = (
    users.router,
    logins.router,
    sessions.router,
    security.router,
    admin.router,
    tokens.router,
    service.router,
    revocations.router,
    connection.router,
    health.router,
)
"""All that FastAPI serves but for the events, which stand above."""
