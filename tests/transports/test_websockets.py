"""A WebSocket opens over HTTP/1.1, 2 and 3 alike, and knows which it came on."""

import asyncio
import json
import struct
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
from websockets.asyncio.client import connect

from tests.clients.h3 import connect_h3
from tests.clients.serving import RunningServer


async def test_over_http_1_1(echo: RunningServer) -> None:
    async with connect(f"wss://localhost:{echo.https_port}/", ssl=echo.tls(), host="127.0.0.1") as socket:
        facts = json.loads(await asyncio.wait_for(socket.recv(), 5))
        await socket.send("hello")
        assert await asyncio.wait_for(socket.recv(), 5) == "hello"
    assert (facts["protocol"], facts["scheme"]) == ("HTTP/1.1", "wss")


async def test_over_http_2(echo: RunningServer) -> None:
    context = echo.tls()
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", echo.https_port, ssl=context, server_hostname="localhost"
    )
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    writer.write(connection.data_to_send())
    received = b""
    asked = False
    try:
        async with asyncio.timeout(10):
            while b"hello" not in received:
                for event in connection.receive_data(await reader.read(65536)):
                    if isinstance(event, h2.events.RemoteSettingsChanged) and not asked:
                        asked = True
                        assert connection.remote_settings.enable_connect_protocol == 1
                        head = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https")]
                        head += [(":authority", "localhost"), (":path", "/"), ("sec-websocket-version", "13")]
                        connection.send_headers(1, head)
                    elif isinstance(event, h2.events.ResponseReceived):
                        assert dict(event.headers)[":status"] == "200"
                        connection.send_data(1, text_frame("hello"))
                    elif isinstance(event, h2.events.DataReceived):
                        received += event.data
                writer.write(connection.data_to_send())
    finally:
        writer.close()
    assert facts_in(received)["protocol"] == "HTTP/2"


async def test_over_http_3(echo: RunningServer) -> None:
    async with connect_h3(echo.https_port, echo.ca) as client:
        stream = client.websocket("/")
        assert (await stream.started()).status == 200
        stream.send(text_frame("hello"))
        received = b""
        while b"hello" not in received:
            received += await stream.read() or b""
        stream.cancel()
    facts = facts_in(received)
    assert (facts["protocol"], facts["scheme"]) == ("HTTP/3", "wss")


def text_frame(text: str) -> bytes:
    """RFC 6455, section 5.2, masked with zeros, which leave the text as it is."""
    return bytes([0x81, 0x80 | len(text)]) + bytes(4) + text.encode()


def facts_in(received: bytes) -> Any:
    (length,) = struct.unpack_from(">H", received, 2)
    return json.loads(received[4 : 4 + length])
