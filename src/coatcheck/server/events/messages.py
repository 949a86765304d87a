"""What is told, and what is replied to a command, as JSON. Pure; leaves sending to `socket` and `stream`."""

from typing import Any

import msgspec

from coatcheck.server.activity import Begin, Happening, Heartbeat, Reset, Told
from coatcheck.server.commands import (
    Refused,
    RequestId,
    Result,
    SessionRenamed,
    SessionsEnded,
    SessionsListed,
    Subscribed,
    Topic,
)
from coatcheck.server.rest.models import moment, session_view

__all__ = ["HEARTBEAT", "as_event", "as_message", "as_reply", "topic_of"]

HEARTBEAT = 15.0
"""Seconds between two heartbeats while nothing else is told."""

_json = msgspec.json.Encoder()


def topic_of(happening: Happening) -> Topic:
    """Tell to which topic something belongs."""
    return "connections" if happening.kind in ("opened", "closed") else "sessions"


def as_event(told: Told) -> str:
    """Give what is told as a server-sent event (HTML, section 9.2.6).

    A heartbeat is a comment, and an id: without data it is no event, but moves on the place to resume from.
    """
    if isinstance(told, Heartbeat):
        return f":\nid: {told.id}\n\n"
    name, data = ("begin" if isinstance(told, Begin) else "reset"), "{}"
    if isinstance(told, Happening):
        name, data = told.kind, _json.encode(_happening(told)).decode()
    return f"event: {name}\nid: {told.id}\ndata: {data}\n\n"


def as_message(told: Told) -> str:
    """Give what is told as a WebSocket's message."""
    message: dict[str, Any]
    match told:
        case Happening():
            message = {"type": "event", "place": told.id, "event": told.kind, **_happening(told)}
        case Begin():
            message = {"type": "begin", "place": told.id}
        case Reset():
            message = {"type": "reset", "place": told.id}
        case Heartbeat():
            message = {"type": "heartbeat", "place": told.id}
    return _json.encode(message).decode()


def as_reply(id: RequestId | None, result: Result) -> str:
    """Give the reply to a command: `reply` with a result, or `error`."""
    if isinstance(result, Refused):
        message = {"type": "error", "id": id, "status": result.status, "detail": result.detail}
    else:
        message = {"type": "reply", "id": id, "result": _result(result)}
    return _json.encode(message).decode()


def _result(result: SessionsListed | SessionsEnded | SessionRenamed | Subscribed) -> Any:
    match result:
        case SessionsListed():
            shown = [session_view(info, result.current) for info in result.sessions]
            return {"sessions": [view.model_dump(mode="json") for view in shown]}
        case SessionRenamed():
            return {"session": session_view(result.session, result.current).model_dump(mode="json")}
        case SessionsEnded() | Subscribed():
            return result


def _happening(told: Happening) -> dict[str, Any]:
    return {"session": told.session_id, "at": moment(told.at), "detail": told.detail}
