"""Real Redis servers for tests: on free ports of loopback, in temporary directories, gone when the test is."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

__all__ = ["RedisCluster", "RedisServer", "free_port", "redis_cli"]


def free_port(*also: int) -> int:
    """A port that nobody listens on now, nor on those so much higher; below the range that clients' ports are from."""
    while True:
        port = 10_000 + int.from_bytes(os.urandom(2), "big") % 10_000
        if all(_is_free(port + more) for more in (0, *also)):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class RedisServer:
    """A server of our own. `settings` are those of redis.conf."""

    def __init__(
        self,
        *,
        program: str | None = None,
        port: int | None = None,
        tls: Path | None = None,
        directory: Path | None = None,
        arguments: tuple[str, ...] | None = None,
        **settings: str,
    ) -> None:
        """Start one; with `tls` over TLS alone, with the certificate in that directory, which clients must have too."""
        self.port = port or free_port()
        self.directory = directory or Path(tempfile.mkdtemp(prefix="coatcheck-redis-"))
        self._arguments = arguments
        self._settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.directory),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "repl-diskless-sync-delay": "0",
            "logfile": str(self.directory / "log"),
            **{name.replace("_", "-"): value for name, value in settings.items()},
        }
        self._tls = tls
        if tls is not None:
            files = {"ca-cert-file": "ca.pem", "cert-file": "cert.pem", "key-file": "key.pem"}
            self._settings |= {f"tls-{name}": str(tls / file) for name, file in files.items()}
            self._settings |= {"port": "0", "tls-port": str(self.port)}
        self._program = program or os.environ.get("REDIS_SERVER", "redis-server")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @classmethod
    def sentinel(cls, port: int, configuration: str) -> "RedisServer":
        """A Sentinel, which keeps what it learns in its own file."""
        directory = Path(tempfile.mkdtemp(prefix="coatcheck-sentinel-"))
        (directory / "sentinel.conf").write_text(configuration)
        return cls(
            program="redis-sentinel", port=port, arguments=(str(directory / "sentinel.conf"),), directory=directory
        )

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0?durability=any"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        arguments = self._arguments or [part for name, value in self._settings.items() for part in (f"--{name}", value)]
        with open(self.directory / "output", "ab") as output:
            # A limit on file size, by which a test plays a full disk, is then told as an error and does not kill.
            self._process = subprocess.Popen(
                [self._program, *arguments], stdout=output, stderr=output, restore_signals=False
            )
        deadline = time.monotonic() + 10
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self._said()
                self.stop()
                raise AssertionError(f"the server did not start: {said}")
            time.sleep(0.005)

    def _said(self) -> str:
        files = [self.directory / name for name in ("output", "log")]
        return "".join(file.read_text()[-2000:] for file in files if file.exists())

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                if self._tls is not None:
                    return True
                probe.sendall(b"PING\r\n")
                return probe.recv(100).startswith((b"+", b"-NOAUTH"))
        except OSError:
            return False

    def kill(self, how: int = signal.SIGKILL) -> None:
        """Send it a signal; one that ends it is waited for."""
        assert self._process is not None
        self._process.send_signal(how)
        if how in (signal.SIGKILL, signal.SIGTERM):
            self._process.wait(20)

    def stop(self) -> None:
        """End it, and remove all it left."""
        if self.running:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def cli(self, *command: str) -> str:
        """Type a command into redis-cli."""
        return redis_cli(self.port, *command)

    def __enter__(self) -> "RedisServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _roles(text: str) -> list[tuple[str, bool]]:
    """Each node's id, and whether it is a primary, as one of them sees it."""
    lines = [line.split() for line in text.splitlines()]
    return [(line[0], "master" in line[2]) for line in lines if "handshake" not in line[2]]


def redis_cli(port: int, *command: str) -> str:
    """Type a command into redis-cli; give what it printed."""
    typed = ["redis-cli", "-h", "127.0.0.1", "-p", str(port), *command]
    done = subprocess.run(typed, capture_output=True, timeout=20, check=True)
    return done.stdout.decode(errors="replace").strip()


class RedisCluster:
    """A cluster of our own: `primaries` nodes with slots, each with a replica."""

    def __init__(self, primaries: int = 3, *, replicas: int = 1, **settings: str) -> None:
        self.nodes: list[RedisServer] = []
        try:
            for _ in range(primaries * (1 + replicas)):
                self.nodes.append(self.node(**settings))
            addresses = [f"127.0.0.1:{node.port}" for node in self.nodes]
            command = ["redis-cli", "--cluster", "create", *addresses]
            command += ["--cluster-replicas", str(replicas), "--cluster-yes"]
            subprocess.run(command, capture_output=True, timeout=60, check=True)
            self.settle()
        except BaseException:
            self.stop()
            raise

    @staticmethod
    def node(**settings: str) -> RedisServer:
        """A server that can be part of a cluster. Others wait for it for ten seconds: a busy machine is no failure."""
        port = free_port(10_000)  # where the nodes talk among themselves
        common = {
            "cluster_enabled": "yes",
            "cluster_node_timeout": "10000",
            "cluster_config_file": f"nodes-{port}.conf",
        }
        return RedisServer(port=port, **(common | settings))

    def settle(self) -> None:
        """Wait until all nodes know one another and agree that all slots are served."""
        self.wait_for([node for node in self.nodes if node.running])

    @staticmethod
    def wait_for(nodes: list[RedisServer]) -> None:
        """Wait until these nodes are a cluster, and agree on who of them is a primary."""
        deadline = time.monotonic() + 30
        while True:
            states = [node.cli("CLUSTER", "INFO") for node in nodes]
            views = {frozenset(_roles(node.cli("CLUSTER", "NODES"))) for node in nodes}
            if (
                len(views) == 1
                and len(next(iter(views))) == len(nodes)
                and all("state:ok" in state for state in states)
            ):
                return
            assert time.monotonic() < deadline, "the cluster does not come about"
            time.sleep(0.02)

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}?durability=any"

    def primaries(self) -> list[RedisServer]:
        """Those that have slots or could have, by what each says of itself."""
        return [node for node in self.nodes if node.running and "role:master" in node.cli("INFO", "replication")]

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def __enter__(self) -> "RedisCluster":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
