# Written by `make proto`: do not edit.
import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessionKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SESSION_KIND_UNSPECIFIED: _ClassVar[SessionKind]
    SESSION_KIND_COOKIE: _ClassVar[SessionKind]
    SESSION_KIND_TOKEN: _ClassVar[SessionKind]

class Topic(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TOPIC_UNSPECIFIED: _ClassVar[Topic]
    TOPIC_SESSIONS: _ClassVar[Topic]
    TOPIC_CONNECTIONS: _ClassVar[Topic]
SESSION_KIND_UNSPECIFIED: SessionKind
SESSION_KIND_COOKIE: SessionKind
SESSION_KIND_TOKEN: SessionKind
TOPIC_UNSPECIFIED: Topic
TOPIC_SESSIONS: Topic
TOPIC_CONNECTIONS: Topic

class Session(_message.Message):
    __slots__ = ("id", "name", "current", "created_at", "authenticated_at", "last_seen_at", "expires_at", "kind", "method", "address", "user_agent")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    AUTHENTICATED_AT_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    USER_AGENT_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    current: bool
    created_at: _timestamp_pb2.Timestamp
    authenticated_at: _timestamp_pb2.Timestamp
    last_seen_at: _timestamp_pb2.Timestamp
    expires_at: _timestamp_pb2.Timestamp
    kind: SessionKind
    method: str
    address: str
    user_agent: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., current: _Optional[bool] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping[str, object]]] = ..., authenticated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping[str, object]]] = ..., last_seen_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping[str, object]]] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping[str, object]]] = ..., kind: _Optional[_Union[SessionKind, str]] = ..., method: _Optional[str] = ..., address: _Optional[str] = ..., user_agent: _Optional[str] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("sessions",)
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[Session]
    def __init__(self, sessions: _Optional[_Iterable[_Union[Session, _Mapping[str, object]]]] = ...) -> None: ...

class EndRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class EndResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EndAllRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EndAllResponse(_message.Message):
    __slots__ = ("ended",)
    ENDED_FIELD_NUMBER: _ClassVar[int]
    ended: int
    def __init__(self, ended: _Optional[int] = ...) -> None: ...

class CheckRequest(_message.Message):
    __slots__ = ("cookie", "access_token", "method", "origin", "sec_fetch_site", "plain_http", "max_age")
    COOKIE_FIELD_NUMBER: _ClassVar[int]
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    SEC_FETCH_SITE_FIELD_NUMBER: _ClassVar[int]
    PLAIN_HTTP_FIELD_NUMBER: _ClassVar[int]
    MAX_AGE_FIELD_NUMBER: _ClassVar[int]
    cookie: str
    access_token: str
    method: str
    origin: str
    sec_fetch_site: str
    plain_http: bool
    max_age: _duration_pb2.Duration
    def __init__(self, cookie: _Optional[str] = ..., access_token: _Optional[str] = ..., method: _Optional[str] = ..., origin: _Optional[str] = ..., sec_fetch_site: _Optional[str] = ..., plain_http: _Optional[bool] = ..., max_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping[str, object]]] = ...) -> None: ...

class CheckResponse(_message.Message):
    __slots__ = ("identity", "refusal")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    identity: Identity
    refusal: Refusal
    def __init__(self, identity: _Optional[_Union[Identity, _Mapping[str, object]]] = ..., refusal: _Optional[_Union[Refusal, _Mapping[str, object]]] = ...) -> None: ...

class Identity(_message.Message):
    __slots__ = ("user_id", "username", "session_id", "session_kind", "authenticated_at", "expires_at")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_KIND_FIELD_NUMBER: _ClassVar[int]
    AUTHENTICATED_AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    username: str
    session_id: str
    session_kind: SessionKind
    authenticated_at: _timestamp_pb2.Timestamp
    expires_at: _timestamp_pb2.Timestamp
    def __init__(self, user_id: _Optional[str] = ..., username: _Optional[str] = ..., session_id: _Optional[str] = ..., session_kind: _Optional[_Union[SessionKind, str]] = ..., authenticated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping[str, object]]] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping[str, object]]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("reason", "detail")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[Refusal.Reason]
        REASON_NOBODY: _ClassVar[Refusal.Reason]
        REASON_INVALID_TOKEN: _ClassVar[Refusal.Reason]
        REASON_OTHER_SITE: _ClassVar[Refusal.Reason]
        REASON_LOGIN_TOO_OLD: _ClassVar[Refusal.Reason]
    REASON_UNSPECIFIED: Refusal.Reason
    REASON_NOBODY: Refusal.Reason
    REASON_INVALID_TOKEN: Refusal.Reason
    REASON_OTHER_SITE: Refusal.Reason
    REASON_LOGIN_TOO_OLD: Refusal.Reason
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    reason: Refusal.Reason
    detail: str
    def __init__(self, reason: _Optional[_Union[Refusal.Reason, str]] = ..., detail: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("after", "topics")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    after: str
    topics: _containers.RepeatedScalarFieldContainer[Topic]
    def __init__(self, after: _Optional[str] = ..., topics: _Optional[_Iterable[_Union[Topic, str]]] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("activity", "revocation")
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    REVOCATION_FIELD_NUMBER: _ClassVar[int]
    activity: Told
    revocation: Revocation
    def __init__(self, activity: _Optional[_Union[Told, _Mapping[str, object]]] = ..., revocation: _Optional[_Union[Revocation, _Mapping[str, object]]] = ...) -> None: ...

class Told(_message.Message):
    __slots__ = ("place", "begin", "reset", "heartbeat", "event")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    place: str
    begin: Begin
    reset: Reset
    heartbeat: Heartbeat
    event: Event
    def __init__(self, place: _Optional[str] = ..., begin: _Optional[_Union[Begin, _Mapping[str, object]]] = ..., reset: _Optional[_Union[Reset, _Mapping[str, object]]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping[str, object]]] = ..., event: _Optional[_Union[Event, _Mapping[str, object]]] = ...) -> None: ...

class Begin(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Reset(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Event(_message.Message):
    __slots__ = ("kind", "session_id", "at", "detail")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Event.Kind]
        KIND_CREATED: _ClassVar[Event.Kind]
        KIND_ENDED: _ClassVar[Event.Kind]
        KIND_REAUTHENTICATED: _ClassVar[Event.Kind]
        KIND_PASSWORD_CHANGED: _ClassVar[Event.Kind]
        KIND_REFRESHED: _ClassVar[Event.Kind]
        KIND_RENAMED: _ClassVar[Event.Kind]
        KIND_OPENED: _ClassVar[Event.Kind]
        KIND_CLOSED: _ClassVar[Event.Kind]
    KIND_UNSPECIFIED: Event.Kind
    KIND_CREATED: Event.Kind
    KIND_ENDED: Event.Kind
    KIND_REAUTHENTICATED: Event.Kind
    KIND_PASSWORD_CHANGED: Event.Kind
    KIND_REFRESHED: Event.Kind
    KIND_RENAMED: Event.Kind
    KIND_OPENED: Event.Kind
    KIND_CLOSED: Event.Kind
    class DetailEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KIND_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    kind: Event.Kind
    session_id: str
    at: _timestamp_pb2.Timestamp
    detail: _containers.ScalarMap[str, str]
    def __init__(self, kind: _Optional[_Union[Event.Kind, str]] = ..., session_id: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping[str, object]]] = ..., detail: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Revocation(_message.Message):
    __slots__ = ("begin", "reset", "session_ended", "generation_changed", "user_in_doubt", "confirmed")
    class Since(_message.Message):
        __slots__ = ("since", "token_lifetime")
        SINCE_FIELD_NUMBER: _ClassVar[int]
        TOKEN_LIFETIME_FIELD_NUMBER: _ClassVar[int]
        since: _timestamp_pb2.Timestamp
        token_lifetime: _duration_pb2.Duration
        def __init__(self, since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping[str, object]]] = ..., token_lifetime: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping[str, object]]] = ...) -> None: ...
    class SessionEnded(_message.Message):
        __slots__ = ("session_id", "at")
        SESSION_ID_FIELD_NUMBER: _ClassVar[int]
        AT_FIELD_NUMBER: _ClassVar[int]
        session_id: str
        at: _timestamp_pb2.Timestamp
        def __init__(self, session_id: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping[str, object]]] = ...) -> None: ...
    class GenerationChanged(_message.Message):
        __slots__ = ("session_id", "generation", "at")
        SESSION_ID_FIELD_NUMBER: _ClassVar[int]
        GENERATION_FIELD_NUMBER: _ClassVar[int]
        AT_FIELD_NUMBER: _ClassVar[int]
        session_id: str
        generation: int
        at: _timestamp_pb2.Timestamp
        def __init__(self, session_id: _Optional[str] = ..., generation: _Optional[int] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping[str, object]]] = ...) -> None: ...
    class UserInDoubt(_message.Message):
        __slots__ = ("user_id", "at")
        USER_ID_FIELD_NUMBER: _ClassVar[int]
        AT_FIELD_NUMBER: _ClassVar[int]
        user_id: str
        at: _timestamp_pb2.Timestamp
        def __init__(self, user_id: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping[str, object]]] = ...) -> None: ...
    class Confirmed(_message.Message):
        __slots__ = ("place", "after_arrival")
        PLACE_FIELD_NUMBER: _ClassVar[int]
        AFTER_ARRIVAL_FIELD_NUMBER: _ClassVar[int]
        place: str
        after_arrival: _duration_pb2.Duration
        def __init__(self, place: _Optional[str] = ..., after_arrival: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping[str, object]]] = ...) -> None: ...
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    SESSION_ENDED_FIELD_NUMBER: _ClassVar[int]
    GENERATION_CHANGED_FIELD_NUMBER: _ClassVar[int]
    USER_IN_DOUBT_FIELD_NUMBER: _ClassVar[int]
    CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    begin: Revocation.Since
    reset: Revocation.Since
    session_ended: Revocation.SessionEnded
    generation_changed: Revocation.GenerationChanged
    user_in_doubt: Revocation.UserInDoubt
    confirmed: Revocation.Confirmed
    def __init__(self, begin: _Optional[_Union[Revocation.Since, _Mapping[str, object]]] = ..., reset: _Optional[_Union[Revocation.Since, _Mapping[str, object]]] = ..., session_ended: _Optional[_Union[Revocation.SessionEnded, _Mapping[str, object]]] = ..., generation_changed: _Optional[_Union[Revocation.GenerationChanged, _Mapping[str, object]]] = ..., user_in_doubt: _Optional[_Union[Revocation.UserInDoubt, _Mapping[str, object]]] = ..., confirmed: _Optional[_Union[Revocation.Confirmed, _Mapping[str, object]]] = ...) -> None: ...

class ConverseRequest(_message.Message):
    __slots__ = ("id", "list", "end", "end_all", "rename", "subscribe")
    ID_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    END_ALL_FIELD_NUMBER: _ClassVar[int]
    RENAME_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    id: str
    list: ListRequest
    end: EndRequest
    end_all: EndAllRequest
    rename: RenameRequest
    subscribe: SubscribeRequest
    def __init__(self, id: _Optional[str] = ..., list: _Optional[_Union[ListRequest, _Mapping[str, object]]] = ..., end: _Optional[_Union[EndRequest, _Mapping[str, object]]] = ..., end_all: _Optional[_Union[EndAllRequest, _Mapping[str, object]]] = ..., rename: _Optional[_Union[RenameRequest, _Mapping[str, object]]] = ..., subscribe: _Optional[_Union[SubscribeRequest, _Mapping[str, object]]] = ...) -> None: ...

class RenameRequest(_message.Message):
    __slots__ = ("session_id", "name")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    name: str
    def __init__(self, session_id: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class SubscribeRequest(_message.Message):
    __slots__ = ("topics", "after")
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    topics: _containers.RepeatedScalarFieldContainer[Topic]
    after: str
    def __init__(self, topics: _Optional[_Iterable[_Union[Topic, str]]] = ..., after: _Optional[str] = ...) -> None: ...

class ConverseResponse(_message.Message):
    __slots__ = ("reply", "activity")
    REPLY_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    reply: Reply
    activity: Told
    def __init__(self, reply: _Optional[_Union[Reply, _Mapping[str, object]]] = ..., activity: _Optional[_Union[Told, _Mapping[str, object]]] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("id", "list", "end", "end_all", "renamed", "subscribed", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    END_ALL_FIELD_NUMBER: _ClassVar[int]
    RENAMED_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIBED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    list: ListResponse
    end: EndResponse
    end_all: EndAllResponse
    renamed: Session
    subscribed: Subscribed
    error: Error
    def __init__(self, id: _Optional[str] = ..., list: _Optional[_Union[ListResponse, _Mapping[str, object]]] = ..., end: _Optional[_Union[EndResponse, _Mapping[str, object]]] = ..., end_all: _Optional[_Union[EndAllResponse, _Mapping[str, object]]] = ..., renamed: _Optional[_Union[Session, _Mapping[str, object]]] = ..., subscribed: _Optional[_Union[Subscribed, _Mapping[str, object]]] = ..., error: _Optional[_Union[Error, _Mapping[str, object]]] = ...) -> None: ...

class Subscribed(_message.Message):
    __slots__ = ("topics",)
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    topics: _containers.RepeatedScalarFieldContainer[Topic]
    def __init__(self, topics: _Optional[_Iterable[_Union[Topic, str]]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "detail")
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    code: int
    detail: str
    def __init__(self, code: _Optional[int] = ..., detail: _Optional[str] = ...) -> None: ...
