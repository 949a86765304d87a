"""One login for every transport: REST, GraphQL, WebSocket, server-sent events, gRPC. `uvicorn all_transports:app`.

POST /login gives a cookie that each of them knows; POST /logout ends whatever is open under it, each in its own words.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import grpc
import grpc.aio
import strawberry
from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from starlette.routing import Route, WebSocketRoute

from coatcheck import SessionMiddleware, Sessions, current_session
from coatcheck.integrations.fastapi import CurrentSession, CurrentUser
from coatcheck.integrations.grpc import SessionInterceptor
from coatcheck.integrations.strawberry import LoginRequired, SessionContext, SessionGraphQL

sessions = Sessions("sqlite:///sessions.sqlite3")


async def ticks(user: str | None) -> AsyncIterator[str]:
    while True:  # nobody looks at the session here: it is ended from outside
        yield f"{user}, it is {datetime.now(UTC):%H:%M:%S}"
        await asyncio.sleep(1)


# ---- GraphQL: queries over HTTP, subscriptions over WebSocket and server-sent events


@strawberry.type
class Query:
    @strawberry.field(permission_classes=[LoginRequired])
    def profile(self, info: strawberry.Info[SessionContext, None]) -> str | None:
        return info.context.session.user_id


@strawberry.type
class Subscription:
    @strawberry.subscription(permission_classes=[LoginRequired])
    async def clock(self, info: strawberry.Info[SessionContext, None]) -> AsyncGenerator[str, None]:
        async for tick in ticks(info.context.session.user_id):
            yield tick


graphql = SessionGraphQL(
    strawberry.Schema(Query, subscription=Subscription),
    sessions,
    graphql_ide=None,
    subscription_protocols=["graphql-transport-ws", "graphql-sse"],
)


# ---- gRPC. Yours has a .proto; the messages of this one are bytes as they are.


async def profile_rpc(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    return str(current_session().user_id).encode()


async def clock_rpc(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
    async for tick in ticks(current_session().user_id):
        yield tick.encode()


methods = {
    "Profile": grpc.unary_unary_rpc_method_handler(profile_rpc),
    "Clock": grpc.unary_stream_rpc_method_handler(clock_rpc),
}


@asynccontextmanager
async def grpc_beside_it(app: FastAPI) -> AsyncIterator[None]:
    interceptor = SessionInterceptor(sessions, require_login=True)
    server = grpc.aio.server(interceptors=[interceptor])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("example.Clock", methods)])
    server.add_insecure_port(f"localhost:{os.environ.get('GRPC_PORT', '50051')}")
    await server.start()
    yield
    interceptor.leave()
    await server.stop(grace=1)


# ---- REST, WebSocket, server-sent events

app = FastAPI(
    lifespan=grpc_beside_it,
    routes=[Route("/graphql", graphql), WebSocketRoute("/graphql", graphql)],
)
app.add_middleware(SessionMiddleware, sessions, public_origins=["http://localhost:8000"])


@app.post("/login")
async def log_in(session: CurrentSession) -> None:
    await session.log_in("user123")  # yours checks a password first


@app.post("/logout")
async def log_out(session: CurrentSession) -> None:
    await session.log_out()


@app.get("/profile")
async def profile(user: CurrentUser) -> str:
    return user


@app.websocket("/echo")
async def echo(websocket: WebSocket, user: CurrentUser) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(f"{user}: {text}")


@app.get("/clock")
async def clock(user: CurrentUser) -> StreamingResponse:
    return StreamingResponse((f"data: {tick}\n\n" async for tick in ticks(user)), media_type="text/event-stream")
