"""GET a URL over HTTP/3 with curl's cookie jar: `python examples/http3_get.py URL --cacert FILE [--cookie JAR]`.

Debian's curl does not speak HTTP/3, so this does, with aioquic.
"""

import argparse
import asyncio
import ssl
from collections import deque
from pathlib import Path
from urllib.parse import urlsplit

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent


class Client(QuicConnectionProtocol):
    def get(self, headers: list[tuple[bytes, bytes]]) -> "asyncio.Future[bytes]":
        self.http = H3Connection(self._quic)
        self.body: deque[bytes] = deque()
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.http.send_headers(self._quic.get_next_available_stream_id(), headers, end_stream=True)
        self.transmit()
        return self.done

    def quic_event_received(self, event: QuicEvent) -> None:
        for h3_event in self.http.handle_event(event) if hasattr(self, "http") else ():
            if isinstance(h3_event, DataReceived):
                self.body.append(h3_event.data)
            if isinstance(h3_event, DataReceived | HeadersReceived) and h3_event.stream_ended:
                self.done.set_result(b"".join(self.body))


def cookies(jar: Path, host: str) -> list[str]:
    """Read curl's jar: seven columns, and a prefix on HttpOnly cookies that other readers take for a comment."""
    rows = [line.removeprefix("#HttpOnly_").split("\t") for line in jar.read_text().splitlines()]
    return [f"{row[5]}={row[6]}" for row in rows if len(row) == 7 and row[0] == host]


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--cacert", required=True)
    parser.add_argument("--cookie")
    options = parser.parse_args()
    url = urlsplit(options.url)
    host = url.hostname or "localhost"
    headers = [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", url.netloc.encode()),
        (b":path", (url.path or "/").encode()),
    ]
    if options.cookie:
        headers += [(b"cookie", cookie.encode()) for cookie in cookies(Path(options.cookie), host)]
    configuration = QuicConfiguration(alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_REQUIRED, server_name=host)
    configuration.load_verify_locations(options.cacert)
    async with connect("127.0.0.1", url.port or 443, configuration=configuration, create_protocol=Client) as client:
        print((await asyncio.wait_for(client.get(headers), 10)).decode())


asyncio.run(main())
