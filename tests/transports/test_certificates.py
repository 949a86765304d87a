"""Certificates as clients see them: ours by name and by address, and an operator's own, replaced while the server runs."""

import asyncio
import os
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import grpc.aio
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from coatcheck.server.certificates import ADDRESSES, LOCALHOST, Subject, new_authority, new_certificate
from coatcheck.server.ports import addresses
from coatcheck.server.settings import Settings
from tests.clients.h3 import H3Client, connect_h3
from tests.clients.serving import ECHO, RunningServer, start_server

PEM = serialization.Encoding.PEM
NOW = datetime.now(UTC)
AUTHORITY = new_authority(NOW)


def plain(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def issue(directory: Path) -> int:
    """Writes a new pair, the key first; the certificate's serial number."""
    certificate, key = new_certificate(*AUTHORITY, NOW)
    (directory / "key.pem").write_bytes(plain(key))
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


def certificate_of(client: H3Client) -> x509.Certificate:
    seen = client._quic.tls._peer_certificate
    assert isinstance(seen, x509.Certificate)
    return seen


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
        assert certificate_of(client).serial_number == fresh
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


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Without a certificate from an operator, in the data directory of an earlier server, which had one for all names."""
    directory = tmp_path_factory.mktemp("own")
    (directory / "data").mkdir(mode=0o700)
    tls = directory / "data" / "tls"
    tls.mkdir(mode=0o700)
    earlier = Subject("localhost", "localhost", (*LOCALHOST.names, *ADDRESSES.names))
    for stem, (certificate, key) in (("ca", AUTHORITY), ("localhost", new_certificate(*AUTHORITY, NOW, earlier))):
        (tls / f"{stem}.key").write_bytes(plain(key))
        (tls / f"{stem}.pem").write_bytes(certificate.public_bytes(PEM))
    running = start_server(directory, "--workers", "1", "--host", "localhost")
    yield running
    assert running.stop() == 0, running.said()


async def test_grpc_and_addresses_verify_against_the_same_authority(own: RunningServer) -> None:
    assert own.ca.read_bytes() == AUTHORITY[0].public_bytes(PEM)
    listening = addresses(Settings(data_dir=own.data_dir))
    assert "127.0.0.1" in listening
    hosts = ["localhost", *(f"[{address}]" if ":" in address else address for address in listening)]
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = own.tls()
        context.minimum_version = context.maximum_version = version
        async with httpx.AsyncClient(verify=context) as client:
            for host in hosts:
                assert (await client.get(f"https://{host}:{own.https_port}/healthz")).status_code == 200
    for name in ("localhost", "127.0.0.1"):
        async with connect_h3(own.https_port, own.ca, name=name) as client:
            assert (await client.request("GET", "/healthz")).status == 200
    credentials = grpc.ssl_channel_credentials(own.ca.read_bytes())
    # BoringSSL takes no certificate for an address from this authority; where one must be called, the name can be said.
    named = [("grpc.ssl_target_name_override", "localhost")]
    for host, options in (("localhost", []), ("127.0.0.1", named)):
        async with grpc.aio.secure_channel(f"{host}:{own.https_port}", credentials, options=options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary("/coatcheck.v1.SessionService/List")(b"", timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED, refused.value.details()


async def test_the_one_for_addresses_is_renewed_over_tcp_and_quic_without_a_restart(own: RunningServer) -> None:
    async def served_to_addresses() -> tuple[int, int]:
        _, writer = await asyncio.open_connection("127.0.0.1", own.https_port, ssl=own.tls())
        found = int(writer.get_extra_info("peercert")["serialNumber"], 16)
        writer.close()
        await writer.wait_closed()
        async with connect_h3(own.https_port, own.ca, name="127.0.0.1") as client:
            return found, certificate_of(client).serial_number

    before = await served_to_addresses()
    assert before[0] == before[1]
    file = own.data_dir / "tls" / "address.pem"
    file.unlink()
    async with asyncio.timeout(15):
        while (now := await served_to_addresses()) == before or now[0] != now[1]:
            await asyncio.sleep(0.1)
    assert now[0] == x509.load_pem_x509_certificate(file.read_bytes()).serial_number


async def test_who_names_somebody_else_is_given_no_certificate_for_that_name(own: RunningServer) -> None:
    context = own.tls()
    with pytest.raises(ssl.SSLCertVerificationError, match=r"bank\.example"):
        await asyncio.open_connection("127.0.0.1", own.https_port, ssl=context, server_hostname="bank.example")
