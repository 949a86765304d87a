"""A client that calls an ASGI application in process, keeps no state, and shows every header line as it was sent."""

from collections.abc import Iterable
from typing import Any

Header = tuple[bytes, bytes]


class Answer:
    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self.status: int = messages[0]["status"]
        self.headers: list[Header] = [(name.lower(), value) for name, value in messages[0]["headers"]]
        self.body = b"".join(message.get("body", b"") for message in messages[1:])

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    def one(self, name: bytes) -> bytes | None:
        values = self.all(name)
        assert len(values) <= 1, f"{name!r} was sent {len(values)} times"
        return values[0] if values else None

    @property
    def cookie(self) -> bytes | None:
        """The session cookie that was set, as a Cookie header has it; None if none was set."""
        line = self.one(b"set-cookie")
        return None if line is None else line.split(b";")[0]


async def call(
    app: Any,
    path: str,
    *,
    method: str = "GET",
    cookie: bytes | None = None,
    headers: Iterable[Header] = (),
    scheme: str = "https",
) -> Answer:
    lines: list[Header] = [(b"host", b"app.example"), *headers]
    if cookie is not None:
        lines.append((b"cookie", cookie))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": scheme,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": lines,
    }
    messages: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    await app(scope, receive, send)
    return Answer(messages)
