"""Clients that fall silent without a word (a cable pulled, a laptop closed) are found out and leave nothing behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.serving import RunningServer, start_server
from tests.transports.test_live import CHILD, LIVE, WORKERS, client_of, cookie, live_connections

TIMEOUT = 150

STREAM = """
import asyncio, ssl, sys, httpx

async def main(url, ca, cookie):
    context = ssl.create_default_context(cafile=ca)
    async with httpx.AsyncClient(verify=context, http1=False, http2=True, timeout=None) as client:
        async with client.stream("GET", url.replace("wss", "https") + "sse", headers={"cookie": cookie}) as events:
            async for _ in events.aiter_raw():
                print("open", flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def live(tmp_path: Path) -> Iterator[RunningServer]:
    running = start_server(tmp_path, "--workers", str(WORKERS), app=LIVE)
    yield running
    assert running.stop() == 0, running.said()


async def test_silence_is_found_out_within_a_minute(live: RunningServer) -> None:
    async with client_of(live, "ada") as client:
        children: list[subprocess.Popen[bytes]] = []
        url = f"wss://localhost:{live.https_port}/"
        for code in (CHILD, STREAM):  # a WebSocket over HTTP/1.1, and an event stream over HTTP/2
            argv = [sys.executable, "-c", code, url, str(live.ca), cookie(client)]
            child = await asyncio.to_thread(subprocess.Popen, argv, stdout=subprocess.PIPE)
            assert child.stdout is not None
            assert await asyncio.to_thread(child.stdout.readline) == b"open\n"
            children.append(child)
        assert await live_connections(live) == 2
        for child in children:
            os.kill(child.pid, signal.SIGSTOP)  # its connections stay open, and nothing answers on them
        began = time.monotonic()
        try:
            async with asyncio.timeout(90):
                while left := await live_connections(live):
                    print(f"after {time.monotonic() - began:.0f} s: {left}")
                    await asyncio.sleep(2)
            assert time.monotonic() - began < 60
        finally:
            for child in children:
                child.kill()
                await asyncio.to_thread(child.wait)
                assert child.stdout is not None
                child.stdout.close()
        assert (await client.get("/")).json()["id"] is not None, "its session lives"
