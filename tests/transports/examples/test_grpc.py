"""The example with gRPC does what its README says."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.clients.examples import EXAMPLES
from tests.core.integrations.grpc_site import NO_PROXY, status

NOBODY = (grpc.StatusCode.UNAUTHENTICATED, "Nobody is logged in.")


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    command = [sys.executable, str(EXAMPLES / "grpc_login.py"), "127.0.0.1:0"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"127.0.0.1:{process.stdout.readline().split()[-1]}"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


async def test_one_can_log_in_be_known_and_log_out_and_streams_end_then(address: str) -> None:
    def call(name: str, metadata: Any = ()) -> Any:
        kind = channel.unary_stream if name == "Count" else channel.unary_unary
        return kind(f"/example.Login/{name}")(b"", metadata=metadata)

    async with grpc.aio.insecure_channel(address, options=NO_PROXY) as channel:
        assert await status(call("Profile")) == NOBODY
        assert await status(call("Count")) == NOBODY
        login = call("LogIn")
        assert await login == b"Logged in"
        cookie = [("cookie", str((await login.initial_metadata())["set-cookie"]).partition(";")[0])]
        assert await call("Profile", cookie) == b"Hello, user123"
        counting, left_open = call("Count", cookie), call("Count")
        assert await counting.read() == b"0"
        assert await call("LogOut", cookie) == b"Logged out"
        assert await status(counting) == (grpc.StatusCode.UNAUTHENTICATED, "session ended: logout")
        assert await status(call("Profile", cookie)) == NOBODY
        assert await status(left_open) == NOBODY
