"""`/graphql` over HTTP, as GraphQL over HTTP has it, and as server-sent events (graphql-sse, distinct connections).

A single result is made before the first byte leaves, so that cookies can be set; only subscriptions are streamed. Leaves
WebSockets to `websockets`, reading requests to `requests`.
"""

import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias, cast

import strawberry
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from strawberry.exceptions import MissingQueryError
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.types.execution import ExecutionResult, PreExecutionError
from strawberry.types.graphql import OperationType

from coatcheck.server.graphql.context import Context
from coatcheck.server.graphql.errors import document_of
from coatcheck.server.graphql.limits import NO_OPERATION
from coatcheck.server.graphql.requests import (
    EVENT_STREAM,
    JSON,
    Accepted,
    GraphQLRequest,
    accepted,
    of_body,
    of_query_string,
)
from coatcheck.server.graphql.schema import schema
from coatcheck.server.graphql.websockets import Sockets
from coatcheck.server.problems import ProblemError
from coatcheck.server.services import Services

__all__ = ["Endpoint", "make"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_ALLOW = "GET, HEAD, POST"
_HEADERS = {"cache-control": "no-store", "vary": "Accept"}
_STREAM_HEADERS = {**_HEADERS, "x-accel-buffering": "no"}
_GREETING = (
    'This is a GraphQL endpoint: POST a JSON object like {"query": "{ me { name } }"} to it, with Content-Type: '
    "application/json.\nSubscriptions: as text/event-stream, or over a WebSocket by graphql-transport-ws.\n"
)


def make(services: Services) -> "Endpoint":
    """Give the ASGI application of one worker."""
    return Endpoint(services)


class Endpoint:
    """ASGI for `http` and `websocket` scopes."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._schema: strawberry.Schema = schema(introspection=services.settings.tells_its_schema())
        self._sockets = Sockets(self._schema, services)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._sockets(scope, receive, send)
            return
        request = Request(scope, receive)
        accept = ", ".join(request.headers.getlist("accept")) if "accept" in request.headers else None
        wanted = accepted(accept)
        try:
            answer = await self._answer(request, wanted)
        except ProblemError as problem:
            answer = _answer(document_of(problem), wanted, problem.status, problem.headers)
        await answer(scope, receive, send)

    async def _answer(self, request: Request, wanted: Accepted) -> Response:
        if request.method == "GET":
            if "query" not in request.query_params and "text/html" in request.headers.get("accept", ""):
                return PlainTextResponse(_GREETING, headers=_HEADERS)
            asked = of_query_string(request.scope["query_string"])
        elif request.method == "POST":
            asked = of_body(request.headers.get("content-type"), await request.body())
        else:
            raise ProblemError(405, "GraphQL is asked by GET and POST.", headers={"allow": _ALLOW})
        if wanted.single is None and not wanted.stream:
            raise ProblemError(406, f"Answers come as application/graphql-response+json, {JSON} or {EVENT_STREAM}.")
        return await self._execute(asked, request, wanted)

    async def _execute(self, asked: GraphQLRequest, request: Request, wanted: Accepted) -> Response:
        context = Context(self._services, request, Response())
        by_get = request.method == "GET"
        try:
            result = await self._schema.execute(
                asked.query,
                variable_values=asked.variables,
                operation_name=asked.operation_name,
                context_value=context,
                allowed_operation_types={OperationType.QUERY} | (set() if by_get else {OperationType.MUTATION}),
            )
        except InvalidOperationTypeError as error:
            if error.operation_type is OperationType.SUBSCRIPTION:
                return await self._subscribe(asked, context, wanted)
            raise ProblemError(405, "Mutations are sent by POST.", headers={"allow": "POST"}) from None
        except (CannotGetOperationTypeError, MissingQueryError):
            status = 400 if wanted.strict else 200
            problem = ProblemError(400, NO_OPERATION)
            return _answer(document_of(problem), wanted, status)
        document, executed = _document(result)
        return _answer(document, wanted, 200 if executed or not wanted.strict else 400, context=context)

    async def _subscribe(self, asked: GraphQLRequest, context: Context, wanted: Accepted) -> Response:
        if not wanted.stream:
            raise ProblemError(406, f"A subscription is answered as {EVENT_STREAM}, or over a WebSocket: ask for that.")
        results = await self._schema.stream(
            asked.query,
            variable_values=asked.variables,
            operation_name=asked.operation_name,
            context_value=context,
            allowed_operation_types={OperationType.SUBSCRIPTION},
        )
        return _Stream(_events(results), media_type=EVENT_STREAM, headers=_STREAM_HEADERS)


class _Stream(StreamingResponse):
    """Closes what it streams, too, when it is cut while its client has yet to read."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(cast("AsyncGenerator[str, None]", self.body_iterator)):
            await super().__call__(scope, receive, send)


async def _events(results: AsyncGenerator[Any, None]) -> AsyncGenerator[str, None]:
    """Write results as they come. Our one subscription is never silent for long, so that no heartbeat is needed."""
    async with contextlib.aclosing(results):
        async for result in results:
            yield _event("next", _document(result)[0])
    yield _event("complete")


def _event(kind: str, data: object = None) -> str:
    # A browser's EventSource passes over an event without data.
    return f"event: {kind}\ndata: {'' if data is None else _json(data)}\n\n"


def _document(result: ExecutionResult) -> tuple[dict[str, Any], bool]:
    """Give the response, and whether anything was executed: if not, it has no data (GraphQL, section 7.1)."""
    errors = result.errors or []
    executed = not isinstance(result, PreExecutionError) and (
        result.data is not None or not errors or any(error.path for error in errors)
    )
    document: dict[str, Any] = {"errors": [error.formatted for error in errors]} if errors else {}
    if executed:
        document["data"] = result.data
    return document, executed


def _answer(
    document: dict[str, Any],
    wanted: Accepted,
    status: int,
    headers: Any = (),
    *,
    context: Context | None = None,
) -> Response:
    own = {**_HEADERS, **dict(headers)}
    if wanted.single is None and wanted.stream and status == 200:
        answer = Response(_event("next", document) + _event("complete"), media_type=EVENT_STREAM, headers=own)
    else:
        kind = wanted.single or JSON
        answer = Response(_json(document), status, media_type=f"{kind}; charset=utf-8", headers=own)
    if context is not None:
        answer.raw_headers.extend(header for header in context.response.raw_headers if header[0] == b"set-cookie")
    return answer


def _json(data: object) -> str:
    return json.dumps(data, separators=(",", ":"))
