"""One login, every transport in one application; one logout, and each of them ends in its own words."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.clients.examples import EXAMPLES, served
from tests.clients.serving import free_port

SUBSCRIPTION = {"query": "subscription { clock }"}


class Site:
    def __init__(self, url: str, grpc_port: int) -> None:
        self.url = url
        self.grpc = f"localhost:{grpc_port}"
        self.cookie = ""

    def headers(self, **more: str) -> dict[str, str]:
        return {"cookie": self.cookie, **more} if self.cookie else more

    def log_in(self) -> None:
        self.cookie = httpx.post(f"{self.url}/login").headers["set-cookie"].partition(";")[0]

    def log_out(self) -> None:
        assert httpx.post(f"{self.url}/logout", headers=self.headers()).status_code == 200

    def profile(self) -> httpx.Response:
        return httpx.get(f"{self.url}/profile", headers=self.headers())

    def query(self) -> dict[str, Any]:
        answer = httpx.post(f"{self.url}/graphql", json={"query": "{ profile }"}, headers=self.headers())
        return answer.json()

    def socket(self, path: str, *protocols: str) -> connect:
        return connect(
            self.url.replace("http", "ws") + path,
            additional_headers=self.headers(),
            subprotocols=[Subprotocol(each) for each in protocols] or None,
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    port = free_port()
    with served("all_transports", tmp_path_factory.mktemp("all"), GRPC_PORT=str(port)) as url:
        yield Site(url, port)


async def events(stream: httpx.Response, first: asyncio.Event) -> list[str]:
    """Everything that comes, to the end, which must be a proper one. `first` is set once anything has come."""
    lines: list[str] = []
    async for line in stream.aiter_lines():
        lines.append(line)
        first.set()
    return lines


async def closing(socket: ClientConnection) -> tuple[int, str]:
    """How a WebSocket is closed."""
    try:
        while True:
            await socket.recv()
    except ConnectionClosed as closed:
        assert closed.rcvd is not None
        return closed.rcvd.code, closed.rcvd.reason


async def ending(call: Any) -> grpc.StatusCode:
    """How a stream of gRPC ends."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return await call.code()


async def test_one_login_opens_everything_and_one_logout_ends_it(site: Site) -> None:
    site.log_in()
    assert site.profile().json() == "user123"
    assert site.query() == {"data": {"profile": "user123"}}
    metadata = (("cookie", site.cookie),)
    async with (
        asyncio.timeout(30),
        httpx.AsyncClient(base_url=site.url, headers=site.headers(), timeout=20) as client,
        grpc.aio.insecure_channel(site.grpc, options=(("grpc.enable_http_proxy", 0),)) as channel,
        site.socket("/echo") as echo,
        site.socket("/graphql", "graphql-transport-ws") as subscription,
        client.stream("GET", "/clock") as clock,
        client.stream(
            "POST", "/graphql", json=SUBSCRIPTION, headers={"accept": "text/event-stream"}
        ) as subscription_by_sse,
    ):
        profile = channel.unary_unary("/example.Clock/Profile")
        assert await profile(b"", metadata=metadata) == b"user123"
        stream = channel.unary_stream("/example.Clock/Clock")(b"", metadata=metadata)
        assert (await stream.read()).startswith(b"user123, it is ")
        await echo.send("hello")
        assert await echo.recv() == "user123: hello"
        await subscription.send(json.dumps({"type": "connection_init"}))
        assert json.loads(await subscription.recv())["type"] == "connection_ack"
        await subscription.send(json.dumps({"type": "subscribe", "id": "1", "payload": SUBSCRIPTION}))
        assert json.loads(await subscription.recv())["type"] == "next"

        first = [asyncio.Event(), asyncio.Event()]
        endings = [
            asyncio.ensure_future(each)
            for each in (
                closing(echo), closing(subscription), ending(stream),
                events(clock, first[0]), events(subscription_by_sse, first[1]),
            )
        ]  # fmt: skip
        for each in first:
            await each.wait()
        await asyncio.to_thread(site.log_out)
        closed, closed_subscription, status, ticks, results = await asyncio.gather(*endings)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await profile(b"", metadata=metadata)

    assert closed == closed_subscription == (4401, "session ended: logout")
    assert status == refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    for lines in (ticks, results):
        last = lines.index("event: session-ended")
        assert json.loads(lines[last + 1].removeprefix("data: ")) == {"reason": "logout"}
    assert site.profile().status_code == 401
    assert site.query()["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"


async def test_strangers_get_in_nowhere(site: Site) -> None:
    site.cookie = ""
    assert site.profile().status_code == 401
    assert site.query()["data"] == {"profile": None}
    with pytest.raises(InvalidStatus) as refused:
        async with site.socket("/echo"):
            pass
    assert refused.value.response.status_code == 401
    async with grpc.aio.insecure_channel(site.grpc, options=(("grpc.enable_http_proxy", 0),)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as unauthenticated:
            await channel.unary_unary("/example.Clock/Profile")(b"")
    assert unauthenticated.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_it_has_less_than_150_lines() -> None:
    assert len((EXAMPLES / "all_transports.py").read_text().splitlines()) < 150
