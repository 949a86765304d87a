"""What happens at the edges: a store that goes away at the worst moment, a response that has left, a socket that is gone."""

import asyncio
import json
import logging
from typing import Any

import pytest

from coatcheck import (
    Key,
    MissingDependency,
    Session,
    SessionEnded,
    SessionEvent,
    SessionMiddleware,
    Sessions,
    StoreUnavailable,
    TokenRefused,
    UsageError,
    session_of,
)
from coatcheck.stores import open_store
from coatcheck.stores.contract import Change
from coatcheck.stores.memory import MemoryStore
from coatcheck.testing import GatedStore, ManualClock
from tests.core.asgi_client import call
from tests.core.test_websocket import Socket


class Node:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = GatedStore(MemoryStore(clock=self.clock))
        self.sessions = Sessions(self.store, clock=self.clock, idle_timeout=1000.0, touch_interval=10.0)

    async def log_in(self) -> tuple[Session, bytes]:
        session = await self.sessions.load(None)
        await session.log_in("user", about={"method": "password"})
        assert session.cookie_change is not None
        return session, (session.cookie_change.token or "").encode()

    def app(self, handler: Any, *, started: bool = False) -> SessionMiddleware:
        """An application that calls a handler with the session, before or after its response has started."""

        async def application(scope: Any, receive: Any, send: Any) -> None:
            session = session_of(scope)
            start = {"type": "http.response.start", "status": 200, "headers": []}
            if started:
                await send(start)
            result = await handler(session)
            if not started:
                await send(start)
            await send({"type": "http.response.body", "body": json.dumps(result).encode()})

        return SessionMiddleware(application, self.sessions)


def cookie(token: bytes) -> bytes:
    return b"__Host-session=" + token


async def test_a_visitor_of_whom_nothing_is_stored_is_nobody_throughout() -> None:
    visitor = await Node().sessions.load(None)
    assert (visitor.id, visitor.user_id, visitor.created_at, visitor.authenticated_at) == (None, None, None, None)
    assert (visitor.last_seen_at, visitor.expires_at, dict(visitor.about), visitor.generation) == (None, None, {}, 0)
    assert visitor.is_new
    assert not visitor.is_authenticated
    visitor.mark_accessed()
    assert visitor.used


async def test_a_logged_in_session_tells_its_times() -> None:
    node = Node()
    session, _ = await node.log_in()
    now = node.clock.time()
    assert (session.created_at, session.authenticated_at, session.last_seen_at) == (now, now, now)
    assert session.expires_at == now + node.sessions.lifetime
    assert (dict(session.about), session.generation, session.is_new) == ({"method": "password"}, 1, False)


async def test_other_scopes_pass_untouched() -> None:
    seen: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])
        assert "session" not in scope

    await SessionMiddleware(application, "memory://")({"type": "other"}, None, None)  # type: ignore[arg-type]
    assert seen == ["other"]


async def test_a_store_that_goes_away_after_the_response_has_started_is_the_servers_to_end() -> None:
    node = Node()
    _, token = await node.log_in()

    async def handler(session: Session) -> None:
        node.store.down = True
        await session.save() if session.touched() else await session.reload()

    with pytest.raises(StoreUnavailable):
        await call(node.app(handler, started=True), "/", cookie=cookie(token))


async def test_what_is_changed_late_while_the_store_is_away_is_lost_and_said_to_be(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = Node()
    _, token = await node.log_in()

    async def handler(session: Session) -> None:
        session["late"] = 1
        node.store.down = True

    answer = await call(node.app(handler, started=True), "/", cookie=cookie(token))
    assert answer.status == 200
    assert "after the response had started is lost" in caplog.text


async def test_a_cookie_stands_when_the_store_goes_away_right_after_the_verb() -> None:
    node = Node()

    async def handler(session: Session) -> None:
        await session.log_in("user")
        node.store.down = True
        node.sessions.cache.clear()

    answer = await call(node.app(handler), "/")
    assert answer.status == 200
    assert answer.cookie is not None


async def test_on_localhost_over_plain_http_no_warning_is_due(caplog: pytest.LogCaptureFixture) -> None:
    node = Node()

    async def handler(session: Session) -> None:
        await session.log_in("user")

    scope_headers = [(b"host", b"localhost:8000")]
    app = node.app(handler)
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    await app(
        {"type": "http", "method": "POST", "scheme": "http", "path": "/", "headers": scope_headers},
        None,
        send,  # type: ignore[arg-type]
    )
    assert any(name == b"set-cookie" for name, _ in messages[0]["headers"])
    assert "testserver" not in caplog.text


async def test_a_server_starts_with_its_store_away_and_serves_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    node = Node()

    class Away(GatedStore):
        async def start(self) -> None:
            if self.down:
                raise StoreUnavailable("away")

    store = Away(MemoryStore())
    store.down = True
    sessions = Sessions(store)
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        store.down = False
        assert (await sessions.load(None)).user_id is None
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await SessionMiddleware(application, sessions)({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert "tried again with each request" in caplog.text
    del node


async def test_a_websocket_may_begin_a_session_when_it_is_accepted() -> None:
    node = Node()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        session_of(scope)["cart"] = ["hat"]
        await send({"type": "websocket.accept", "headers": [(b"x-own", b"1")]})
        session_of(scope)["late"] = True
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async with node.sessions:
        socket = Socket(SessionMiddleware(application, node.sessions))
        accepted = await socket.next()
        headers = dict(accepted["headers"])
        assert headers[b"x-own"] == b"1"
        token = headers[b"set-cookie"].split(b";")[0].split(b"=", 1)[1]
        socket.incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await asyncio.wait_for(socket.task, 5)
        assert dict(await node.sessions.load(token)) == {"cart": ["hat"], "late": True}


async def test_a_websocket_that_fails_discards_what_was_pending_and_one_that_closes_itself_is_left_alone() -> None:
    node = Node()

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        session_of(scope)["pending"] = 1
        raise ZeroDivisionError

    async def closing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 1000})
        await asyncio.sleep(0.05)
        assert (await receive())["type"] == "websocket.disconnect"

    async with node.sessions:
        session, token = await node.log_in()
        headers = [(b"cookie", cookie(token))]
        socket = Socket(SessionMiddleware(failing, node.sessions), headers=headers)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(socket.task, 5)
        assert dict(await node.sessions.load(token)) == {}
        socket = Socket(SessionMiddleware(closing, node.sessions), headers=headers)
        await socket.next()
        await socket.next()
        await session.log_out()
        await asyncio.wait_for(socket.task, 5)
        assert socket.outgoing.empty(), "it was closed already"


async def test_a_websocket_that_is_gone_cannot_be_closed_and_nobody_minds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "coatcheck.asgi")
    node = Node()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        assert (await receive())["type"] == "websocket.disconnect"

    async with node.sessions:
        session, token = await node.log_in()
        socket = Socket(SessionMiddleware(application, node.sessions), headers=[(b"cookie", cookie(token))])
        await socket.next()
        await until(lambda: len(node.sessions.connections) == 1)

        async def broken(message: Any) -> None:
            raise OSError("gone")

        socket._send = broken  # type: ignore[method-assign]
        for connection in node.sessions.connections.of(session.id or ""):
            connection._close.__self__._on_end.__self__._send = broken  # type: ignore[union-attr]
        await session.log_out()
        await asyncio.wait_for(socket.task, 5)
        await asyncio.sleep(0)
        assert "had gone before it could be closed" in caplog.text


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


async def test_bearers_before_the_first_use_and_after_expiry() -> None:
    node = Node()
    assert node.sessions.load_bearer_cached("x", 1, "user") is None
    assert node.sessions.load_cached(b"x" * 66) is None
    session, _ = await node.log_in()
    session_id = session.id or ""
    assert node.sessions.load_bearer_cached(session_id, 1, "user") is not None
    assert node.sessions.load_bearer_cached(session_id, 2, "user") is None
    assert node.sessions.load_bearer_cached(session_id, 1, "other") is None
    node.clock.advance(2.0)
    assert node.sessions.load_bearer_cached(session_id, 1, "user") is not None, "the lease is prolonged by a look"
    node.clock.advance(5000)
    with pytest.raises(TokenRefused):
        await node.sessions.load_bearer(session_id, 1, "user")
    with pytest.raises(TokenRefused):
        await node.sessions.load_bearer("unknown", 1, "user")


async def test_modify_of_a_value_that_stays_the_same_asks_whether_it_is_still_so() -> None:
    node = Node()
    session, token = await node.log_in()
    session["n"] = 1
    await session.commit()
    one, two = await node.sessions.load(token), await node.sessions.load(token)
    writes = node.store.writes
    assert await one.modify("n", lambda n: n) == 1
    assert node.store.writes == writes
    two["n"] = 5
    await two.commit()
    assert await one.modify("n", lambda n: max(n, 2)) == 5
    counted = Key("counted", list[int], default=list)
    assert await one.modify(counted, lambda items: [*items, 1]) == [1]


async def test_modify_gives_up_when_it_is_never_alone() -> None:
    node = Node()
    session, token = await node.log_in()
    other = await node.sessions.load(token)
    memory = node.store.inner

    def meddle(n: int | None) -> int:
        record = memory._records[session.id or ""]  # type: ignore[attr-defined]
        import msgspec

        memory._records[session.id or ""] = msgspec.structs.replace(record, version=record.version + 1)  # type: ignore[attr-defined]
        return (n or 0) + 1

    with pytest.raises(StoreUnavailable, match="100 times in a row"):
        await other.modify("n", meddle)


async def test_modify_and_save_on_a_session_that_ended_or_was_silenced() -> None:
    node = Node()
    session, token = await node.log_in()
    other = await node.sessions.load(token)
    await session.log_out()
    with pytest.raises(SessionEnded):
        await other.modify("n", lambda n: 1)
    silent = await node.sessions.load(token)
    silent["x"] = 1
    with pytest.raises(SessionEnded):
        await silent.save()
    with pytest.raises(SessionEnded):
        await silent.modify("x", lambda x: 1)


async def test_sync_verbs_of_a_session_that_no_middleware_knows() -> None:
    node = Node()
    session, _ = await node.log_in()

    def work() -> None:
        with pytest.raises(UsageError, match="came through SessionMiddleware"):
            session.sync.log_out()

    await asyncio.to_thread(work)


async def test_a_reader_of_events_that_is_too_slow_is_told_that_it_missed_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coatcheck.manager._EVENT_QUEUE", 3)
    node = Node()
    async with node.sessions:
        events = node.sessions.events()
        first = asyncio.ensure_future(anext(events))
        await until(lambda: node.sessions._feed and node.sessions._feed.listeners)
        for number in range(10):
            node.store.inner._tell(Change("ended", f"session {number}"))  # type: ignore[attr-defined]
        assert await first == SessionEvent(kind="missed", id="")
        await events.aclose()


async def test_listeners_are_told_until_they_stop_and_the_confirmed_time_is_the_feeds() -> None:
    node = Node()
    assert node.sessions.confirmed() == float("-inf")
    told: list[Change] = []
    stop = await node.sessions.listen(told.append)
    session, _ = await node.log_in()
    await session.log_out()
    assert node.sessions.confirmed() == node.clock.monotonic()
    assert [change.kind for change in told] == ["ended"]
    stop()
    stop()
    session, _ = await node.log_in()
    await session.log_out()
    assert len(told) == 1


async def test_a_read_that_fails_leaves_no_trace_in_the_cache() -> None:
    node = Node()
    session, _ = await node.log_in()
    node.store.down = True
    for asked in (session.reload(), session.save() if session.touched() else session.regenerate()):
        with pytest.raises(StoreUnavailable):
            await asked
    with pytest.raises(StoreUnavailable):
        await (await node.sessions.load(None)).log_in("user", epoch=1)
    assert node.sessions.cache._fills == {}


async def test_upkeep_goes_on_after_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    node = Node()
    failures: list[int] = []

    async def fail() -> int:
        failures.append(1)
        raise ZeroDivisionError

    node.sessions.sweep = fail  # type: ignore[method-assign]
    async with node.sessions:
        await asyncio.sleep(0)
        for _ in range(2):
            seen = len(failures)
            node.clock.advance(61)
            await until(lambda seen=seen: len(failures) > seen)
    assert "upkeep failed and goes on" in caplog.text


async def test_sweeping_goes_on_until_little_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coatcheck.manager._SWEEP_LIMIT", 2)
    node = Node()
    for _ in range(5):
        await node.log_in()
    node.clock.advance(node.sessions.lifetime + 3601)
    assert await node.sessions.sweep() == 5


def test_a_store_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "coatcheck.stores.sqlite", None)
    with pytest.raises(MissingDependency, match=r"coatcheck\[sqlite\]"):
        open_store("sqlite:///x.sqlite3")
