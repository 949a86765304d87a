"""What `coatcheck serve` serves in the benchmark: the same small application as everybody else's, on the settings' store.

Leaves the load to `servers`. It answers on every path that the others answer, and opens nothing else.
"""

from typing import Any

from coatcheck import Session, SessionMiddleware, Sessions
from coatcheck.server.context import WorkerContext
from coatcheck.server.settings import Settings

__all__ = ["create_app"]

VALUES = {"user": "user123", "theme": "dark", "locale": "en-GB", "cart": ["apple", "pear", "plum"], "visits": 12}


def create_app(settings: Settings, worker: WorkerContext) -> Any:
    """Make the application of one worker."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        session: Session = scope["session"]
        status = 200
        if scope["path"] == "/login":
            await session.log_in("user123")
            session.update(VALUES)
        elif scope["path"] == "/read" and (session.get("user"), session.get("theme")) != ("user123", "dark"):
            status = 401
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    return SessionMiddleware(app, Sessions(settings.store_url(), max_per_user=None))
