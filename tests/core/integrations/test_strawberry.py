"""Strawberry's GraphQL: the session in resolvers, who may ask, and that what is open ends with its session."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
import strawberry
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute
from strawberry.fastapi import GraphQLRouter
from strawberry.permission import PermissionExtension
from strawberry.subscriptions import (
    GRAPHQL_SSE_PROTOCOL,
    GRAPHQL_TRANSPORT_WS_PROTOCOL,
    GRAPHQL_WS_PROTOCOL,
)

from coatcheck import Session, SessionMiddleware, Sessions, UsageError, current_session
from coatcheck.credentials import Authenticator
from coatcheck.integrations.strawberry import (
    CanSetCookie,
    LoginRequired,
    SessionContext,
    SessionGraphQL,
    SessionView,
    session_of_info,
)
from coatcheck.stores.memory import MemoryStore
from coatcheck.testing import GatedStore, ManualClock
from coatcheck.tokens import AccessTokens, KeyRing
from tests.core.graphql_client import GraphQLSocket, GraphQLStream

ORIGIN = "https://localhost:8443"
Info = strawberry.Info[SessionContext, None]


@strawberry.type
class Query:
    @strawberry.field
    async def visitor(self, info: Info) -> str | None:
        session = session_of_info(info)
        assert session is current_session()
        if isinstance(info.context, SessionContext):
            assert session is info.context.session
        return session.user_id

    @strawberry.field(permission_classes=[LoginRequired])
    def user(self, info: Info) -> str | None:
        return session_of_info(info).user_id

    @strawberry.field(extensions=[PermissionExtension([LoginRequired(fresh_within=300)])])
    def secret(self) -> str | None:
        return "secret"

    @strawberry.field(extensions=[PermissionExtension([LoginRequired()], fail_silently=True)])
    def perhaps(self) -> str | None:
        return "for users"


@strawberry.type
class Mutation:
    @strawberry.mutation(permission_classes=[CanSetCookie])
    async def login(self, info: Info, user: str) -> str | None:
        await session_of_info(info).log_in(user)
        return user

    @strawberry.mutation(permission_classes=[CanSetCookie])
    async def logout(self, info: Info) -> bool | None:
        await session_of_info(info).log_out()
        return True


@strawberry.type
class Subscription:
    @strawberry.subscription(permission_classes=[LoginRequired])
    async def ticks(self, info: Info) -> AsyncGenerator[str, None]:
        yield f"tick for {session_of_info(info).user_id}"
        await asyncio.Event().wait()


SCHEMA = strawberry.Schema(Query, Mutation, Subscription)
ALL = [GRAPHQL_TRANSPORT_WS_PROTOCOL, GRAPHQL_WS_PROTOCOL, GRAPHQL_SSE_PROTOCOL]


class Site:
    """SessionMiddleware around Strawberry's own view, in Starlette or in FastAPI. Use `async with site.sessions`."""

    def __init__(self, kind: str = "starlette", **options: Any) -> None:
        self.clock = ManualClock()
        self.store = GatedStore(MemoryStore(clock=self.clock))
        self.sessions = Sessions(self.store, clock=self.clock, max_connections_per_session=2)
        self.tokens = AccessTokens(KeyRing(clock=self.clock), issuer=ORIGIN, audience=ORIGIN)
        options = {"subscription_protocols": ALL, **options}
        inside: Any
        if kind == "starlette":
            view = SessionGraphQL(SCHEMA, self.sessions, tokens=self.tokens, **options)
            inside = Starlette(routes=[Route("/graphql", view), WebSocketRoute("/graphql", view)])
        else:

            class Router(SessionView, GraphQLRouter[Any, Any]):
                authenticator = Authenticator(self.sessions, self.tokens)

            inside = FastAPI()
            inside.include_router(Router(SCHEMA, "/graphql", **options))
        self.app = SessionMiddleware(inside, self.sessions, tokens=self.tokens, public_origins=[ORIGIN])

    def client(self, **headers: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app)
        return httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers)

    async def ask(self, client: httpx.AsyncClient, query: str, **headers: str) -> Any:
        answer = await client.post("/graphql", json={"query": query}, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def session(self, user: str = "ada") -> Session:
        session = await self.sessions.load(None)
        await session.log_in(user)
        return session

    async def bearer(self, session: Session) -> str:
        assert session.record is not None
        return f"Bearer {self.tokens.issue(session.record)[0]}"


def cookie_of(session: Session) -> tuple[bytes, bytes]:
    assert session.cookie_change is not None
    return b"cookie", f"__Host-session={session.cookie_change.token}".encode()


@pytest.fixture(params=["starlette", "fastapi"])
def site(request: pytest.FixtureRequest) -> Site:
    return Site(request.param)


# ---- HTTP


async def test_a_login_by_mutation_sets_the_cookie_and_the_next_query_knows_the_user(site: Site) -> None:
    async with site.sessions, site.client() as client:
        assert (await site.ask(client, "{ visitor }"))["data"] == {"visitor": None}
        assert (await site.ask(client, 'mutation { login(user: "ada") }'))["data"] == {"login": "ada"}
        assert (await site.ask(client, "{ visitor user }"))["data"] == {"visitor": "ada", "user": "ada"}
        assert (await site.ask(client, "mutation { logout }"))["data"] == {"logout": True}
        assert (await site.ask(client, "{ visitor }"))["data"] == {"visitor": None}


async def test_a_field_that_needs_a_login_says_so_and_the_others_are_answered(site: Site) -> None:
    async with site.sessions, site.client() as client:
        answer = await site.ask(client, "{ visitor user secret perhaps }")
        assert answer["data"] == {"visitor": None, "user": None, "secret": None, "perhaps": None}
        assert [(error["path"], error["message"], error["extensions"]) for error in answer["errors"]] == [
            (["user"], "Nobody is logged in.", {"code": "UNAUTHENTICATED"}),
            (["secret"], "A more recent login is required.", {"code": "UNAUTHENTICATED", "maxAge": 300}),
        ]


async def test_a_login_that_is_too_old_is_told_how_recent_it_must_be(site: Site) -> None:
    async with site.sessions, site.client() as client:
        await site.ask(client, 'mutation { login(user: "ada") }')
        assert (await site.ask(client, "{ secret }"))["data"] == {"secret": "secret"}
        site.clock.advance(301)
        answer = await site.ask(client, "{ user secret }")
        assert answer["data"] == {"user": "ada", "secret": None}
        assert answer["errors"][0]["extensions"]["maxAge"] == 300


def test_a_nonsensical_age_is_refused_where_it_is_written() -> None:
    with pytest.raises(UsageError, match="fresh_within=0 must be a positive number"):
        LoginRequired(fresh_within=0)


async def test_a_request_that_the_middleware_has_not_seen_is_told_what_is_missing() -> None:
    site = Site()
    view = SessionGraphQL(SCHEMA, site.sessions)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(view), base_url=ORIGIN) as client:
        answer = await client.post("/", json={"query": "{ user }"})
    assert "add SessionMiddleware" in answer.json()["errors"][0]["message"]


async def test_a_context_without_a_request_has_the_current_session_or_says_what_is_missing() -> None:
    result = await SCHEMA.execute("{ user }", context_value={})
    assert result.errors is not None
    assert "there is no current session" in result.errors[0].message
    login = await SCHEMA.execute('mutation { login(user: "ada") }', context_value={})
    assert login.errors is not None
    assert "has no request" in login.errors[0].message


# ---- WebSockets


async def test_a_websocket_knows_the_session_of_its_cookie_and_ends_with_it(site: Site) -> None:
    async with site.sessions:
        session = await site.session()
        socket = await GraphQLSocket(site.app, cookie_of(session), (b"origin", ORIGIN.encode())).opened()
        assert await socket.ask("{ visitor user }") == {"data": {"visitor": "ada", "user": "ada"}}
        socket.subscribe("subscription { ticks }")
        assert (await socket.next())["payload"] == {"data": {"ticks": "tick for ada"}}
        assert session.id is not None
        await site.sessions.end(session.id, "logged out")
        assert await socket.closed() == (4401, "session ended: logged out")
        assert len(site.sessions.connections) == 0


async def test_a_subscription_that_needs_a_login_is_refused_before_it_begins(site: Site) -> None:
    async with site.sessions:
        socket = await GraphQLSocket(site.app).opened()
        answer = await socket.ask("subscription { ticks }")
        assert answer["errors"][0]["extensions"] == {"code": "UNAUTHENTICATED"}
        assert await socket.ask("{ visitor }") == {"data": {"visitor": None}}
        await socket.leave()


@pytest.mark.parametrize("name", ["authorization", "Authorization"])
async def test_a_bearer_in_connection_init_makes_the_websocket_its_sessions_with_which_it_ends(
    site: Site, name: str
) -> None:
    async with site.sessions:
        session = await site.session()
        socket = await GraphQLSocket(site.app).opened({name: await site.bearer(session), "more": "things"})
        assert len(site.sessions.connections) == 1
        assert await socket.ask("{ visitor user }") == {"data": {"visitor": "ada", "user": "ada"}}
        socket.subscribe("subscription { ticks }")
        assert (await socket.next())["payload"] == {"data": {"ticks": "tick for ada"}}
        assert session.id is not None
        await site.sessions.end(session.id, "logged out")
        assert await socket.closed() == (4401, "session ended: logged out")
        assert len(site.sessions.connections) == 0


async def test_a_session_that_ends_while_its_bearer_is_looked_at_leaves_no_websocket_open(site: Site) -> None:
    async with site.sessions:
        session = await site.session()
        bearer = await site.bearer(session)
        site.sessions.cache.clear()
        gate = site.store.hold("read", "after")
        socket = GraphQLSocket(site.app)
        await socket.accepted()
        socket.init({"authorization": bearer})
        await gate.arrived.wait()
        assert session.id is not None
        await site.sessions.end(session.id, "logged out")
        gate.release()
        assert (await socket.closed())[0] in (4401, 4403)
        assert len(site.sessions.connections) == 0


async def test_a_node_that_leaves_closes_it_with_1012(site: Site) -> None:
    async with site.sessions:
        session = await site.session()
        socket = await GraphQLSocket(site.app).opened({"authorization": await site.bearer(session)})
        site.sessions.connections.leave()
        assert await socket.closed() == (1012, "service restart")


async def test_what_it_sends_counts_as_activity_of_the_session(site: Site) -> None:
    async with site.sessions:
        session = await site.session()
        socket = await GraphQLSocket(site.app).opened({"authorization": await site.bearer(session)})
        site.clock.advance(80_000)
        await socket.ask("{ visitor }")
        site.clock.advance(80_000)
        assert len(await site.sessions.list_user("ada")) == 1
        await socket.leave()


@pytest.mark.parametrize(
    "authorization",
    ["Bearer e.e.e", "Bearer", "Basic YWRhOmFkYQ==", "e.e.e", 7, ["Bearer e.e.e"], {"Bearer": "e.e.e"}, True],
)
async def test_what_leads_nowhere_closes_the_websocket_with_4403_and_no_word_of_why(
    site: Site, authorization: object
) -> None:
    async with site.sessions:
        socket = GraphQLSocket(site.app)
        await socket.accepted()
        socket.init({"authorization": authorization})
        assert await socket.closed() == (4403, "Forbidden")


async def test_two_bearers_are_as_good_as_none(site: Site) -> None:
    async with site.sessions:
        bearer = await site.bearer(await site.session())
        socket = GraphQLSocket(site.app)
        await socket.accepted()
        socket.init({"authorization": bearer, "Authorization": bearer})
        assert (await socket.closed())[0] == 4403


@pytest.mark.parametrize("payload", [None, {}, {"authorization": None}, {"authorization": ""}, {"token": "x"}])
async def test_a_connection_init_that_says_nothing_leaves_the_session_of_the_handshake(
    site: Site, payload: object
) -> None:
    async with site.sessions:
        session = await site.session()
        socket = await GraphQLSocket(site.app, cookie_of(session)).opened(payload)
        assert await socket.ask("{ user }") == {"data": {"user": "ada"}}
        await socket.leave()
        assert len(site.sessions.connections) == 0


async def test_a_websocket_that_belongs_to_a_session_takes_no_other_one(site: Site) -> None:
    async with site.sessions:
        session, other = await site.session(), await site.session("bob")
        socket = GraphQLSocket(site.app, cookie_of(session))
        await socket.accepted()
        socket.init({"authorization": await site.bearer(other)})
        assert (await socket.closed())[0] == 4403


async def test_a_second_connection_init_of_the_old_protocol_changes_nothing() -> None:
    site = Site()
    async with site.sessions:
        socket = GraphQLSocket(site.app, subprotocols=["graphql-ws"])
        await socket.accepted()
        socket.init({"authorization": await site.bearer(await site.session())})
        assert (await socket.next())["type"] == "connection_ack"
        socket.init({"authorization": await site.bearer(await site.session("bob"))})
        assert (await socket.next())["type"] == "connection_error"
        assert (await socket.closed())[0] == 1011


async def test_a_store_that_cannot_be_asked_is_no_verdict_on_the_token(site: Site) -> None:
    async with site.sessions:
        bearer = await site.bearer(await site.session())
        site.sessions.cache.clear()
        site.store.down = True
        socket = GraphQLSocket(site.app)
        await socket.accepted()
        socket.init({"authorization": bearer})
        code, reason = await socket.closed()
        assert code == 1013
        assert "try again" in reason
        site.store.down = False


async def test_one_websocket_more_than_a_session_may_have_is_told_to_come_back(site: Site) -> None:
    async with site.sessions:
        session = await site.session()
        init = {"authorization": await site.bearer(session)}
        sockets = [await GraphQLSocket(site.app).opened(init) for _ in range(2)]
        surplus = GraphQLSocket(site.app)
        await surplus.accepted()
        surplus.init(init)
        assert (await surplus.closed())[0] == 1013
        for socket in sockets:
            await socket.leave()
        await (await GraphQLSocket(site.app).opened(init)).leave()


async def test_without_access_tokens_a_bearer_in_connection_init_is_refused() -> None:
    site = Site()
    app = SessionMiddleware(SessionGraphQL(SCHEMA, site.sessions), site.sessions)
    async with site.sessions:
        socket = GraphQLSocket(app)
        await socket.accepted()
        socket.init({"authorization": await site.bearer(await site.session())})
        assert (await socket.closed())[0] == 4403


async def test_a_handshake_of_another_site_is_refused_and_one_of_a_public_origin_is_not(site: Site) -> None:
    async with site.sessions:
        session = await site.session()
        foreign = GraphQLSocket(site.app, cookie_of(session), (b"origin", b"https://evil.example"))
        assert (await foreign.raw())["status"] == 403
        # The page is served from elsewhere, and Strawberry's own look at the Host header would refuse it.
        headers = [(b"host", b"api.example"), cookie_of(session), (b"origin", ORIGIN.encode())]
        await (await GraphQLSocket(site.app, headers=headers).opened()).leave()


async def test_without_the_middleware_strawberry_judges_origins_as_ever() -> None:
    socket = GraphQLSocket(SessionGraphQL(SCHEMA, Site().sessions), (b"origin", b"https://evil.example"))
    assert (await socket.raw())["type"] == "websocket.close"


async def test_a_websocket_that_was_opened_past_the_middleware_belongs_to_nobody() -> None:
    site = Site()
    async with site.sessions:
        view = SessionGraphQL(SCHEMA, site.sessions, tokens=site.tokens)
        socket = GraphQLSocket(view, session=await site.sessions.load(None))
        await socket.accepted()
        socket.init({"authorization": await site.bearer(await site.session())})
        with pytest.raises(UsageError, match="did not come through SessionMiddleware"):
            await asyncio.wait_for(socket.task, 5)


async def test_a_login_over_a_websocket_is_refused_in_so_many_words(site: Site) -> None:
    async with site.sessions:
        session = await site.session()
        socket = await GraphQLSocket(site.app, cookie_of(session)).opened()
        for mutation in ('mutation { login(user: "bob") }', "mutation { logout }"):
            (error,) = (await socket.ask(mutation))["errors"]
            assert error["message"] == "Over a WebSocket no cookie can be set: send this by HTTP."
            assert error["extensions"] == {"code": "BAD_REQUEST"}
        assert await socket.ask("{ user }") == {"data": {"user": "ada"}}
        await socket.leave()


# ---- server-sent events


async def test_a_subscription_over_server_sent_events_knows_its_session_and_ends_with_it(site: Site) -> None:
    async with site.sessions:
        session = await site.session()
        stream = GraphQLStream(site.app, "subscription { ticks }", cookie_of(session))
        assert (await stream.started())["content-type"].startswith("text/event-stream")
        assert await stream.event() == ("next", {"data": {"ticks": "tick for ada"}})
        assert session.id is not None
        await site.sessions.end(session.id, "logged out")
        assert await stream.event() == ("session-ended", {"reason": "logged out"})
        assert await stream.event() is None
        assert stream.over
        await asyncio.wait_for(stream.task, 5)
        assert len(site.sessions.connections) == 0


async def test_a_mutation_is_not_executed_where_its_cookie_would_be_lost(site: Site) -> None:
    async with site.sessions:
        stream = GraphQLStream(site.app, 'mutation { login(user: "ada") }')
        await stream.started()
        kind, answer = await stream.event() or ("", None)
        assert (kind, answer["errors"][0]["message"]) == ("next", "mutations are not allowed")
        assert await stream.event() == ("complete", None)
        assert await site.sessions.list_user("ada") == []


async def test_whoever_takes_json_as_well_gets_json_and_the_cookie(site: Site) -> None:
    accept = "application/graphql-response+json, application/json, text/event-stream, multipart/mixed"
    async with site.sessions, site.client(accept=accept) as client:
        assert (await site.ask(client, 'mutation { login(user: "ada") }'))["data"] == {"login": "ada"}
        assert (await site.ask(client, "{ user }"))["data"] == {"user": "ada"}


async def test_a_query_is_answered_by_a_stream_where_nothing_else_is_taken(site: Site) -> None:
    async with site.sessions:
        stream = GraphQLStream(site.app, "{ user }", cookie_of(await site.session()))
        await stream.started()
        assert await stream.event() == ("next", {"data": {"user": "ada"}})
        assert await stream.event() == ("complete", None)


# ---- beside


def test_without_strawberry_the_message_names_the_install() -> None:
    code = (
        "import sys; sys.modules['strawberry'] = None\n"
        "try: import coatcheck.integrations.strawberry\n"
        "except ImportError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'coatcheck[strawberry]'" in run.stdout
