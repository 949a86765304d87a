"""The REST API: one router for each topic, and the hot `verify` beside them as plain ASGI. Leaves composing to `app`."""

from fastapi import FastAPI

from coatcheck.server.rest import connection, health, logins, sessions, users

__all__ = ["install"]


def install(app: FastAPI) -> None:
    """Add every REST route that FastAPI serves."""
    for part in (users, logins, sessions, connection, health):
        app.include_router(part.router)
