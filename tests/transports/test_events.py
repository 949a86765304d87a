"""`/v1/events` through the edge and three workers: the same is told in the same order on each, and nothing is lost between them."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from coatcheck.tokens.sse import EventParser
from tests.clients.serving import RunningServer, start_server

PASSWORD = "a coat, a hat, an umbrella"
WITHIN = 10.0


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with three workers."""
    running = start_server(tmp_path_factory.mktemp("three"), "--workers", "3")
    yield running
    assert running.stop() == 0, running.said()


@asynccontextmanager
async def somebody(server: RunningServer, username: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client that is logged in; the account is made if there is none."""
    async with httpx.AsyncClient(verify=server.tls(), base_url=server.https, timeout=30) as client:
        form = {"username": username, "password": PASSWORD}
        assert (await client.post("/v1/users", json=form)).status_code in (201, 409)
        assert (await client.post("/v1/login", json=form)).status_code == 200
        yield client


class Stream:
    """One reader by server-sent events."""

    def __init__(self, answer: httpx.Response) -> None:
        self.worker = int(answer.headers["x-coatcheck-worker"])
        self.parser = EventParser()
        self._pieces = answer.aiter_raw()
        self._events: list[tuple[str, dict[str, Any], str]] = []

    async def next(self) -> tuple[str, dict[str, Any], str]:
        async with asyncio.timeout(WITHIN):
            while not self._events:
                for event, data, place in self.parser.feed(await anext(self._pieces)):
                    self._events.append((event, json.loads(data), place))
        return self._events.pop(0)

    async def until(self, mark: str) -> list[tuple[str, str, str]]:
        """What is told of sessions (kind, session, place) up to the naming of one as `mark`."""
        found: list[tuple[str, str, str]] = []
        while True:
            kind, data, place = await self.next()
            if kind not in ("begin", "opened", "closed"):
                found.append((kind, data["session"], place))
            if kind == "renamed" and data["detail"].get("name") == mark:
                return found


@asynccontextmanager
async def stream(server: RunningServer, client: httpx.AsyncClient, last: str | None = None) -> AsyncIterator[Stream]:
    """Read with this client's cookie, on a connection of one's own."""
    headers = {} if last is None else {"last-event-id": last}
    async with httpx.AsyncClient(verify=server.tls(), timeout=WITHIN, cookies=client.cookies) as reader:
        async with reader.stream("GET", f"{server.https}/v1/events", headers=headers) as answer:
            assert answer.status_code == 200
            yield Stream(answer)


async def streams_on_all(
    server: RunningServer, client: httpx.AsyncClient, exits: AsyncExitStack, workers: int = 3
) -> list[Stream]:
    """Readers, of whom each worker has at least one."""
    found: list[Stream] = []
    while len({each.worker for each in found}) < workers:
        found.append(await exits.enter_async_context(stream(server, client)))
        assert (await found[-1].next())[0] == "begin"
        assert len(found) < 60
    return found


@asynccontextmanager
async def socket(
    server: RunningServer, client: httpx.AsyncClient, after: str | None = None
) -> AsyncIterator[ClientConnection]:
    headers = {"cookie": f"__Host-session={client.cookies['__Host-session']}"}
    url = f"wss://localhost:{server.https_port}/v1/events"
    async with connect(
        url,
        ssl=server.tls(),
        host="127.0.0.1",
        origin=server.https,
        additional_headers=headers,
    ) as connection:
        await connection.send(json.dumps({"id": 1, "type": "subscribe", "topics": ["sessions"], "after": after}))
        assert (await receive(connection))["id"] == 1
        yield connection


async def receive(connection: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(WITHIN):
        return dict(json.loads(await connection.recv()))


async def events_until(connection: ClientConnection, mark: str) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    while True:
        message = await receive(connection)
        if message["type"] == "event":
            found.append((message["event"], message["session"], message["place"]))
            if message["event"] == "renamed" and message["detail"].get("name") == mark:
                return found


async def closed(connection: ClientConnection) -> tuple[int, str]:
    """How the server closes it, whatever it tells before."""
    try:
        while True:
            await receive(connection)
    except ConnectionClosed as error:
        assert error.rcvd is not None
        return error.rcvd.code, error.rcvd.reason


async def insist(client: httpx.AsyncClient, name: str) -> None:
    """`rename` while a worker dies: what was on its way to it may be lost, and only GET is tried again by the edge."""
    for _ in range(20):
        answers = [await client.get("/v1/sessions")]
        if answers[0].status_code == 200:
            (mine,) = [each for each in answers[0].json()["sessions"] if each["current"]]
            answers.append(await client.patch(f"/v1/sessions/{mine['id']}", json={"name": name}))
            if answers[1].status_code == 200:
                return
        assert answers[-1].status_code in (502, 503), answers[-1]
        await asyncio.sleep(0.1)
    raise AssertionError("no worker came back")


async def rename(client: httpx.AsyncClient, name: str) -> str:
    """Name the client's own session, and give its id."""
    (mine,) = [each for each in (await client.get("/v1/sessions")).json()["sessions"] if each["current"]]
    assert (await client.patch(f"/v1/sessions/{mine['id']}", json={"name": name})).status_code == 200
    return str(mine["id"])


async def test_every_worker_tells_the_same_in_the_same_order_by_both_transports(three: RunningServer) -> None:
    async with somebody(three, "ada") as client, AsyncExitStack() as exits:
        readers = await streams_on_all(three, client, exits)
        sockets = [await exits.enter_async_context(socket(three, client)) for _ in range(4)]
        await rename(client, "begin")
        for told in (*(each.until("begin") for each in readers), *(events_until(each, "begin") for each in sockets)):
            await told
        others = [await exits.enter_async_context(somebody(three, "ada")) for _ in range(5)]
        sessions = [await rename(other, f"number {number}") for number, other in enumerate(others)]
        assert (await client.delete("/v1/sessions")).json() == {"ended": 5}
        await rename(client, "end")
        told = [await each.until("end") for each in readers] + [await events_until(each, "end") for each in sockets]
        assert all(each == told[0] for each in told)
        for session in sessions:
            assert [kind for kind, whose, _ in told[0] if whose == session] == ["created", "renamed", "ended"]
        # And the end of this very session ends them all.
        assert (await client.post("/v1/logout")).status_code == 204
        for reader in readers:
            while (last := await reader.next())[0] != "session-ended":
                pass
            assert last[1] == {"reason": "logout"}
        for connection in sockets:
            assert await closed(connection) == (4401, "session ended: logout")


async def test_a_worker_that_is_killed_costs_its_readers_nothing(three: RunningServer) -> None:
    async with somebody(three, "bob") as client, somebody(three, "bob") as other, AsyncExitStack() as exits:
        readers = await streams_on_all(three, client, exits)
        await rename(other, "before")
        places = [(await each.until("before"))[-1][2] for each in readers]
        assert len(set(places)) == 1
        pids = three.workers()
        victim = pids[0]
        os.kill(victim, signal.SIGKILL)
        await insist(other, "meanwhile")
        cut = 0
        for reader in readers:
            try:
                told = await reader.until("meanwhile")
                assert [kind for kind, _, _ in told] == ["renamed"]
            except (httpx.RemoteProtocolError, httpx.ReadError, StopAsyncIteration):
                cut += 1
                async with stream(three, client, places[0]) as resumed:
                    assert await resumed.next() == ("begin", {}, places[0])
                    assert [kind for kind, _, _ in await resumed.until("meanwhile")] == ["renamed"]
        assert 0 < cut < len(readers)


async def test_a_place_is_good_on_every_worker_and_for_this_user_only(three: RunningServer) -> None:
    async with somebody(three, "cy") as client, somebody(three, "dee") as stranger:
        async with stream(three, client) as reader:
            _, _, place = await reader.next()
        await rename(client, "missed")
        seen: set[int] = set()
        while len(seen) < 2:
            async with stream(three, client, place) as reader:
                assert (await reader.next())[0] == "begin"
                await reader.until("missed")
                seen.add(reader.worker)
        async with stream(three, stranger, place) as reader:
            assert (await reader.next())[0] == "reset"
        async with socket(three, stranger, place) as connection:
            assert (await receive(connection))["type"] == "reset"


async def test_nobody_without_a_login_and_no_page_of_another_site_gets_a_socket(three: RunningServer) -> None:
    url = f"wss://localhost:{three.https_port}/v1/events"
    async with somebody(three, "eve") as client:
        cookie = {"cookie": f"__Host-session={client.cookies['__Host-session']}"}
        for headers, origin, status in (({}, three.https, 401), (cookie, "https://evil.example", 403)):
            with pytest.raises(InvalidStatus) as refused:
                async with connect(
                    url,
                    ssl=three.tls(),
                    host="127.0.0.1",
                    origin=origin,
                    additional_headers=headers,
                ):
                    pass
            assert refused.value.response.status_code == status
        assert (await client.head("/v1/events", timeout=WITHIN)).headers["content-type"] == "text/event-stream"
