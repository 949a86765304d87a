"""GraphQL through the edge: over every HTTP version and both workers, and what is open ends with its session."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.clients.h3 import connect_h3
from tests.clients.serving import ROOT, RunningServer

PASSWORD = "a long enough pass phrase"
LOGIN = """mutation ($username: String!, $password: String!, $mode: LoginMode! = COOKIE) {
  login(username: $username, password: $password, mode: $mode) { user { username } tokens { accessToken } }
}"""
EVENTS = "subscription { sessionEvents { kind current reason } }"
WORKER = "{ connection { worker protocol } me { username } }"


@contextlib.asynccontextmanager
async def client_of(server: RunningServer, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A browser or program whose user is registered, and logged in by GraphQL."""
    name = f"user-{uuid.uuid4().hex[:12]}"
    async with httpx.AsyncClient(base_url=server.https, verify=server.tls(), timeout=20, **options) as client:
        register = "mutation ($u: String!, $p: String!) { register(username: $u, password: $p) { username } }"
        assert await ask(client, register, u=name, p=PASSWORD) == {"register": {"username": name}}
        assert (await ask(client, LOGIN, username=name, password=PASSWORD))["login"]["user"] == {"username": name}
        yield client


async def ask(client: httpx.AsyncClient, query: str, **variables: Any) -> Any:
    answer = await client.post("/graphql", json={"query": query, "variables": variables})
    assert answer.status_code == 200, answer.text
    assert "errors" not in answer.json(), answer.text
    return answer.json()["data"]


def cookie(client: httpx.AsyncClient) -> str:
    return f"__Host-session={client.cookies['__Host-session']}"


class Socket:
    """A client of graphql-transport-ws."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def say(self, kind: str, **more: Any) -> None:
        await self.connection.send(json.dumps({"type": kind, **more}))

    async def hear(self) -> Any:
        async with asyncio.timeout(10):
            return json.loads(await self.connection.recv())

    async def ask(self, query: str) -> Any:
        await self.say("subscribe", id="q", payload={"query": query})
        answer = await self.hear()
        assert (await self.hear())["type"] == "complete"
        return answer["payload"]["data"]

    async def subscribe(self) -> None:
        await self.say("subscribe", id="events", payload={"query": EVENTS})
        assert (await self.hear())["payload"]["data"]["sessionEvents"]["kind"] == "BEGIN"

    async def closed(self) -> tuple[int, str]:
        """Read on until it is closed; code and reason."""
        while True:
            try:
                await self.hear()
            except ConnectionClosed as closed:
                assert closed.rcvd is not None
                return closed.rcvd.code, closed.rcvd.reason


@contextlib.asynccontextmanager
async def socket_of(server: RunningServer, payload: Any = None, **headers: str) -> AsyncIterator[Socket]:
    url = f"wss://localhost:{server.https_port}/graphql"
    opening = connect(
        url,
        ssl=server.tls(),
        host="127.0.0.1",
        additional_headers=headers,
        subprotocols=["graphql-transport-ws"],  # type: ignore[list-item]
    )
    async with opening as connection:
        assert connection.subprotocol == "graphql-transport-ws"
        socket = Socket(connection)
        await socket.say("connection_init", **({} if payload is None else {"payload": payload}))
        assert (await socket.hear())["type"] == "connection_ack"
        yield socket


async def socket_elsewhere(
    stack: contextlib.AsyncExitStack, server: RunningServer, worker: int, payload: Any = None, **headers: str
) -> Socket:
    """A WebSocket that another worker serves than this one."""
    for _ in range(40):
        socket = await stack.enter_async_context(socket_of(server, payload, **headers))
        if (await socket.ask(WORKER))["connection"]["worker"] != worker:
            return socket
    raise AssertionError(f"every WebSocket came to worker {worker}")


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
async def test_a_login_by_graphql_is_known_to_both_workers_and_to_rest(server: RunningServer, version: str) -> None:
    async with client_of(server, http1=version == "HTTP/1.1", http2=version == "HTTP/2") as client:
        me = (await client.get("/v1/me")).json()
        seen: set[int] = set()
        for _ in range(200):
            answer = await ask(client, WORKER)
            assert answer["me"]["username"] == me["username"]
            assert answer["connection"]["protocol"] == version
            seen.add(answer["connection"]["worker"])
            if seen == {0, 1}:
                break
        assert seen == {0, 1}
        assert await ask(client, "mutation { logout }") == {"logout": True}
        assert (await client.get("/v1/me")).status_code == 401


async def test_over_http_3(server: RunningServer) -> None:
    async with client_of(server) as client, connect_h3(server.https_port, server.ca) as h3:
        body = json.dumps({"query": WORKER}).encode()
        headers = [("content-type", "application/json"), ("cookie", cookie(client))]
        answer = await h3.request("POST", "/graphql", headers, body)
        assert answer.json()["data"]["connection"]["protocol"] == "HTTP/3"
        assert answer.json()["data"]["me"] == (await ask(client, "{ me { username } }"))["me"]


async def test_a_subscription_ends_with_4401_when_another_worker_ends_its_session(server: RunningServer) -> None:
    async with client_of(server) as client, contextlib.AsyncExitStack() as stack:
        worker = (await ask(client, WORKER))["connection"]["worker"]
        by_cookie = await socket_elsewhere(stack, server, worker, Cookie=cookie(client))
        await by_cookie.subscribe()
        # One connection of HTTP/1.1: its requests may go to either worker.
        while (answer := await client.post("/graphql", json={"query": WORKER})).headers["x-coatcheck-worker"] != str(
            worker
        ):
            pass
        assert answer.json()["data"]["me"] is not None
        logout = await client.post("/graphql", json={"query": "mutation { logout }"})
        assert logout.json() == {"data": {"logout": True}}
        assert await by_cookie.closed() == (4401, "session ended: logout")


async def test_one_that_a_bearer_in_connection_init_has_opened_ends_with_the_bearers_session(
    server: RunningServer,
) -> None:
    async with client_of(server) as client, contextlib.AsyncExitStack() as stack:
        name = (await ask(client, "{ me { username } }"))["me"]["username"]
        login = (await ask(client, LOGIN, username=name, password=PASSWORD, mode="TOKEN"))["login"]
        bearer = {"authorization": f"Bearer {login['tokens']['accessToken']}"}
        async with httpx.AsyncClient(base_url=server.https, verify=server.tls(), headers=bearer) as program:
            worker = (await ask(program, WORKER))["connection"]["worker"]
            socket = await socket_elsewhere(stack, server, worker, bearer)
            await socket.subscribe()
            assert await ask(program, "mutation { logout }") == {"logout": True}
            assert await socket.closed() == (4401, "session ended: logout")
        assert (await ask(client, "{ me { username } }"))["me"] == {"username": name}, "the other session lives on"


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
async def test_a_stream_of_events_gets_its_last_event(server: RunningServer, version: str) -> None:
    async with client_of(server, http1=version == "HTTP/1.1", http2=version == "HTTP/2") as client:
        asked = {"query": EVENTS}
        async with client.stream("POST", "/graphql", json=asked, headers={"accept": "text/event-stream"}) as stream:
            assert stream.http_version == version
            lines = stream.aiter_lines()
            assert await anext(lines) == "event: next"
            assert json.loads((await anext(lines)).removeprefix("data: "))["data"]["sessionEvents"]["kind"] == "BEGIN"
            assert await ask(client, "mutation { logout }") == {"logout": True}
            said = [line async for line in lines if line]
            assert said[-2:] == ["event: session-ended", 'data: {"reason": "logout"}']


async def test_a_stream_over_http_3_gets_its_last_event(server: RunningServer) -> None:
    async with client_of(server) as client, connect_h3(server.https_port, server.ca) as h3:
        headers = [("content-type", "application/json"), ("accept", "text/event-stream"), ("cookie", cookie(client))]
        stream = h3.begin("POST", "/graphql", headers, json.dumps({"query": EVENTS}).encode())
        assert (await stream.started()).status == 200
        said = await stream.read() or b""
        assert b'"BEGIN"' in said
        assert await ask(client, "mutation { logout }") == {"logout": True}
        while (piece := await stream.read()) is not None:
            said += piece
        assert said.endswith(b'event: session-ended\ndata: {"reason": "logout"}\n\n')


def test_the_references_lines_for_curl_do_what_they_say(server: RunningServer, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "reference" / "graphql.md").read_text()
    lines = page.split("```")[1].replace("https://localhost:8443", server.https)
    environment = {**os.environ, "CURL_CA_BUNDLE": str(server.ca)}
    script = f"curl() {{ command curl -sS -w '\\n' \"$@\"; }}\n{lines.replace('ada', f'ada-{uuid.uuid4().hex[:8]}')}"
    run = subprocess.run(
        ["sh", "-euc", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=30
    )
    assert run.returncode == 0, run.stderr
    registered, logged_in, asked = (json.loads(line)["data"] for line in run.stdout.splitlines())
    assert set(registered["register"]) == {"id"}
    name = logged_in["login"]["user"]["name"]
    assert asked == {"me": {"name": name}, "sessions": [{"current": True}]}


def test_a_worker_starts_without_what_graphql_is_made_of() -> None:
    code = "import sys, coatcheck.server.app; print('strawberry' in sys.modules, 'graphql' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False False\n"
