"""What the probe counts, against a packet capture of the same run: connections, requests, header bytes, who ended what."""

import subprocess
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from coatcheck.probe import Report, probe
from tests.clients.serving import RunningServer, start_server

TIMEOUT = 120
FIELDS = [
    "ip.src",
    "tcp.srcport",
    "tcp.dstport",
    "udp.srcport",
    "udp.dstport",
    "tcp.flags.syn",
    "tcp.flags.ack",
    "tcp.flags.fin",
    "tcp.flags.reset",
    "tcp.len",
    "quic.long.packet_type",
    "http2.type",
    "http2.length",
    "http2.streamid",
    "http.request.method",
]


@dataclass
class Packet:
    fields: dict[str, str]

    def has(self, name: str) -> bool:
        return self.fields[name] in ("1", "True")

    def many(self, name: str) -> list[str]:
        return [value for value in self.fields[name].split(",") if value]

    @property
    def source(self) -> str:
        return f"{self.fields['ip.src']}:{self.fields['tcp.srcport'] or self.fields['udp.srcport']}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = start_server(tmp_path_factory.mktemp("capture"), "--workers", "1")
    yield running
    assert running.stop() == 0, running.said()


@contextmanager
def capture(directory: Path, port: int) -> Generator[list[Packet]]:
    """Every packet from and to that port on loopback; filled when the block is left."""
    file, said = directory / "run.pcap", directory / "tshark.txt"
    packets: list[Packet] = []
    with said.open("wb") as output:
        process = subprocess.Popen(
            ["tshark", "-i", "lo", "-f", f"port {port}", "-w", str(file), "-B", "64"], stdout=output, stderr=output
        )
    try:
        until = time.monotonic() + 30
        while "Capture started" not in said.read_text() and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(1)  # it says so a little before it is true
        yield packets
        time.sleep(1)  # what is under way
    finally:
        process.terminate()
        process.wait(20)
    command = ["tshark", "-r", str(file), "-d", f"tcp.port=={port},http", "-T", "fields"]
    command += ["-E", "separator=/t", *(part for name in FIELDS for part in ("-e", name))]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in printed.splitlines():
        packets.append(Packet(dict(zip(FIELDS, line.split("\t"), strict=True))))
    assert packets, said.read_text()


def opened(packets: list[Packet]) -> Counter[str]:
    """From where TCP connections were opened."""
    return Counter(each.source for each in packets if each.has("tcp.flags.syn") and not each.has("tcp.flags.ack"))


async def test_over_plain_tcp_every_count_agrees(served: RunningServer, tmp_path: Path) -> None:
    with capture(tmp_path, served.http_port) as packets:
        report = await probe(f"{served.http}/v1/connection", only=("h1.0", "h1.1", "h2"))
    timeline = report.timeline
    assert opened(packets) == Counter(each.local for each in timeline)
    assert report.connections_opened == len(timeline)
    client = [each for each in packets if each.fields["tcp.dstport"] == str(served.http_port)]
    asked = Counter(each.source for each in client for _ in each.many("http.request.method"))
    # The preface of HTTP/2 looks like a request ("PRI") to whoever reads HTTP/1.
    over_http1 = {each.local: len(each.requests) for each in timeline if each.version in ("h1.0", "h1.1")}
    assert {source: asked[source] for source in over_http1} == over_http1
    sent_bytes: Counter[str] = Counter()
    for each in client:
        sent_bytes[each.source] += int(each.fields["tcp.len"] or 0)
    for each in timeline:
        if each.version in ("h1.0", "h1.1"):
            assert sent_bytes[each.local] == sum(request.request_header_bytes for request in each.requests)
    assert header_frames(packets, served.http_port) == counted_headers(report)
    ends = first_ends(packets, report, served.http_port)
    told = {each.local: each.closed_by for each in timeline}
    assert {source: ends.get(source) for source in told} == told
    assert set(told.values()) == {"us", "server"}


def first_ends(packets: list[Packet], report: Report, port: int) -> dict[str, str]:
    """Who sent the first FIN or RST, by the client's address and port."""
    ours = {each.local for each in report.timeline}
    found: dict[str, str] = {}
    for each in packets:
        if each.has("tcp.flags.fin") or each.has("tcp.flags.reset"):
            from_us = each.fields["tcp.dstport"] == str(port)
            number = each.fields["tcp.srcport" if from_us else "tcp.dstport"]
            client = next(local for local in ours if local.endswith(f":{number}"))
            found.setdefault(client, "us" if from_us else "server")
    return found


def header_frames(packets: list[Packet], port: int) -> dict[tuple[str, int, str], int]:
    """Bytes of HPACK by client, stream and direction."""
    found: Counter[tuple[str, int, str]] = Counter()
    for each in packets:
        ours = each.fields["tcp.dstport"] == str(port)
        client = each.source if ours else f"127.0.0.1:{each.fields['tcp.dstport']}"
        frames = zip(each.many("http2.type"), each.many("http2.length"), each.many("http2.streamid"), strict=True)
        for kind, length, stream in frames:
            if int(kind) == 1:
                found[(client, int(stream), "request" if ours else "response")] += int(length)
    return dict(found)


def counted_headers(report: Report) -> dict[tuple[str, int, str], int]:
    found: dict[tuple[str, int, str], int] = {}
    for connection in report.timeline:
        for request in connection.requests:
            if connection.version == "h2" and request.stream is not None:
                found[(connection.local, request.stream, "request")] = request.request_header_bytes
                found[(connection.local, request.stream, "response")] = request.response_header_bytes
    return found


async def test_over_tls_and_quic_connections_and_their_ends_agree(served: RunningServer, tmp_path: Path) -> None:
    port = str(served.https_port)
    with capture(tmp_path, served.https_port) as packets:
        report = await probe(served.https, ca=served.ca, idle=None)
    over_tcp = [each for each in report.timeline if each.version != "h3"]
    over_quic = [each for each in report.timeline if each.version == "h3"]
    assert opened(packets) == Counter(each.local for each in over_tcp)
    ends = first_ends(packets, report, served.https_port)
    told = {each.local: each.closed_by for each in over_tcp if each.how in ("FIN", "GOAWAY", "RST")}
    # Where we said goodbye first, in TLS, the server's FIN may still be the first on the wire.
    by_server = {source for source, who in told.items() if who == "server"}
    assert len(by_server) >= 20
    assert {source: ends.get(source) for source in by_server} == dict.fromkeys(by_server, "server")

    to_server = [each for each in packets if each.fields["udp.dstport"] == port]
    began = {each.source for each in to_server if "0" in each.many("quic.long.packet_type")}
    assert began == {each.local for each in over_quic}
    # The connection in turn moved to another port, then to another address.
    elsewhere = {each.source for each in to_server} - began
    assert len(elsewhere) == 2
    assert {source.rpartition(":")[0] for source in elsewhere} == {"127.0.0.1", "127.0.0.2"}
