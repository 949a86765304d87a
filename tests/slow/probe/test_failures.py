"""What goes wrong is one clear line: who refuses, who is silent, who talks nonsense, and whose certificate is no good."""

import asyncio
import gc
import os
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from coatcheck.probe import Unreachable, probe
from coatcheck.probe.link import open_link
from coatcheck.probe.report import Report
from coatcheck.probe.target import Endpoint
from coatcheck.probe.trace import Trace
from tests.clients.odd_servers import OK, Asked, Then, certificate, http1, http2, http3, raw
from tests.clients.serving import free_port


def codes(report: Report) -> set[str]:
    return {finding.code for finding in report.findings}


async def refused(url: str, **options: object) -> Unreachable:
    with pytest.raises(Unreachable) as error:
        await probe(url, **{"requests": 2, **options})  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return error.value


def sockets_to(port: int) -> list[str]:
    """The TCP sockets of this process that asyncio holds open to this port, whoever still knows of them."""
    transports = [each for each in gc.get_objects() if type(each).__name__ == "_SelectorSocketTransport"]
    peers = [each for each in transports if (each.get_extra_info("peername") or (None,))[-1] == port]
    return [repr(each) for each in peers if each.get_extra_info("socket").fileno() != -1]


@asynccontextmanager
async def silence() -> AsyncGenerator[int]:
    async with raw(lambda reader, writer: None) as port:
        yield port


async def test_nobody_there() -> None:
    port = free_port()
    for scheme in ("http", "https"):
        error = await refused(f"{scheme}://127.0.0.1:{port}/")
        assert error.kind == "refused" and f"127.0.0.1:{port} refused the connection" in str(error)


async def test_a_name_that_nobody_has() -> None:
    assert (await refused("https://nosuch.invalid/")).kind == "name"


async def test_a_server_that_accepts_and_never_answers() -> None:
    async with silence() as port:
        error = await refused(f"http://127.0.0.1:{port}/", only=("h1.1",), timeout=1.0)
    assert error.kind == "timeout" and "no answer to the request within 1 s" in str(error)


async def test_a_tls_handshake_that_stalls() -> None:
    async with silence() as port:
        error = await refused(f"https://127.0.0.1:{port}/", only=("h1.1", "h2"), timeout=1.0)
    assert error.kind == "timeout" and "no answer to the TLS handshake within 1 s" in str(error)


async def test_a_server_that_speaks_another_protocol() -> None:
    async with raw(lambda reader, writer: writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\x1b[2J")) as port:
        error = await refused(f"http://127.0.0.1:{port}/", only=("h1.1",))
        assert error.kind == "garbage" and "no HTTP" in str(error) and "SSH-2.0" in str(error)
        assert "\x1b" not in str(error)
        error = await refused(f"http://127.0.0.1:{port}/", only=("h2",))
        assert error.kind == "garbage" and "no HTTP/2" in str(error)
        assert "does it speak plain http://" in str(await refused(f"https://127.0.0.1:{port}/", only=("h1.1",)))


async def test_plain_http_to_a_tls_port_and_the_reverse(tmp_path: Path) -> None:
    async with http1(tls=certificate(tmp_path).context()) as site:
        assert "https://" in str(await refused(f"http://127.0.0.1:{site.port}/", only=("h1.1",)))
    async with raw(lambda reader, writer: writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        assert "plain http://" in str(await refused(f"https://127.0.0.1:{port}/", only=("h1.1",)))


async def test_a_connection_that_is_reset_in_the_middle() -> None:
    def answer(asked: Asked) -> tuple[bytes, Then]:
        if asked.request == 3:
            return b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf", "reset"
        return OK, "keep"

    async with http1(answer) as site:
        report = await probe(site.url, requests=8, only=("h1.1",))
    version = report.versions["h1.1"]
    assert version.spoken and version.failure == "the server reset the connection in the middle of its response"
    assert {"broke-off"} <= codes(report)
    assert version.requests == 3


async def test_a_response_that_does_not_end_and_one_that_is_endless() -> None:
    def half(asked: Asked) -> tuple[bytes, Then]:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf", "hang"

    def huge(asked: Asked) -> tuple[bytes, Then]:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + bytes(9 * 1024 * 1024), "hang"

    async with http1(half) as site:
        report = await probe(site.url, timeout=1.5, only=("h1.1",))
        assert report.versions["h1.1"].failure == "the response began but did not end within 1.5 s"
    async with http1(huge) as site:
        failure = (await probe(site.url, only=("h1.1",))).versions["h1.1"].failure
        assert failure is not None and "--head" in failure


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nhi\n",
        b"HTTP/1.1 200 OK\r\nBad Header\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000,
        b"\0" * 5000,
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_malformed_answers(answer: bytes) -> None:
    async with http1(lambda asked: (answer, "hang")) as site:
        try:
            report = await probe(site.url, timeout=3, only=("h1.1",))
            words = report.versions["h1.1"].failure or ""
        except Unreachable as error:
            words = str(error)
    assert "malformed" in words or "no HTTP" in words
    assert len(words) < 300 and words.isprintable()


async def test_a_version_that_is_refused_is_not_spoken() -> None:
    def answer(asked: Asked) -> tuple[bytes, Then]:
        return (b"HTTP/1.1 505 No\r\nContent-Length: 0\r\n\r\n", "close") if asked.http10 else (OK, "keep")

    async with http1(answer) as site:
        report = await probe(site.url, requests=2, only=("h1.0", "h1.1", "h2"))
    assert [version.spoken for version in report.versions.values()] == [False, True, False]
    assert report.versions["h1.0"].failure == "not spoken: it answered 505"
    assert "HTTP/2's first bytes" in (report.versions["h2"].failure or "")


async def test_http3_that_is_announced_and_dead_is_called_that(tmp_path: Path) -> None:
    dead = free_port()

    def answer(asked: Asked) -> tuple[bytes, Then]:
        return OK.replace(b"\r\n", f'\r\nAlt-Svc: h3=":{dead}"; ma=60\r\n'.encode(), 1), "keep"

    async with http1(answer, tls=certificate(tmp_path).context()) as site:
        report = await probe(site.url, requests=2, only=("h1.1", "h3"))
    assert report.versions["h3"].spoken is False
    assert report.versions["h3"].via == "alt-svc"
    assert "h3-dead" in codes(report) and report.fails("problem")
    assert "HTTP/3 is announced, but dead." in report.answer


async def test_http3_that_is_announced_and_silent_is_dead_too(tmp_path: Path) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as black_hole:
        black_hole.bind(("127.0.0.1", 0))
        port = black_hole.getsockname()[1]

        def answer(asked: Asked) -> tuple[bytes, Then]:
            return OK.replace(b"\r\n", f'\r\nAlt-Svc: h3=":{port}"\r\n'.encode(), 1), "keep"

        async with http1(answer, tls=certificate(tmp_path).context()) as site:
            report = await probe(site.url, requests=2, timeout=2, only=("h1.1", "h3"))
    assert "h3-dead" in codes(report)
    assert "no answer over QUIC" in (report.versions["h3"].failure or "")


async def test_no_http3_is_no_drama(tmp_path: Path) -> None:
    async with http1(tls=certificate(tmp_path).context()) as site:
        report = await probe(site.url, requests=2, only=("h1.1", "h3"))
    assert "no-h3" in codes(report) and not report.fails("problem")


async def test_http3_without_a_word_about_it_is_found_and_said_to_be_hidden(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    async with http1(tls=files.context()) as site, http3((files.certificate, files.key), port=site.port):
        report = await probe(site.url, requests=2, only=("h1.1", "h3"))
    assert report.versions["h3"].spoken and report.versions["h3"].via == "direct"
    assert "h3-unannounced" in codes(report)


# -- certificates ------------------------------------------------------------------------------------------------------


async def test_a_certificate_of_nobody_known_is_a_remark_on_loopback(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    async with http1(tls=files.context()) as site:
        report = await probe(site.url, requests=2, only=("h1.1",))
        assert codes(report) >= {"certificate-unknown-issuer"} and not report.fails("warn")
        assert report.tls is not None and report.tls.checked is False
        trusted = await probe(site.url, requests=2, only=("h1.1",), ca=files.ca)
        assert trusted.tls is not None and trusted.tls.checked
        assert not any(code.startswith("certificate") for code in codes(trusted))


@pytest.mark.parametrize(
    ("age", "name", "code"),
    [(timedelta(days=100), None, "certificate-expired"), (timedelta(0), "other.example", "certificate-another-name")],
)
async def test_a_broken_certificate_is_a_problem_even_there(
    tmp_path: Path, age: timedelta, name: str | None, code: str
) -> None:
    files = certificate(tmp_path, age=age, name=name)
    async with http1(tls=files.context()) as site:
        # With its authority at hand, only what is really wrong with it is left.
        error = await refused(site.url, only=("h1.1",), ca=files.ca)
        assert error.kind == "certificate" and "--insecure" in str(error)
        assert site.asked == []
        with_system = await probe(site.url, requests=2, only=("h1.1",), insecure=True)
        assert any(each.startswith("certificate-") for each in codes(with_system))
        assert code in codes(with_system) or "certificate-unknown-issuer" in codes(with_system)


async def test_an_authority_that_the_user_named_is_the_only_one_that_counts(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "theirs").mkdir()
    mine, theirs = certificate(tmp_path / "mine"), certificate(tmp_path / "theirs")
    async with http1(tls=theirs.context()) as site:
        assert (await refused(site.url, only=("h1.1", "h3"), ca=mine.ca)).kind == "certificate"
        assert site.asked == []
    async with http3((theirs.certificate, theirs.key)) as port, http1(tls=mine.context()) as site:

        def answer(asked: Asked) -> tuple[bytes, Then]:
            return OK.replace(b"\r\n", f'\r\nAlt-Svc: h3=":{port}"\r\n'.encode(), 1), "keep"

        async with http1(answer, tls=mine.context()) as site:
            report = await probe(site.url, requests=2, only=("h1.1", "h3"), ca=mine.ca)
    assert report.versions["h1.1"].spoken
    assert not report.versions["h3"].spoken
    assert "certificate is not trusted" in (report.versions["h3"].failure or "")


async def test_an_authority_file_that_is_none(tmp_path: Path) -> None:
    from coatcheck.probe import ProbeUsageError

    (tmp_path / "not.pem").write_text("hello")
    for name in ("not.pem", "absent.pem"):
        with pytest.raises(ProbeUsageError, match="cannot be used"):
            await probe("https://127.0.0.1:1/", ca=tmp_path / name)


async def test_a_server_that_asks_for_a_client_certificate(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    context = files.context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(files.ca)

    def refuse(listener: socket.socket) -> None:
        for _ in range(2):  # the first finds the server
            connection, _address = listener.accept()
            with context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as tls:
                with suppress(ssl.SSLError, OSError):
                    tls.do_handshake()
                # Closed with something unread, the alert would be lost to an RST.
                with suppress(OSError):
                    socket.socket.shutdown(tls, socket.SHUT_WR)
                    while os.read(tls.fileno(), 65536):
                        pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)  # a thread cannot be cancelled
        serving = asyncio.create_task(asyncio.to_thread(refuse, listener))
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        error = await refused(url, only=("h1.1",), ca=files.ca)
        await serving
    assert "client certificate" in str(error)


async def test_a_server_without_http2_is_told_by_tls(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    async with http1(tls=files.context("http/1.1")) as site:
        report = await probe(site.url, requests=2, only=("h1.1", "h2"))
    assert report.versions["h1.1"].spoken and not report.versions["h2"].spoken
    assert "no-h2" in codes(report)
    async with http2(tls=files.context("h2")) as site:
        report = await probe(site.url, requests=2, only=("h1.1", "h2"))
    assert not report.versions["h1.1"].spoken and report.versions["h2"].spoken
    assert report.versions["h2"].via == "ALPN"


async def test_it_can_be_cancelled_at_any_moment_and_tells_what_it_knows(tmp_path: Path) -> None:
    from coatcheck.probe.options import Options
    from coatcheck.probe.prober import Prober
    from coatcheck.probe.report import make_report

    def answer(asked: Asked) -> tuple[bytes, Then]:
        return (OK, "keep") if asked.request < 4 else (b"", "hang")

    async with http1(answer) as site:
        prober = Prober(site.url, Options(only=("h1.1", "h2")))
        running = asyncio.create_task(prober.run())
        async with asyncio.timeout(10):
            while len(site.asked) < 4:
                await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        report = make_report(prober)
    assert not report.complete
    assert report.versions["h1.1"].requests == 4
    assert "h2" not in report.versions


async def test_no_socket_outlives_a_probe_that_goes_well(tmp_path: Path) -> None:
    """After its close_notify this server waits for ours, and the last connection was closed just now."""
    files = certificate(tmp_path)
    async with http1(tls=files.context()) as site:
        report = await probe(site.url, only=("h1.0",), requests=2)
        assert report.versions["h1.0"].spoken
        assert sockets_to(site.port) == []


async def test_no_socket_outlives_a_probe_of_a_server_that_takes_nothing() -> None:
    """It never reads, and is asked with more than the system's buffers hold."""
    async with asyncio.timeout(30):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            port = listener.getsockname()[1]
            much = (("x-much", "x" * 8_000_000),)
            await refused(f"http://127.0.0.1:{port}/", only=("h1.1",), timeout=1.0, headers=much)
            assert sockets_to(port) == []


async def test_no_socket_outlives_a_probe_that_is_cancelled(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    async with http1(lambda asked: (b"", "hang"), tls=files.context()) as site:
        probing = asyncio.ensure_future(probe(site.url, only=("h1.1",), requests=2))
        async with asyncio.timeout(10):
            while not site.asked:
                await asyncio.sleep(0.01)
        assert sockets_to(site.port) != []
        probing.cancel()
        await asyncio.wait((probing,))
        assert sockets_to(site.port) == []


async def test_what_we_abort_is_not_said_to_be_the_servers_doing() -> None:
    async with silence() as port:
        trace = Trace()
        record = trace.connection("tcp", "reach")
        link = await open_link(trace, record, Endpoint("127.0.0.1", port), tls=None, timeout=5.0)
        assert trace.sockets == {link}
        link.abort()
        await link.wait_ended()
    assert (record.closed_by, trace.sockets) == ("us", set())
