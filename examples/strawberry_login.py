"""Log in, be known, listen and log out, with Strawberry's GraphQL: `uvicorn strawberry_login:app`."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import strawberry
from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute

from coatcheck import SessionMiddleware, Sessions
from coatcheck.integrations.strawberry import CanSetCookie, LoginRequired, SessionContext, SessionGraphQL

Info = strawberry.Info[SessionContext, None]


@strawberry.type
class Query:
    @strawberry.field(permission_classes=[LoginRequired])
    def profile(self, info: Info) -> str | None:
        return f"Hello, {info.context.session.user_id}"


@strawberry.type
class Mutation:
    @strawberry.mutation(permission_classes=[CanSetCookie])
    async def log_in(self, info: Info) -> str:
        await info.context.session.log_in("user123")  # yours checks a password first
        return "Logged in"

    @strawberry.mutation(permission_classes=[CanSetCookie])
    async def log_out(self, info: Info) -> str:
        await info.context.session.log_out()
        return "Logged out"


@strawberry.type
class Subscription:
    @strawberry.subscription(permission_classes=[LoginRequired])
    async def clock(self) -> AsyncGenerator[str, None]:
        while True:  # until the session ends: then whoever listens is told so
            yield datetime.now(UTC).isoformat(timespec="seconds")
            await asyncio.sleep(1)


sessions = Sessions("sqlite:///sessions.sqlite3")
graphql = SessionGraphQL(
    strawberry.Schema(Query, Mutation, Subscription),
    sessions,
    graphql_ide=None,
    subscription_protocols=["graphql-transport-ws", "graphql-sse"],
)
app = Starlette(routes=[Route("/graphql", graphql), WebSocketRoute("/graphql", graphql)])
app.add_middleware(SessionMiddleware, sessions)
