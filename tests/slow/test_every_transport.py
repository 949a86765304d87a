"""One login, every transport, three workers: all of them know it, and when it ends each ends with its own word for it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

from coatcheck.server.rpc._generated import sessions_pb2
from tests.clients.h3 import connect_h3
from tests.clients.opened import OPENERS, SERVICE, WORKER, Opened, grpc_channel
from tests.clients.serving import RunningServer, start_server

TIMEOUT = 120
WORKERS = 3
PASSWORD = "a long enough pass phrase"
# How often each kind is opened, so that whichever worker handles the end, others serve some of it.
COPIES = 2

WORDS = {
    "WebSocket over HTTP/1.1": "close 4401: session ended: {reason}",
    "WebSocket over HTTP/2": "close 4401: session ended: {reason}",
    "WebSocket over HTTP/3": "close 4401: session ended: {reason}",
    "SSE over HTTP/1.1": "event: session-ended ({reason}",
    "SSE over HTTP/2": "event: session-ended ({reason}",
    "SSE over HTTP/3": "event: session-ended ({reason}",
    "GraphQL subscription, WebSocket": "close 4401: session ended: {reason}",
    "GraphQL subscription, SSE": "event: session-ended ({reason}",
    "gRPC server stream": "UNAUTHENTICATED: session ended: {reason}",
    "gRPC bidirectional stream": "UNAUTHENTICATED: session ended: {reason}",
    "gRPC-Web server stream": "grpc-status 16: session ended: {reason}",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = start_server(tmp_path_factory.mktemp("transports"), "--workers", str(WORKERS))
    yield running
    assert running.stop() == 0, running.said()


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Sessions live for some seconds."""
    env = {"COATCHECK_SESSION_LIFETIME": str(LIFETIME)}
    running = start_server(tmp_path_factory.mktemp("short"), "--workers", str(WORKERS), env=env)
    yield running
    assert running.stop() == 0, running.said()


@pytest.fixture(scope="module")
def cuttable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A file in its data directory silences the change feed of every worker."""
    app = "tests.transports.cut_feed_app:create_app"
    running = start_server(tmp_path_factory.mktemp("cuttable"), "--workers", str(WORKERS), app=app)
    yield running
    assert running.stop() == 0, running.said()


LIFETIME = 12.0


async def log_in(server: RunningServer, user: str, mode: str) -> dict[str, str]:
    """The headers of a new session, by cookie or by access token."""
    async with httpx.AsyncClient(base_url=server.https, verify=server.tls(), timeout=30) as client:
        form = {"username": user, "password": PASSWORD}
        assert (await client.post("/v1/users", json=form)).status_code in (201, 409)
        answer = await client.post("/v1/login", json={**form, "mode": mode})
        assert answer.status_code == 200, answer.text
        if mode == "token":
            return {"authorization": f"Bearer {answer.json()['access_token']}"}
        return {"cookie": f"__Host-session={client.cookies['__Host-session']}"}


async def recognised(server: RunningServer, headers: Mapping[str, str]) -> dict[str, bool]:
    """By each way of asking once: whether the credential is somebody's."""
    found: dict[str, bool] = {}
    for version in (1, 2):
        options: Any = {"http1": version == 1, "http2": version == 2}
        async with httpx.AsyncClient(
            base_url=server.https, verify=server.tls(), timeout=30, headers=headers, **options
        ) as client:
            answer = await client.get("/v1/me")
            found[f"REST over {answer.http_version}"] = answer.status_code == 200
            answer = await client.post("/graphql", json={"query": "{ me { username } }"})
            found[f"GraphQL over {answer.http_version}"] = bool((answer.json().get("data") or {}).get("me"))
    async with connect_h3(server.https_port, server.ca) as client:
        response = await client.request("GET", "/v1/me", list(headers.items()))
        found["REST over HTTP/3"] = response.status == 200
        asked = [*headers.items(), ("content-type", "application/json")]
        response = await client.request("POST", "/graphql", asked, b'{"query": "{ me { username } }"}')
        found["GraphQL over HTTP/3"] = bool((response.json().get("data") or {}).get("me"))
    async with grpc_channel(server) as channel:
        method = channel.unary_unary(
            SERVICE + "List", lambda message: message.SerializeToString(), sessions_pb2.ListResponse.FromString
        )
        try:
            listed = await method(sessions_pb2.ListRequest(), metadata=tuple(headers.items()))
            found["gRPC unary"] = len(listed.sessions) > 0
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            found["gRPC unary"] = False
    return found


@contextlib.asynccontextmanager
async def everything(server: RunningServer, headers: Mapping[str, str]) -> AsyncIterator[list[Opened]]:
    async with contextlib.AsyncExitStack() as stack:
        opened: list[Opened] = []
        for opener in OPENERS.values():
            for _ in range(COPIES):
                async with asyncio.timeout(20):
                    opened.append(await stack.enter_async_context(opener(server, headers)))
        assert {one.what for one in opened} == set(OPENERS)
        assert len({one.worker for one in opened}) > 1
        yield opened


async def check_words(opened: list[Opened], *, began: float, reason: str, within: float, title: str) -> None:
    """Each has ended with its own word, in time; prints how long each took."""
    async with asyncio.timeout(within + 10):
        await asyncio.wait([one.ending for one in opened])
    print(f"\n{title}")
    late: list[str] = []
    for one in opened:
        word, at = one.ending.result()
        took = at - began
        print(f"  {one.what:<34} worker {one.worker}  {took * 1000:8.1f} ms  {word}")
        assert word.startswith(WORDS[one.what].format(reason=reason)), (one.what, word)
        assert "SSE" not in one.what or word.endswith("properly ended"), (one.what, word)
        if took > within:
            late.append(f"{one.what}: {took:.3f} s")
    assert late == []


async def send_end(server: RunningServer, method: str, path: str, headers: Mapping[str, str]) -> tuple[float, str]:
    """Send what ends sessions; when that was, and the worker that answered."""
    async with httpx.AsyncClient(base_url=server.https, verify=server.tls(), timeout=30) as client:
        await client.get("/healthz")  # so that no handshake is counted
        began = time.perf_counter()
        answer = await client.request(method, path, headers=headers)
        assert answer.status_code in (200, 204), answer.text
        return began, answer.headers[WORKER]


@pytest.mark.parametrize("mode", ["cookie", "token"])
async def test_one_login_is_known_everywhere_and_one_logout_ends_it_everywhere(
    server: RunningServer, mode: str
) -> None:
    headers = await log_in(server, "ada", mode)
    assert all((known := await recognised(server, headers)).values()), known
    async with everything(server, headers) as opened:
        began, worker = await send_end(server, "POST", "/v1/logout", headers)
        assert any(one.worker != worker for one in opened), (
            "something is open on another worker than that of the logout"
        )
        await check_words(
            opened, began=began, reason="logout", within=1.0, title=f"logout by {mode} on worker {worker}"
        )
    assert not any((known := await recognised(server, headers)).values()), known


async def test_ending_all_other_sessions_ends_everything_that_they_have_open(server: RunningServer) -> None:
    headers, other = await log_in(server, "bob", "cookie"), await log_in(server, "bob", "cookie")
    async with everything(server, headers) as opened:
        began, worker = await send_end(server, "DELETE", "/v1/sessions", other)
        assert any(one.worker != worker for one in opened)
        title = f"end of the user's other sessions on worker {worker}"
        await check_words(opened, began=began, reason="", within=1.0, title=title)
    assert not any((await recognised(server, headers)).values())
    assert all((await recognised(server, other)).values())


async def test_expiry_ends_everything_within_a_second(short: RunningServer) -> None:
    # What each worker loads when it is first asked is no part of this.
    await recognised(short, await log_in(short, "carol", "cookie"))
    began = time.perf_counter()
    headers = await log_in(short, "carol", "cookie")
    logged_in = time.perf_counter()
    async with everything(short, headers) as opened:
        assert time.perf_counter() - began < LIFETIME, "the machine is too slow for this test"
        async with asyncio.timeout(LIFETIME + 10):
            await asyncio.wait([one.ending for one in opened])
        assert min(one.ending.result()[1] for one in opened) >= began + LIFETIME - 0.1
        await check_words(
            opened, began=logged_in + LIFETIME, reason="expired", within=1.0, title="expiry, from its moment on"
        )
    assert not any((await recognised(short, headers)).values())


async def test_while_the_feed_is_cut_everything_ends_within_the_staleness(cuttable: RunningServer) -> None:
    headers = await log_in(cuttable, "dave", "cookie")
    cut: Path = cuttable.data_dir / "cut"
    async with everything(cuttable, headers) as opened:
        cut.touch()
        try:
            began, worker = await send_end(cuttable, "POST", "/v1/logout", headers)
            assert any(one.worker != worker for one in opened)
            # P1's two seconds, and the moment until the store is asked.
            await check_words(
                opened, began=began, reason="", within=3.0, title=f"logout on worker {worker}, the feed cut"
            )
            assert not any((await recognised(cuttable, headers)).values())
        finally:
            cut.unlink()
