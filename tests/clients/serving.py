"""Starts a real `coatcheck serve` on free ports in a directory of its own, and stops it."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ECHO = "tests.transports.echo_app:create_app"
ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from coatcheck.cli import main; main()", "serve"]


@dataclass
class RunningServer:
    process: subprocess.Popen[bytes]
    data_dir: Path
    http_port: int
    https_port: int
    output: Path
    """What it wrote to stdout and stderr."""

    @property
    def ca(self) -> Path:
        return self.data_dir / "tls" / "ca.pem"

    @property
    def http(self) -> str:
        return f"http://localhost:{self.http_port}"

    @property
    def https(self) -> str:
        return f"https://localhost:{self.https_port}"

    def tls(self) -> ssl.SSLContext:
        """A client's context that trusts this server; a new one each time, because clients change them."""
        return ssl.create_default_context(cafile=str(self.ca))

    def said(self) -> str:
        return self.output.read_text()

    def children(self) -> dict[int, str]:
        """Process ids and command lines of its edge and workers."""
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    if parent == self.process.pid:
                        found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
                except OSError:
                    continue
        return found

    def workers(self) -> list[int]:
        return [pid for pid, command in self.children().items() if "coatcheck.server.worker" in command]

    def edge(self) -> int:
        return next(pid for pid, command in self.children().items() if "envoy" in command)

    def stop(self, number: signal.Signals = signal.SIGTERM, within: float = 30) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.ended(within)

    def ended(self, within: float = 30) -> int:
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            raise


def start_server(
    directory: Path, *options: str, app: str | None = None, env: dict[str, str] | None = None, within: float = 40
) -> RunningServer:
    """A server that is ready for requests. `app` names another application than Coatcheck's own."""
    for attempt in range(3):
        http_port, https_port = free_port(), free_port()
        server = spawn_server(directory, http_port, https_port, *options, app=app, env=env)
        until = time.monotonic() + within
        while time.monotonic() < until and server.process.poll() is None:
            if "Ctrl-C" in server.said():
                return server
            time.sleep(0.02)
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait(10)
        if "is taken" not in server.said() or attempt == 2:
            raise AssertionError(f"the server did not start:\n{server.said()}")
    raise AssertionError("unreachable")


def spawn_server(
    directory: Path,
    http_port: int,
    https_port: int,
    *options: str,
    app: str | None = None,
    env: dict[str, str] | None = None,
) -> RunningServer:
    """A server that was just started, ready or not."""
    output = directory / "output.txt"
    data_dir = directory / "data"
    argv = [*COMMAND, "--data-dir", str(data_dir), "--http-port", str(http_port), "--https-port", str(https_port)]
    if "--metrics-port" not in options:
        argv += ["--metrics-port", "0"]
    if app is not None:
        argv += ["--app", app]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COATCHECK_")}
    environment = {**clean, "PYTHONPATH": str(ROOT), **(env or {})}
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*argv, *options], cwd=directory, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    return RunningServer(process, data_dir, http_port, https_port, output)


def free_port() -> int:
    """A port that nobody has, neither for TCP nor for UDP."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            port: int = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def add_administrator(server: RunningServer, username: str, password: str, name: str = "") -> None:
    """By the command that operators have."""
    argv = [*COMMAND[:-1], "users", "add", username, "--admin", "--password-stdin", "--data-dir", str(server.data_dir)]
    argv += ["--name", name] if name else []
    made = subprocess.run(argv, input=f"{password}\n", text=True, capture_output=True, check=False, timeout=60)
    assert made.returncode == 0, made.stderr
