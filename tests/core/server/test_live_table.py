"""What is open with a session, told from worker to worker."""

import asyncio
from pathlib import Path

from coatcheck.clock import SystemClock
from coatcheck.connections import LiveConnections
from coatcheck.server.live_table import LiveTable


def opened(connections: LiveConnections, session_id: str, kind: str, protocol: str) -> object:
    return connections.add(
        session_id, generation=0, owner="ada", kind=kind, protocol=protocol, close=lambda _: None, deadline=1e12
    )


async def test_each_worker_tells_what_all_have_open(tmp_path: Path) -> None:
    here, there = LiveConnections(SystemClock()), LiveConnections(SystemClock())
    one, other = LiveTable(tmp_path, 0, here), LiveTable(tmp_path, 1, there)
    opened(here, "s1", "websocket", "HTTP/2")
    gone = opened(there, "s1", "websocket", "HTTP/2")
    opened(there, "s1", "sse", "HTTP/3")
    opened(there, "s2", "grpc", "HTTP/2")
    assert one.of(["s1", "s3"]) == {"s1": {("websocket", "HTTP/2"): 1}}
    running = asyncio.create_task(other.run())
    try:
        async with asyncio.timeout(5):
            while "s2" not in one.of(["s2"]):
                await asyncio.sleep(0.01)
        assert one.of(["s1", "s3"]) == {"s1": {("websocket", "HTTP/2"): 2, ("sse", "HTTP/3"): 1}}
        there.remove(gone)  # type: ignore[arg-type]
        async with asyncio.timeout(5):
            while one.of(["s1"])["s1"] != {("websocket", "HTTP/2"): 1, ("sse", "HTTP/3"): 1}:
                await asyncio.sleep(0.01)
    finally:
        running.cancel()


async def test_a_file_that_cannot_be_read_is_nobodys(tmp_path: Path) -> None:
    table = LiveTable(tmp_path, 0, LiveConnections(SystemClock()))
    (tmp_path / "live-1").write_bytes(b"\xc1 no msgpack")
    assert table.of(["s1"]) == {}
