"""`/graphql`: the same model as REST, over HTTP, WebSockets (graphql-transport-ws) and server-sent events.

What it is made of is imported when it is first asked for: a worker that nobody asks starts without it. Leaves what is done
to `actions`, and ending what is open to SessionMiddleware.
"""

import asyncio
import importlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from coatcheck.server.services import Services

__all__ = ["PATH", "GraphQLApplication"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

PATH = "/graphql"


class GraphQLApplication:
    """ASGI for `http` and `websocket` scopes of which SessionMiddleware has seen the session."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._made: Application | None = None
        self._making = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        made = self._made or await self._make()
        await made(scope, receive, send)

    async def _make(self) -> Application:
        async with self._making:
            if self._made is None:
                # It takes 0.3 s or more, which no other request should wait for.
                self._made = await asyncio.to_thread(_make, self._services)
        return self._made


def _make(services: Services) -> Application:
    application: Application = importlib.import_module("coatcheck.server.graphql.endpoint").make(services)
    return application
