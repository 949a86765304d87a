"""gRPC-Web's framing, binary and text, for whatever client sends the request (gRPC's own PROTOCOL-WEB.md)."""

import base64

__all__ = ["BINARY", "TEXT", "frame", "unframe"]

BINARY = "application/grpc-web+proto"
TEXT = "application/grpc-web-text+proto"
_TRAILERS = 0x80


def frame(message: bytes, *, text: bool = False) -> bytes:
    """Give the body of a request with one message."""
    body = b"\0" + len(message).to_bytes(4, "big") + message
    return base64.b64encode(body) if text else body


def unframe(body: bytes, *, text: bool = False) -> tuple[list[bytes], dict[str, str]]:
    """Give the messages of an answer, and the trailers in its body."""
    if text:
        # Each piece is padded by itself.
        body = b"".join(base64.b64decode(body[start : start + 4]) for start in range(0, len(body), 4))
    messages: list[bytes] = []
    trailers: dict[str, str] = {}
    while body:
        flag, length = body[0], int.from_bytes(body[1:5], "big")
        data, body = body[5 : 5 + length], body[5 + length :]
        if flag & _TRAILERS:
            trailers |= {
                name.strip(): value.strip()
                for name, _, value in (line.partition(":") for line in data.decode().splitlines())
            }
        else:
            messages.append(data)
    return messages, trailers
