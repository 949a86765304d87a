"""An operator's own certificate: replaced while the server runs, and not replaced by what is no use."""

import asyncio
import os
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from coatcheck.server.certificates import new_authority, new_certificate
from tests.clients.h3 import connect_h3
from tests.clients.serving import ECHO, RunningServer, start_server

PEM = serialization.Encoding.PEM
NOW = datetime.now(UTC)
AUTHORITY = new_authority(NOW)


def issue(directory: Path) -> int:
    """Writes a new pair, the key first; the certificate's serial number."""
    certificate, key = new_certificate(*AUTHORITY, NOW)
    plain = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "key.pem").write_bytes(plain)
    (directory / "cert.pem").write_bytes(certificate.public_bytes(PEM))
    return certificate.serial_number


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("operator")
    issue(directory)
    (directory / "ca.pem").write_bytes(AUTHORITY[0].public_bytes(PEM))
    return directory


@pytest.fixture(scope="module")
def server(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    options = ["--workers", "1", "--tls-cert", str(files / "cert.pem"), "--tls-key", str(files / "key.pem")]
    running = start_server(tmp_path_factory.mktemp("certificates"), *options, app=ECHO)
    yield running
    assert running.stop() == 0, running.said()


async def served(server: RunningServer, files: Path) -> int:
    """The serial number of the certificate that a new connection gets."""
    context = ssl.create_default_context(cafile=str(files / "ca.pem"))
    _, writer = await asyncio.open_connection("127.0.0.1", server.https_port, ssl=context, server_hostname="localhost")
    found = int(writer.get_extra_info("peercert")["serialNumber"], 16)
    writer.close()
    await writer.wait_closed()
    return found


async def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        await asyncio.sleep(0.05)


async def test_a_replaced_pair_is_served_over_tcp_and_quic(server: RunningServer, files: Path) -> None:
    fresh = issue(files)
    async with asyncio.timeout(15):
        while await served(server, files) != fresh:
            await asyncio.sleep(0.1)
    async with connect_h3(server.https_port, files / "ca.pem") as client:
        assert (await client.request("GET", "/")).status == 200
        seen = client._quic.tls._peer_certificate
        assert isinstance(seen, x509.Certificate)
        assert seen.serial_number == fresh
    assert server.said().count("the certificate was replaced") == 1


async def test_a_broken_replacement_keeps_the_old_one_even_over_a_killed_edge(
    server: RunningServer, files: Path
) -> None:
    before = await served(server, files)
    (files / "cert.pem").write_text("nonsense")
    await until(lambda: "still serving" in server.said())
    assert await served(server, files) == before
    edge = server.edge()
    os.kill(edge, signal.SIGKILL)
    async with asyncio.timeout(15):
        while True:
            try:
                assert await served(server, files) == before
                break
            except OSError:
                await asyncio.sleep(0.05)
    lines = [line for line in server.said().splitlines() if "still serving" in line]
    assert lines == [
        f"coatcheck: {files}/cert.pem is not a certificate in PEM form; still serving the certificate from before"
    ]
