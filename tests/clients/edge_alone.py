"""An Envoy before the echo application, without a supervisor: for what a whole server on loopback does not come to."""

import json
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from coatcheck.server.certificates import local_certificate
from coatcheck.server.context import WorkerContext
from coatcheck.server.edge import ADDRESS_SECRET, EDGE_SECRET, Edge, edge_config, secret_config
from coatcheck.server.envoy import envoy_argv
from coatcheck.server.settings import Settings
from tests.clients.serving import free_port
from tests.transports import echo_app


@dataclass
class EdgeAlone:
    edge: Edge
    runtime_dir: Path
    ca: Path
    envoy: subprocess.Popen[bytes]

    @property
    def http_port(self) -> int:
        return self.edge.http_port

    @property
    def https_port(self) -> int:
        return self.edge.https_port

    def tls(self) -> ssl.SSLContext:
        """A client's context that trusts it; a new one each time, because clients change them."""
        return ssl.create_default_context(cafile=str(self.ca))

    def said(self) -> str:
        return (self.runtime_dir / "output.txt").read_text()


@contextmanager
def edge_alone(directory: Path, **wanted: Any) -> Iterator[EdgeAlone]:
    """Runs them until the end of the block; `wanted` are fields of Edge other than its files and ports."""
    # Paths of sockets must be short.
    with tempfile.TemporaryDirectory(prefix="edge-") as name:
        runtime_dir = Path(name)
        data_dir = directory / "data"
        data_dir.mkdir(mode=0o700, exist_ok=True)
        certificate = local_certificate(data_dir)
        assert certificate.authority is not None
        edge = Edge(
            boot_id="b007",
            http_port=free_port(),
            https_port=free_port(),
            worker_sockets=(str(runtime_dir / "worker-0.sock"),),
            admin_socket=str(runtime_dir / "admin.sock"),
            secret_file=str(runtime_dir / "secret.json"),
            address_secret_file=str(runtime_dir / "address-secret.json"),
            **{"addresses": ("127.0.0.1",), **wanted},
        )
        settings = Settings(data_dir=data_dir, http_port=edge.http_port, https_port=edge.https_port)
        named = (EDGE_SECRET, edge.secret_file), (ADDRESS_SECRET, edge.address_secret_file)
        for (name, file), (leaf, key) in zip(named, certificate.pairs(), strict=True):
            Path(file).write_text(json.dumps(secret_config(name, str(leaf), str(key))))
        (runtime_dir / "edge.json").write_text(json.dumps(edge_config(edge)))
        application = echo_app.create_app(settings, WorkerContext(runtime_dir, edge=True))
        config = uvicorn.Config(
            application, uds=edge.worker_sockets[0], interface="asgi3", log_config=None, proxy_headers=False
        )
        worker = uvicorn.Server(config)
        working = threading.Thread(target=worker.run)
        working.start()
        argv = envoy_argv(runtime_dir / "edge.json", 1, threads=edge.threads)
        with (runtime_dir / "output.txt").open("wb") as output:
            envoy = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT)
            running = EdgeAlone(edge, runtime_dir, certificate.authority, envoy)
            try:
                _until_ready(running)
                yield running
            finally:
                envoy.kill()
                envoy.wait(10)
                worker.should_exit = worker.force_exit = True
                working.join(10)


def _until_ready(running: EdgeAlone) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until and running.envoy.poll() is None:
        with socket.socket(socket.AF_UNIX) as admin:
            try:
                admin.settimeout(5)
                admin.connect(running.edge.admin_socket)
                admin.sendall(b"GET /clusters HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")
                answer = b""
                while piece := admin.recv(65536):
                    answer += piece
                if b"::health_flags::healthy\n" in answer:
                    return
            except OSError:
                pass
        time.sleep(0.02)
    raise AssertionError(f"the edge did not come up:\n{running.said()}")
