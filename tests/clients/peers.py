"""Servers of others, as their users start them: uvicorn, Hypercorn, Granian, nginx, Node. On free ports, in a directory of their own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coatcheck.server.certificates import local_certificate
from tests.clients.serving import ROOT, free_port

APP = "tests.clients.peer_app:app"

_NODE = """
const http = require("node:http");
const server = http.createServer((request, response) => {
  response.setHeader("content-type", "text/plain");
  response.end("hello\\n");
});
server.keepAliveTimeout = 2000;
server.maxRequestsPerSocket = Number(process.argv[3]);
server.listen(Number(process.argv[2]), "127.0.0.1");
"""


@dataclass
class Peer:
    port: int
    ca: Path
    output: Path
    tls: bool

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://localhost:{self.port}/"


@contextmanager
def uvicorn(directory: Path, *options: str) -> Generator[Peer]:
    with _running(directory, tls=False) as (port, _, start):
        yield start([sys.executable, "-m", "uvicorn", APP, "--port", str(port), "--log-level", "warning", *options])


@contextmanager
def hypercorn(directory: Path, **settings: object) -> Generator[Peer]:
    """With TLS and QUIC; `settings` as its configuration file has them."""
    with _running(directory, tls=True) as (port, files, start):
        lines = {
            "bind": [f"127.0.0.1:{port}"],
            "quic_bind": [f"127.0.0.1:{port}"],
            "certfile": str(files[0]),
            "keyfile": str(files[1]),
            **settings,
        }
        config = directory / "hypercorn.toml"
        config.write_text("".join(f"{name} = {_toml(value)}\n" for name, value in lines.items()))
        yield start([sys.executable, "-m", "hypercorn", "--config", str(config), APP])


@contextmanager
def granian(directory: Path, *options: str) -> Generator[Peer]:
    with _running(directory, tls=True) as (port, files, start):
        command = [sys.executable, "-m", "granian", "--interface", "asgi", "--port", str(port), *options]
        yield start([*command, "--ssl-certificate", str(files[0]), "--ssl-keyfile", str(files[1]), APP])


@contextmanager
def nginx(directory: Path, settings: str, *, tls: bool = True) -> Generator[Peer]:
    """`settings` are directives of its server block."""
    with _running(directory, tls=tls) as (port, files, start):
        config = directory / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        temporary = "".join(
            f"{kind}_temp_path {directory};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        secure = f"ssl_certificate {files[0]}; ssl_certificate_key {files[1]};" if tls else ""
        config.write_text(
            f"{user} daemon off; master_process off; pid {directory}/pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; {temporary}\n"
            f"server {{ listen 127.0.0.1:{port} {'ssl http2' if tls else ''}; {secure} {settings}\n"
            'location / { default_type text/plain; return 200 "hello\\n"; } } }\n'
        )
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        yield start([program, "-p", str(directory), "-c", str(config)])


@contextmanager
def node(directory: Path, requests_per_socket: int = 0) -> Generator[Peer]:
    script = directory / "server.js"
    script.write_text(_NODE)
    with _running(directory, tls=False) as (port, _, start):
        yield start(["node", str(script), str(port), str(requests_per_socket)])


class _Start:
    """Starts the command, and waits until it answers on its port."""

    def __init__(self, directory: Path, port: int, ca: Path, tls: bool) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._output = directory / "output.txt"
        self._peer = Peer(port, ca, self._output, tls)
        self._directory = directory

    def __call__(self, command: Sequence[str]) -> Peer:
        with self._output.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                cwd=self._directory,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        until = time.monotonic() + 30
        while time.monotonic() < until and self.process.poll() is None:
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", self._peer.port)) == 0:
                    return self._peer
            time.sleep(0.05)
        raise AssertionError(f"{command[0]} did not start:\n{self._output.read_text()}")


@contextmanager
def _running(directory: Path, *, tls: bool) -> Generator[tuple[int, tuple[Path, Path], _Start]]:
    files = local_certificate(directory)
    assert files.authority is not None
    port = free_port()
    start = _Start(directory, port, files.authority, tls)
    try:
        yield port, (files.certificate, files.key), start
    finally:
        if start.process is not None and start.process.poll() is None:
            start.process.send_signal(signal.SIGINT)
            try:
                start.process.wait(10)
            except subprocess.TimeoutExpired:
                start.process.kill()
                start.process.wait(10)


def _toml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
