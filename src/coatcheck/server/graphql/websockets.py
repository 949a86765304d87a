"""`/graphql` over WebSockets: graphql-transport-ws by Strawberry, within bounds. Queries and subscriptions, no mutations.

For users: one that is nobody's after `connection_init` is closed. Promises that a client which sends without end, or without
reading, cannot grow the worker. Leaves its end with the session to SessionMiddleware.
"""

import asyncio
import json
from collections.abc import Mapping, MutableMapping
from datetime import timedelta
from typing import Any, cast

import strawberry
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.exceptions import ConnectionRejectionError
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import BaseGraphQLTransportWSHandler

from coatcheck.credentials import BAD_TOKEN, Authenticator, Refusal
from coatcheck.integrations.strawberry import SessionView
from coatcheck.server.graphql.context import Context
from coatcheck.server.schemes import is_of_scheme
from coatcheck.server.services import Services
from coatcheck.session import Session

__all__ = ["Sockets"]

INIT_TIMEOUT = 10.0
"""Seconds that a client has for its `connection_init`; then it is 4408."""
MOST_OPERATIONS = 16
"""Operations under way at once on one WebSocket."""
PACE = 50.0
"""Messages a second that are taken from one client in the long run, and so many at once after a silence:"""
BURST = 200.0

_TEXTS = {"query": str, "operationName": (str, type(None)), "variables": (dict, type(None))}


class _Handler(BaseGraphQLTransportWSHandler[Context, None]):
    """One WebSocket."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._under_way: set[asyncio.Task[None]] = set()
        self._due = 0.0

    async def handle_message(self, message: Any) -> None:
        await self._keep_pace()
        if not _is_message(message):
            await self.handle_invalid_message("This is no message of the protocol")
            return
        if message.get("payload", "") is None:
            del message["payload"]  # which says the same by the protocol, but not to Strawberry
        await super().handle_message(message)

    async def handle_subscribe(self, message: Any) -> None:
        # An operation is forgotten before its last message is sent. Of a client that does not read these would pile up.
        while len(self._under_way) >= 2 * MOST_OPERATIONS:
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        await super().handle_subscribe(message)
        operation = self.operations.get(message["id"])
        task = cast("asyncio.Task[None] | None", operation and operation.task)  # pyright: ignore[reportUnknownMemberType]
        if task is not None:
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _keep_pace(self) -> None:
        """Read on more slowly from a client that sends too much, so that it has to wait."""
        now = asyncio.get_running_loop().time()
        self._due = max(now, self._due) + 1 / PACE
        early = self._due - now - BURST / PACE
        if early > 0:
            await asyncio.sleep(early)

    @staticmethod
    def _get_pre_execution_close_reason(error: Any) -> str | None:
        # A document with a slip is no reason to end the other operations, nor does its error fit a close frame.
        return None


class Sockets(SessionView, GraphQL[Context, None]):
    """ASGI for `websocket` scopes."""

    graphql_transport_ws_handler_class: type[BaseGraphQLTransportWSHandler[Context, None]] = _Handler

    def __init__(self, schema: strawberry.Schema, services: Services) -> None:
        super().__init__(
            schema,
            graphql_ide=None,
            subscription_protocols=[GRAPHQL_TRANSPORT_WS_PROTOCOL],
            connection_init_wait_timeout=timedelta(seconds=INIT_TIMEOUT),
            max_subscriptions_per_connection=MOST_OPERATIONS,
        )
        self._services = services
        self.authenticator: Authenticator | None = Authenticator(services.sessions, services.access)

    async def on_ws_connect(self, context: Context) -> Any:
        """Look at the payload of `connection_init`, and close with 4403 what is nobody's even then."""
        answer = await super().on_ws_connect(context)
        if not context.session.is_authenticated:
            # Nothing would end it, and whoever may not listen has no need of it.
            raise ConnectionRejectionError
        return answer

    async def authenticate(self, scope: MutableMapping[str, Any], bearer: str) -> Session | Refusal:
        """Give the session of an access token, if it was logged in to over the WebSocket's own scheme."""
        found = await super().authenticate(scope, bearer)
        scheme = "https" if scope.get("scheme") in ("https", "wss") else "http"
        return BAD_TOKEN if isinstance(found, Session) and not is_of_scheme(found, scheme) else found

    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Context:
        """Give what resolvers find in `info.context`."""
        return Context(self._services, request, Response())

    def decode_json(self, data: str | bytes) -> object:
        """Read a message."""
        try:
            return json.loads(data)
        except RecursionError:
            raise json.JSONDecodeError("nested too deeply", "", 0) from None


def _is_message(message: object) -> bool:
    """Tell whether a message has the form that the handler takes for granted."""
    if not isinstance(message, dict):
        return False
    message = cast("dict[str, Any]", message)
    kind, payload = message.get("type"), message.get("payload")
    if not isinstance(kind, str) or not isinstance(message.get("id", ""), str):
        return False
    if kind != "subscribe":
        return True
    return isinstance(payload, Mapping) and all(
        isinstance(cast("Mapping[str, Any]", payload).get(name), kinds) for name, kinds in _TEXTS.items()
    )
