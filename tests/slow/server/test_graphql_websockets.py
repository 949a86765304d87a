"""GraphQL over WebSockets: who it is, that it ends with the session, and that no client can grow or break the worker."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from coatcheck.server.graphql import websockets
from tests.core.graphql_client import GraphQLSocket
from tests.core.server.house import (
    COOKIE,
    ORIGIN,
    PASSWORD,
    PLAIN_COOKIE,
    PLAIN_ORIGIN,
    House,
    log_in_for_tokens,
    session_id,
)
from tests.slow.server.test_graphql import data, enter

EVENTS = "subscription { sessionEvents { kind sessionId current reason } }"


def cookie(client: httpx.AsyncClient, name: str = COOKIE) -> tuple[bytes, bytes]:
    return b"cookie", f"{name}={client.cookies[name]}".encode()


async def opened(house: House) -> GraphQLSocket:
    """One of a new login."""
    return await GraphQLSocket(house.app, cookie(await enter(house))).opened()


async def told(socket: GraphQLSocket, kind: str) -> Any:
    """The next event of a kind."""
    while True:
        event = (await socket.next())["payload"]["data"]["sessionEvents"]
        if event["kind"] == kind:
            return event


# ---- who it is, and its end


async def test_a_subscription_tells_what_happens_and_ends_with_the_session(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client, other = await house.log_in("ada"), await house.log_in("ada")
        theirs = await session_id(other)
        socket = await GraphQLSocket(house.app, cookie(client), (b"origin", ORIGIN.encode())).opened()
        assert (await socket.ask("{ me { username } connection { protocol scheme } }"))["data"] == {
            "me": {"username": "ada"},
            "connection": {"protocol": "HTTP/1.1", "scheme": "https"},
        }
        socket.subscribe(EVENTS)
        assert (await told(socket, "BEGIN"))["sessionId"] is None
        await data(client, "mutation ($id: ID!) { endSession(id: $id) }", id=theirs)
        assert await told(socket, "ENDED") == {
            "kind": "ENDED",
            "sessionId": theirs,
            "current": False,
            "reason": "ended by user",
        }
        assert await data(client, "mutation { logout }") == {"logout": True}
        while (message := await socket.raw())["type"] == "websocket.send":
            pass
        assert (message["type"], message["code"]) == ("websocket.close", 4401)
        assert message["reason"] == "session ended: logout"
        await asyncio.wait_for(socket.task, 5)
        assert len(house.sessions.connections) == house.activity.followers == 0


async def test_an_access_token_in_connection_init_makes_it_its_sessions(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.register("ada")
        tokens = await log_in_for_tokens(house.client(), "ada")
        init = {"authorization": f"Bearer {tokens['access_token']}"}
        socket = await GraphQLSocket(house.app).opened(init)
        assert (await socket.ask("{ me { username } sessions { current kind } }"))["data"] == {
            "me": {"username": "ada"},
            "sessions": [{"current": True, "kind": "TOKEN"}],
        }
        socket.subscribe(EVENTS)
        await told(socket, "BEGIN")
        answer = await house.client(headers=init).post("/v1/logout")
        assert answer.status_code == 204
        while (message := await socket.raw())["type"] == "websocket.send":
            pass
        assert (message["code"], message["reason"]) == (4401, "session ended: logout")
        await asyncio.wait_for(socket.task, 5)
        refused = GraphQLSocket(house.app)
        await refused.accepted()
        refused.init(init)
        assert await refused.closed() == (4403, "Forbidden")


async def test_a_ticket_among_the_subprotocols_opens_one(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await enter(house)
        ticket = (await client.post("/v1/tickets")).json()["ticket"]
        offered = ["graphql-transport-ws", f"coatcheck.ticket.{ticket}"]
        for expected in ("graphql-transport-ws", None):
            header = (b"sec-websocket-protocol", ", ".join(offered).encode())
            socket = GraphQLSocket(house.app, header, (b"origin", ORIGIN.encode()), subprotocols=offered)
            if expected is None:
                assert (await socket.raw())["status"] == 401, "it is good once"
                continue
            assert await socket.accepted() == expected
            socket.init()
            assert (await socket.next())["type"] == "connection_ack"
            assert (await socket.ask("{ me { username } }"))["data"] == {"me": {"username": "ada"}}
            await client.post("/v1/logout")
            assert (await socket.closed())[0] == 4401


async def test_a_token_of_the_other_scheme_is_refused(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.register("ada")
        for origin, scheme, expected in (
            (ORIGIN, "ws", None),
            (PLAIN_ORIGIN, "wss", None),
            (ORIGIN, "wss", "ada"),
            (PLAIN_ORIGIN, "ws", "ada"),
        ):
            token = (await log_in_for_tokens(house.client(origin), "ada"))["access_token"]
            socket = GraphQLSocket(house.app, scheme=scheme)
            await socket.accepted()
            socket.init({"authorization": f"Bearer {token}"})
            if expected is None:
                assert (await socket.closed())[0] == 4403
            else:
                assert (await socket.next())["type"] == "connection_ack"
                assert (await socket.ask("{ me { username } }"))["data"]["me"] == {"username": expected}
                await socket.leave()


async def test_a_cookie_of_the_other_scheme_is_nobodys(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada", PLAIN_ORIGIN)
        socket = GraphQLSocket(house.app, (b"cookie", f"{COOKIE}={client.cookies[PLAIN_COOKIE]}".encode()))
        await socket.accepted()
        socket.init()
        assert await socket.closed() == (4403, "Forbidden")


async def test_one_that_is_nobodys_is_closed(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        visitor = await house.sessions.load(None)
        visitor["cart"] = ["coat"]
        await visitor.save()
        assert visitor.cookie_change is not None
        for headers in ([], [(b"cookie", f"{COOKIE}={visitor.cookie_change.token}".encode())]):
            socket = GraphQLSocket(house.app, *headers)
            await socket.accepted()
            socket.init()
            assert await socket.closed() == (4403, "Forbidden")
        assert len(house.sessions.connections) == 0


async def test_a_page_of_another_site_cannot_open_one(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await enter(house)
        socket = GraphQLSocket(house.app, cookie(client), (b"origin", b"https://evil.example"))
        assert (await socket.raw())["status"] == 403


async def test_each_operation_looks_again_whether_the_session_lives(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await enter(house)
        socket = await GraphQLSocket(house.app, cookie(client)).opened()
        # Ended where this node's feed has heard nothing of it, as when it was cut without a word.
        house.store.feed_cut = True
        await house.store.inner.end([await session_id(client)], reason="elsewhere", now=house.clock.time())
        house.clock.advance(3)
        (error,) = (await socket.ask("{ me { username } }"))["errors"]
        assert (error["extensions"]["status"], error["message"]) == (401, "Your session has ended.")
        house.store.down = True
        (error,) = (await socket.ask("{ me { username } }"))["errors"]
        assert error["extensions"]["status"] == 503
        house.store.down = house.store.feed_cut = False
        await socket.leave()


async def test_mutations_are_refused_in_so_many_words(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await enter(house)
        socket = await GraphQLSocket(house.app, cookie(client)).opened()
        for mutation in (
            "logout",
            "endOtherSessions",
            f'login(username: "ada", password: "{PASSWORD}") {{ user {{ id }} }}',
            f'login(username: "ada", password: "{PASSWORD}", mode: TOKEN) {{ user {{ id }} }}',
            f'register(username: "bob", password: "{PASSWORD}") {{ id }}',
        ):
            (error,) = (await socket.ask(f"mutation {{ {mutation} }}"))["errors"]
            assert error["message"] == "Over a WebSocket no cookie can be set: send mutations by HTTP POST."
            assert error["extensions"] == {"code": "BAD_REQUEST", "status": 400}
        assert (await socket.ask("{ me { username } }"))["data"] == {"me": {"username": "ada"}}
        await socket.leave()


async def test_a_worker_that_leaves_closes_it_with_1012(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await enter(house)
        socket = await GraphQLSocket(house.app, cookie(client)).opened()
        socket.subscribe(EVENTS)
        await told(socket, "BEGIN")
        house.worker.leave()
        while (message := await socket.raw())["type"] == "websocket.send":
            pass
        assert message["code"] == 1012
        await asyncio.wait_for(socket.task, 5)
        assert (await client.get("/v1/me")).status_code == 200


# ---- the protocol


async def test_errors_are_those_of_http_and_end_the_operation_alone(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await enter(house)
        await house.activity.flush()
        socket = await GraphQLSocket(house.app, cookie(client)).opened()
        socket.subscribe(EVENTS, id="events")
        await told(socket, "BEGIN")
        for query, status in (
            ("{", 400),
            ("{ nothing }", 400),
            ("{ " + "a: __typename " * 16 + "}", 400),
            ("{ " + "a " * 600 + "}", 400),
            ("subscription { a: sessionEvents { id } b: sessionEvents { id } }", 400),
            ('{ user(id: "x") { id } }', 404),
        ):
            error = (await socket.ask(query))["errors"][0]
            assert error["extensions"]["status"] == status, error
        operation = {"query": "query A { __typename }", "operationName": "B" * 5000}
        socket.send({"type": "subscribe", "id": "1", "payload": operation})
        assert (await socket.next())["type"] == "error"
        await house.log_in("ada")
        assert (await told(socket, "CREATED"))["current"] is False
        await socket.leave()


MALFORMED: list[Any] = [
    [],
    7,
    "text",
    None,
    True,
    {},
    {"type": 7},
    {"type": ["subscribe"]},
    {"type": "unknown"},
    {"type": "subscribe"},
    {"type": "subscribe", "id": "1"},
    {"type": "subscribe", "id": ["1"], "payload": {"query": "{ __typename }"}},
    {"type": "subscribe", "id": 1, "payload": {"query": "{ __typename }"}},
    {"type": "subscribe", "id": "1", "payload": []},
    {"type": "subscribe", "id": "1", "payload": {"query": 7}},
    {"type": "subscribe", "id": "1", "payload": {"query": None}},
    {"type": "subscribe", "id": "1", "payload": {"query": "{ __typename }", "variables": []}},
    {"type": "subscribe", "id": "1", "payload": {"query": "{ __typename }", "operationName": 7}},
    {"type": "complete"},
    {"type": "complete", "id": {}},
]


async def test_what_is_no_message_closes_it_with_4400(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames: list[dict[str, Any]] = [{"text": json.dumps(message)} for message in MALFORMED]
    frames += [
        {"text": "{"},
        {"text": ""},
        {"text": "[" * 60_000},
        {"text": "NaN"},
        {"bytes": b"\x00"},
        {"bytes": b"{}"},
    ]
    async with House(tmp_path) as house:
        for frame in frames:
            socket = await opened(house)
            socket.incoming.put_nowait({"type": "websocket.receive", **frame})
            assert (await socket.closed())[0] == 4400, frame
        assert "Traceback" not in caplog.text


async def test_the_codes_of_the_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with House(tmp_path) as house:
        early = GraphQLSocket(house.app)
        await early.accepted()
        early.subscribe("{ __typename }")
        assert await early.closed() == (4401, "Unauthorized")
        twice = await opened(house)
        twice.init()
        assert (await twice.closed())[0] == 4429
        client = await enter(house)
        same = await GraphQLSocket(house.app, cookie(client)).opened()
        same.subscribe(EVENTS)
        await told(same, "BEGIN")
        same.subscribe(EVENTS)
        assert (await same.closed())[0] == 4409
        payload = GraphQLSocket(house.app)
        await payload.accepted()
        payload.init([])
        assert (await payload.closed())[0] == 4400
        assert house.activity.followers == len(house.sessions.connections) == 0


async def test_no_other_protocol_is_spoken(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        for subprotocols in ([], ["graphql-ws"], ["chat", "graphql-ws"]):
            socket = GraphQLSocket(house.app, subprotocols=subprotocols)
            assert await socket.accepted() is None
            assert (await socket.closed())[0] == 4406


async def test_a_payload_of_null_is_none(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        socket = GraphQLSocket(house.app, cookie(await enter(house)))
        await socket.accepted()
        for kind, answer in (("connection_init", "connection_ack"), ("ping", "pong")):
            socket.send({"type": kind, "payload": None})
            assert (await socket.next())["type"] == answer
        await socket.leave()


async def test_the_protocol_is_picked_from_what_is_offered(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        socket = GraphQLSocket(house.app, subprotocols=["chat", "graphql-ws", "graphql-transport-ws"])
        assert await socket.accepted() == "graphql-transport-ws"
        await socket.leave()


async def test_a_ping_is_answered_and_a_client_that_never_says_connection_init_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websockets, "INIT_TIMEOUT", 0.05)
    async with House(tmp_path) as house:
        silent = GraphQLSocket(house.app)
        await silent.accepted()
        silent.send({"type": "ping"})
        assert await silent.next() == {"type": "pong"}
        assert (await silent.closed())[0] == 4408


# ---- bounds


async def test_so_many_operations_at_once_and_no_more(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await enter(house)
        socket = await GraphQLSocket(house.app, cookie(client)).opened()
        most = websockets.MOST_OPERATIONS
        for number in range(most):
            socket.subscribe(EVENTS, id=str(number))
            await told(socket, "BEGIN")
        socket.subscribe(EVENTS, id="surplus")
        refused = await socket.next()
        assert (refused["type"], refused["id"]) == ("error", "surplus")
        assert house.activity.followers == most
        socket.send({"type": "complete", "id": "0"})
        while house.activity.followers == most:
            await asyncio.sleep(0.001)
        socket.subscribe(EVENTS, id="surplus")
        await told(socket, "BEGIN")
        await socket.leave()
        assert house.activity.followers == len(house.sessions.connections) == 0


@pytest.mark.parametrize("query", ["{ __typename }", "{ nothing }", EVENTS])
async def test_a_client_that_asks_without_reading_makes_no_heap_of_answers(tmp_path: Path, query: str) -> None:
    async with House(tmp_path) as house:
        client = await enter(house)
        socket = await GraphQLSocket(house.app, cookie(client)).opened()
        before = len(asyncio.all_tasks())
        socket.reading.clear()
        for number in range(150):
            socket.subscribe(query, id=str(number))
        left, waiting = -1, 0
        while left != socket.incoming.qsize():
            left = socket.incoming.qsize()
            for _ in range(20):
                await asyncio.sleep(0.001)
                waiting = max(waiting, len(asyncio.all_tasks()) - before)
        assert 0 < waiting <= 2 * websockets.MOST_OPERATIONS + 5
        assert left > 80, "what it sends is not read any more"
        socket.reading.set()
        await socket.leave()
        assert house.activity.followers == 0


async def test_a_client_that_sends_too_fast_is_read_more_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websockets, "BURST", 20.0)
    monkeypatch.setattr(websockets, "PACE", 20.0)
    loop = asyncio.get_running_loop()
    async with House(tmp_path) as house:
        socket = await opened(house)
        begun = loop.time()
        for _ in range(500):
            socket.send({"type": "ping"})
        for _ in range(22):
            assert await socket.next() == {"type": "pong"}
        await asyncio.sleep(0.1)
        assert 22 + socket.outgoing.qsize() <= 20 + 20 * (loop.time() - begun)
        socket.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await socket.task


async def test_clients_that_vanish_leave_nothing_behind(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await enter(house)
        sockets = [await GraphQLSocket(house.app, cookie(client)).opened() for _ in range(5)]
        for socket in sockets:
            socket.subscribe(EVENTS)
            await told(socket, "BEGIN")
        sockets[0].reading.clear()
        for socket in sockets[1:]:
            await socket.leave(1006)
        sockets[0].task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sockets[0].task
        assert house.activity.followers == len(house.sessions.connections) == 0
