"""What is told and replied, as messages of coatcheck.v1. Pure; leaves sending to the handlers.

Exactly what REST shows, from the same views.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import TypeAlias

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from coatcheck.manager import SessionInfo
from coatcheck.record import SessionRecord
from coatcheck.server import revocation_feed
from coatcheck.server.activity import Begin, Happening, Heartbeat, Reset, Told
from coatcheck.server.commands import (
    TOPICS,
    Refused,
    Result,
    SessionRenamed,
    SessionsEnded,
    SessionsListed,
    Subscribed,
    Topic,
)
from coatcheck.server.rest.models import session_view
from coatcheck.server.rpc._generated import sessions_pb2 as pb
from coatcheck.server.session_kind import session_kind

__all__ = [
    "ended",
    "identity",
    "listed",
    "refusal",
    "reply",
    "revocation",
    "session_message",
    "told_message",
    "topics_of",
]

Revocation: TypeAlias = revocation_feed.Leading | revocation_feed.Told | revocation_feed.Confirmed | None

_KINDS = {"cookie": pb.SESSION_KIND_COOKIE, "token": pb.SESSION_KIND_TOKEN}
_TOPICS: dict[Topic, pb.Topic] = {"sessions": pb.TOPIC_SESSIONS, "connections": pb.TOPIC_CONNECTIONS}
_EVENTS: dict[str, pb.Event.Kind] = {
    "created": pb.Event.KIND_CREATED,
    "ended": pb.Event.KIND_ENDED,
    "reauthenticated": pb.Event.KIND_REAUTHENTICATED,
    "password_changed": pb.Event.KIND_PASSWORD_CHANGED,
    "refreshed": pb.Event.KIND_REFRESHED,
    "renamed": pb.Event.KIND_RENAMED,
    "opened": pb.Event.KIND_OPENED,
    "closed": pb.Event.KIND_CLOSED,
}
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    503: grpc.StatusCode.UNAVAILABLE,
}


def session_message(session: SessionInfo | SessionRecord, current: str | None) -> pb.Session:
    """Show a session; `current` is the id of the call's own."""
    view = session_view(session, current)
    return pb.Session(
        id=view.id,
        name=view.name,
        current=view.current,
        created_at=_moment(view.created_at),
        authenticated_at=_moment(view.authenticated_at),
        last_seen_at=_moment(view.last_seen_at),
        expires_at=_moment(view.expires_at),
        kind=_KINDS[view.kind],
        method=view.method,
        address=view.address,
        user_agent=view.user_agent,
    )


def listed(result: SessionsListed) -> pb.ListResponse:
    """Show sessions."""
    return pb.ListResponse(sessions=[session_message(info, result.current) for info in result.sessions])


def ended(number: int) -> pb.EndAllResponse:
    """Say how many sessions were ended."""
    return pb.EndAllResponse(ended=number)


def reply(id: str, result: Result) -> pb.Reply:
    """Give the reply to a command."""
    match result:
        case SessionsListed():
            return pb.Reply(id=id, list=listed(result))
        case SessionsEnded():
            return pb.Reply(id=id, end_all=ended(result.ended))
        case SessionRenamed():
            return pb.Reply(id=id, renamed=session_message(result.session, result.current))
        case Subscribed():
            return pb.Reply(id=id, subscribed=pb.Subscribed(topics=[_TOPICS[topic] for topic in result.topics]))
        case Refused():
            code: int = _CODES[result.status].value[0]
            return pb.Reply(id=id, error=pb.Error(code=code, detail=result.detail))


def topics_of(numbers: Iterable[int]) -> tuple[Topic, ...] | None:
    """Give the topics of a request; None if one of them is none."""
    by_number = {int(number): topic for topic, number in _TOPICS.items()}
    found = [by_number.get(number) for number in numbers]
    return None if None in found else tuple(topic for topic in TOPICS if topic in found)


def told_message(told: Told) -> pb.Told:
    """Give what a user is told."""
    match told:
        case Begin():
            return pb.Told(place=told.id, begin=pb.Begin())
        case Reset():
            return pb.Told(place=told.id, reset=pb.Reset())
        case Heartbeat():
            return pb.Told(place=told.id, heartbeat=pb.Heartbeat())
        case Happening():
            event = pb.Event(
                kind=_EVENTS[told.kind], session_id=told.session_id, at=_at(told.at), detail=dict(told.detail)
            )
            return pb.Told(place=told.id, event=event)


def revocation(told: Revocation) -> pb.Revocation:
    """Give what a service is told."""
    match told:
        case None:
            return pb.Revocation(confirmed=pb.Revocation.Confirmed())
        case revocation_feed.Leading():
            since = pb.Revocation.Since(since=_at(told.since), token_lifetime=_duration(told.token_lifetime))
            return pb.Revocation(begin=since) if told.whole else pb.Revocation(reset=since)
        case revocation_feed.Confirmed():
            confirmed = pb.Revocation.Confirmed(place=told.place, after_arrival=_duration(told.after_arrival))
            return pb.Revocation(confirmed=confirmed)
        case revocation_feed.Told(kind="ended"):
            return pb.Revocation(session_ended=pb.Revocation.SessionEnded(session_id=told.id, at=_at(told.at)))
        case revocation_feed.Told(kind="generation"):
            changed = pb.Revocation.GenerationChanged(session_id=told.id, generation=told.generation, at=_at(told.at))
            return pb.Revocation(generation_changed=changed)
        case revocation_feed.Told(kind="user"):
            return pb.Revocation(user_in_doubt=pb.Revocation.UserInDoubt(user_id=told.id, at=_at(told.at)))
        case revocation_feed.Told():
            return pb.Revocation(reset=pb.Revocation.Since(since=_at(told.at)))


def identity(record: SessionRecord) -> pb.CheckResponse:
    """Say whose a credential is."""
    authenticated_at = record.authenticated_at
    found = pb.Identity(
        user_id=record.user_id,
        username=record.about.get("username", ""),
        session_id=record.id,
        session_kind=_KINDS[session_kind(record.about)],
        authenticated_at=None if authenticated_at is None else _at(authenticated_at),
        expires_at=_at(record.expires_at),
    )
    return pb.CheckResponse(identity=found)


def refusal(reason: pb.Refusal.Reason, detail: str) -> pb.CheckResponse:
    """Say why a credential is nobody's."""
    return pb.CheckResponse(refusal=pb.Refusal(reason=reason, detail=detail))


def _moment(moment: datetime | None) -> Timestamp | None:
    return None if moment is None else _at(moment.timestamp())


def _at(seconds: float) -> Timestamp:
    return Timestamp(seconds=int(seconds // 1), nanos=int(seconds % 1 * 1e9))


def _duration(seconds: float) -> Duration:
    made = Duration()
    made.FromNanoseconds(int(seconds * 1e9))
    return made
