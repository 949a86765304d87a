"""HTTP/1.0 and 1.1 byte by byte, over a socket with or without TLS: shows what clients with good manners hide."""

import asyncio
import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

Headers = Sequence[tuple[str, str]]
TIMEOUT = 10.0


@dataclass(frozen=True)
class RawResponse:
    version: str
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The values under that name, joined; None if there is none."""
        values = [value for key, value in self.headers if key == name.lower()]
        return ", ".join(values) if values else None

    def json(self) -> Any:
        return json.loads(self.body)


class RawConnection:
    """One TCP connection. Use as `async with await RawConnection.open(...) as connection`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(
        cls, port: int, tls: ssl.SSLContext | None = None, *, host: str = "127.0.0.1", name: str = "localhost"
    ) -> "RawConnection":
        opened = asyncio.open_connection(host, port, ssl=tls, server_hostname=name if tls else None)
        return cls(*await asyncio.wait_for(opened, TIMEOUT))

    async def __aenter__(self) -> "RawConnection":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.close()
        try:
            await asyncio.wait_for(self.writer.wait_closed(), TIMEOUT)
        except (OSError, TimeoutError):
            pass

    async def request(
        self,
        method: str,
        target: str,
        headers: Headers = (),
        body: bytes = b"",
        *,
        version: str = "1.1",
        host: str | None = "localhost",
    ) -> RawResponse:
        """Send one request and read its response. `host=None` sends no Host header."""
        lines = [f"{method} {target} HTTP/{version}"]
        if host is not None:
            lines.append(f"host: {host}")
        if body:
            lines.append(f"content-length: {len(body)}")
        lines += [f"{name}: {value}" for name, value in headers]
        await self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        return await self.response(method)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), TIMEOUT)

    async def response(self, method: str = "GET") -> RawResponse:
        """Read one response: body by chunks, by Content-Length, or until the connection ends (RFC 9112, section 6)."""
        return await asyncio.wait_for(self._response(method), TIMEOUT)

    async def closed_by_server(self, within: float = TIMEOUT) -> bool:
        """Whether the server ends the connection without another byte."""
        try:
            return await asyncio.wait_for(self.reader.read(1), within) == b""
        except TimeoutError:
            return False
        except OSError:
            return True

    async def _response(self, method: str) -> RawResponse:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *rest = head.rstrip("\r\n").split("\r\n")
        version, status = first.split(" ")[:2]
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in rest)]
        found = dict(headers)
        if method == "HEAD" or int(status) in (101, 204, 304):
            body = b""
        elif "chunked" in found.get("transfer-encoding", ""):
            body = await self._chunks()
        elif "content-length" in found:
            body = await self.reader.readexactly(int(found["content-length"]))
        else:
            body = await self.reader.read()
        return RawResponse(version, int(status), headers, body)

    async def _chunks(self) -> bytes:
        body = b""
        while size := int((await self.reader.readline()).split(b";")[0], 16):
            body += await self.reader.readexactly(size)
            await self.reader.readline()
        while await self.reader.readline() != b"\r\n":
            pass
        return body
