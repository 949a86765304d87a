"""What is open through the edge ends with its session on every worker; clients that vanish or do not read leave nothing behind."""

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.clients.serving import RunningServer, start_server

LIVE = "tests.transports.live_app:create_app"
WORKERS = 3


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("live")
    running = start_server(
        directory, "--workers", str(WORKERS), app=LIVE, env={"COATCHECK_LIMITS__REQUEST_TIMEOUT": "3"}
    )
    yield running
    assert running.stop() == 0, running.said()


@contextlib.asynccontextmanager
async def client_of(server: RunningServer, user: str, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A browser or program that is logged in."""
    async with httpx.AsyncClient(base_url=server.https, verify=server.tls(), timeout=20, **options) as client:
        answer = await client.get("/login", params={"user": user})
        assert answer.status_code == 200
        yield client


def cookie(client: httpx.AsyncClient) -> str:
    return "; ".join(f"{name}={value}" for name, value in client.cookies.items())


def open_websocket(server: RunningServer, client: httpx.AsyncClient, path: str = "/", **options: Any) -> Any:
    headers = {"cookie": cookie(client)}
    url = f"wss://localhost:{server.https_port}{path}"
    return connect(url, ssl=server.tls(), host="127.0.0.1", additional_headers=headers, **options)


async def open_on_all_workers(
    stack: contextlib.AsyncExitStack, server: RunningServer, client: httpx.AsyncClient
) -> Any:
    """WebSockets of one session until each worker has one, by worker."""
    found: dict[str, list[ClientConnection]] = {}
    for _ in range(60):
        one = await stack.enter_async_context(open_websocket(server, client))
        found.setdefault(str(await one.recv()), []).append(one)
        if len(found) == WORKERS:
            return found
    raise AssertionError(f"all WebSockets came to the workers {sorted(found)}")


async def live_connections(server: RunningServer) -> int:
    """Those of all workers, each of which is asked until it has answered."""
    counts: dict[int, int] = {}
    async with httpx.AsyncClient(base_url=server.https, verify=server.tls(), timeout=20) as client:
        # By time and not by number: to a worker that is slow to answer /healthz the edge sends nothing for a second or two.
        until = time.monotonic() + 10
        while time.monotonic() < until:
            answer = (await client.get("/live")).json()
            counts[answer["worker"]] = answer["live"]
            if len(counts) == WORKERS:
                return sum(counts.values())
    raise AssertionError("not every worker answered")


async def until_none_is_left(server: RunningServer, within: float = 15) -> None:
    async with asyncio.timeout(within):
        while await live_connections(server):
            await asyncio.sleep(0.05)


async def test_a_logout_on_one_worker_closes_websockets_on_all(live: RunningServer) -> None:
    async with client_of(live, "ada") as client, contextlib.AsyncExitStack() as stack:
        found = await open_on_all_workers(stack, live, client)
        answered = (await client.get("/logout")).json()["worker"]
        assert any(worker != str(answered) for worker in found)
        for one in (one for several in found.values() for one in several):
            with pytest.raises(ConnectionClosed) as closed:
                await asyncio.wait_for(one.recv(), 5)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "session ended: logout")
        await until_none_is_left(live)


@pytest.mark.parametrize("http2", [False, True])
async def test_an_event_stream_gets_its_last_event_and_another_stream_is_cut(live: RunningServer, http2: bool) -> None:
    async with client_of(live, "bob", http1=not http2, http2=http2) as client:
        async with client.stream("GET", "/sse") as events, client.stream("GET", "/stream") as stream:
            assert events.http_version == stream.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
            lines, pieces = events.aiter_lines(), stream.aiter_raw()
            assert (await anext(lines)).startswith("data: ")
            await anext(pieces)
            assert (await client.get("/logout")).status_code == 200
            said = [line async for line in lines if line]
            assert said == ["event: session-ended", 'data: {"reason": "logout"}']
            with pytest.raises(httpx.RemoteProtocolError):
                async for _ in pieces:
                    pass
        await until_none_is_left(live)


CHILD = """
import asyncio, ssl, sys
from websockets.asyncio.client import connect

async def main(url, ca, cookie):
    context = ssl.create_default_context(cafile=ca)
    async with connect(url, ssl=context, host="127.0.0.1", additional_headers={"cookie": cookie}) as one:
        await one.recv()
        print("open", flush=True)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


async def killed(server: RunningServer, client: httpx.AsyncClient) -> None:
    """A client whose process dies."""
    url = f"wss://localhost:{server.https_port}/"
    argv = [sys.executable, "-c", CHILD, url, str(server.ca), cookie(client)]
    child = await asyncio.to_thread(subprocess.Popen, argv, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert await asyncio.to_thread(child.stdout.readline) == b"open\n"
    assert await live_connections(server) == 1
    os.kill(child.pid, signal.SIGKILL)
    await asyncio.to_thread(child.wait)
    child.stdout.close()


async def reset(server: RunningServer, client: httpx.AsyncClient) -> None:
    """A client that resets its connection (RST) in the middle of an event stream."""
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await asyncio.to_thread(raw.connect, ("127.0.0.1", server.https_port))
        with server.tls().wrap_socket(raw, server_hostname="localhost") as line:
            line.sendall(f"GET /sse HTTP/1.1\r\nhost: localhost\r\ncookie: {cookie(client)}\r\n\r\n".encode())
            received = b""
            while b"data: " not in received:
                received += await asyncio.to_thread(line.recv, 65536)
            assert await live_connections(server) == 1
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("vanish", [killed, reset])
async def test_a_client_that_vanishes_leaves_no_connection_behind(
    live: RunningServer, vanish: Callable[[RunningServer, httpx.AsyncClient], Awaitable[None]]
) -> None:
    async with client_of(live, "carol") as client:
        await vanish(live, client)
        await until_none_is_left(live)
        assert (await client.get("/")).json()["id"] is not None, "its session lives"


async def test_a_client_that_never_reads_cannot_grow_a_worker_and_ends_with_its_session(live: RunningServer) -> None:
    async def resident() -> int:
        found: dict[int, int] = {}
        async with httpx.AsyncClient(base_url=live.https, verify=live.tls(), timeout=20) as asker:
            while len(found) < WORKERS:
                answer = (await asker.get("/live")).json()
                found[answer["worker"]] = answer["resident"]
        return sum(found.values())

    async with client_of(live, "dave") as client, contextlib.AsyncExitStack() as stack:
        before = await resident()
        for path in ("/flood", "/flood", "/flood"):
            deaf = await stack.enter_async_context(open_websocket(live, client, path, max_queue=1, close_timeout=0.1))
            deaf.transport.pause_reading()
            flood = await stack.enter_async_context(client.stream("GET", path))
            assert flood.status_code == 200
        await asyncio.sleep(1)
        assert await live_connections(live) == 6
        assert await resident() - before < 20 * 2**20
        assert (await client.get("/logout")).status_code == 200
        await until_none_is_left(live)
