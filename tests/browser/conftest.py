"""One real server for each process that runs tests, Debian's Chromium, and devices: each a browser context of its own."""

import base64
import hashlib
import shutil
from collections.abc import Callable, Iterator
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import Browser, Playwright, expect, sync_playwright

from tests.browser.device import Device
from tests.clients.serving import RunningServer, start_server

QUIET = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
]
# Without it the browser tries to reach the outside; `*.test` are names of machines that there are not.
HOSTS = "MAP localhost 127.0.0.1, MAP other.test 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
VERSIONS = {
    "HTTP/1.1": ["--disable-http2", "--disable-quic"],
    "HTTP/2": ["--disable-quic"],
    "HTTP/3": ["--origin-to-force-quic-on={host}"],
    # HTTP/3 is on, and nothing forces it: the flag only makes Chromium accept a private CA for QUIC.
    "as it comes": ["--origin-to-force-quic-on=localhost:1"],
}
expect.set_options(timeout=15_000)

Launch = Callable[[str], Browser]
NewDevice = Callable[..., Device]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    # All tests are one address, and most make an account.
    env = {"COATCHECK_THROTTLING__REGISTRATIONS": "1000"}
    running = start_server(tmp_path_factory.mktemp("server"), "--workers", "2", env=env)
    yield running
    assert running.stop() == 0, running.said()


@pytest.fixture(scope="module")  # its event loop must not outlive the file: other tests run their own
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def launch(playwright: Playwright, server: RunningServer) -> Iterator[Launch]:
    """Give a browser that speaks this version of HTTP; one for all who ask."""
    browsers: dict[str, Browser] = {}

    def launched(version: str) -> Browser:
        if version not in browsers:
            browsers[version] = launch_chromium(playwright, server, version)
        return browsers[version]

    yield launched
    for browser in browsers.values():
        browser.close()


def launch_chromium(playwright: Playwright, server: RunningServer, version: str) -> Browser:
    """Start Debian's Chromium, which speaks this version of HTTP, trusts this server, and reaches nothing else."""
    own = [flag.format(host=f"localhost:{server.https_port}") for flag in VERSIONS[version]]
    trust = f"--ignore-certificate-errors-spki-list={spki(server)}"
    return playwright.chromium.launch(
        executable_path=shutil.which("chromium"), args=[*QUIET, f"--host-resolver-rules={HOSTS}", trust, *own]
    )


@pytest.fixture
def new_device(request: pytest.FixtureRequest, launch: Launch, server: RunningServer) -> Iterator[NewDevice]:
    """Give a device by keywords of a browser context, and by the version of HTTP that it speaks.

    When the test is over, each must have been silent on its console and have asked nothing of other origins.
    """
    devices: list[Device] = []
    chosen = cast("str", getattr(request, "param", "HTTP/2"))

    def device(*, version: str = chosen, base: str = server.https, **options: object) -> Device:
        context = launch(version).new_context(**options)  # pyright: ignore[reportArgumentType]
        devices.append(Device(context, base))
        return devices[-1]

    yield device
    for each in devices:
        each.context.close()
    for each in devices:
        assert each.complaints == []
        assert each.elsewhere == []


@pytest.fixture
def device(new_device: NewDevice) -> Device:
    return new_device()


def spki(server: RunningServer) -> str:
    """The server's key as Chromium is told to trust it: Base64 of SHA-256 of its SubjectPublicKeyInfo (RFC 7469, 2.4)."""
    certificate = server.data_dir / "tls" / "localhost.pem"
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return base64.b64encode(digest).decode()
