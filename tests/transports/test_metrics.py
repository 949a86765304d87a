"""/metrics of a running server, summed over its workers, with the edge's own counters."""

import re
import urllib.error
import urllib.request
from pathlib import Path

import httpx
import pytest

from tests.clients.serving import free_port, start_server


def test_metrics_tell_what_all_workers_and_the_edge_did(tmp_path: Path) -> None:
    port = free_port()
    server = start_server(tmp_path, "--workers", "2", "--metrics-port", str(port))
    try:
        assert f"http://127.0.0.1:{port}/metrics  for Prometheus" in server.said()
        with httpx.Client(http2=True, verify=server.tls(), base_url=server.https) as client:
            for _ in range(30):
                assert client.get("/v1/me").status_code == 401
        until_published(port, 'coatcheck_requests_total{status="4xx"}', 30)
        text = metrics(port)
        assert read(text, 'coatcheck_edge_connections_total{version="HTTP/2"}') == 1
        assert read(text, "coatcheck_lease_seconds") > 0
        with pytest.raises(urllib.error.HTTPError, match="421"):
            urllib.request.urlopen(
                urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"host": "evil.example"})
            )
        assert httpx.get(f"{server.http}/metrics").status_code == 404, "not where everybody could read it"
    finally:
        assert server.stop() == 0, server.said()


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read(), "utf-8")


def read(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found is not None, text
    return float(found[1])


def until_published(port: int, name: str, value: float) -> None:
    """Workers publish once a second."""
    import time

    until = time.monotonic() + 15
    while read(metrics(port), name) != value:
        assert time.monotonic() < until, metrics(port)
        time.sleep(0.1)
