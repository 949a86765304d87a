"""Serves one of the examples on a free port, as its reader would: by uvicorn, or by Flask's own server."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


class served:
    """A server's process on a free port, ended in the end."""

    def __init__(self, name: str, directory: Path, **environ: str) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        fd = str(self._listener.fileno())
        environment = {**os.environ, **environ}
        if name.startswith("flask_"):
            command = [sys.executable, "-m", "flask", "--app", str(EXAMPLES / name), "run"]
            # As its reloader hands its socket on.
            environment |= {"WERKZEUG_RUN_MAIN": "true", "WERKZEUG_SERVER_FD": fd}
        else:
            command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), f"{name}:app"]
            command += ["--fd", fd, "--log-level", "warning"]
        self._process = subprocess.Popen(
            command, cwd=directory, pass_fds=[self._listener.fileno()], env=environment, stderr=subprocess.PIPE
        )
        self.said = b""

    def __enter__(self) -> str:
        url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        deadline = time.monotonic() + 20
        while True:
            try:
                # The socket listens already, so this waits for the server and not for the port.
                httpx.get(f"{url}/user/1", timeout=20)
                return url
            except httpx.TransportError:
                assert self._process.poll() is None, "the server has ended"
                assert time.monotonic() < deadline, "the server does not answer"

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._listener.close()
        _, self.said = self._process.communicate(timeout=20)
        assert self._process.returncode in (0, -15), self.said.decode()
