"""The promises as HTTP shows them: through the middleware, with the cache on, each interleaving forced by a barrier."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from coatcheck import (
    CookiePolicy,
    Session,
    SessionEnded,
    SessionMiddleware,
    Sessions,
    UsageError,
    current_session,
    session_of,
)
from coatcheck.stores.memory import MemoryStore
from coatcheck.stores.sqlite import SQLiteStore
from coatcheck.testing import GatedStore, ManualClock
from tests.core.asgi_client import Answer, call

Handler = Callable[[Session], Awaitable[Any]]


class Site:
    """A small application over one node: handlers by path, each given the session, each answering with JSON."""

    def __init__(self, store: GatedStore, clock: ManualClock, **options: Any) -> None:
        self.store = store
        self.clock = clock
        self.sessions = Sessions(
            store, clock=clock, idle_timeout=1000.0, touch_interval=10.0, lifetime=100_000.0, lazy_start=True
        )
        self.handlers: dict[str, Handler] = {
            "/login": lambda s: s.log_in("user"),
            "/remember": lambda s: s.log_in("user", remember=True),
            "/logout": lambda s: s.log_out(),
            "/whoami": _whoami,
            "/write": _write,
            "/static": _nothing,
        }
        self.headers: list[tuple[bytes, bytes]] = []
        self.app = SessionMiddleware(self._handle, self.sessions, **options)

    async def _handle(self, scope: Any, receive: Any, send: Any) -> None:
        result = await self.handlers[scope["path"]](session_of(scope))
        await send({"type": "http.response.start", "status": 200, "headers": list(self.headers)})
        await send({"type": "http.response.body", "body": json.dumps(result).encode()})

    async def get(self, path: str, cookie: bytes | None = None, **rest: Any) -> Answer:
        return await call(self.app, path, cookie=cookie, **rest)

    async def log_in(self) -> bytes:
        cookie = (await self.get("/login")).cookie
        assert cookie is not None
        return cookie

    async def who(self, cookie: bytes | None) -> str | None:
        return json.loads((await self.get("/whoami", cookie)).body)


async def _whoami(session: Session) -> str | None:
    return session.user_id


async def _write(session: Session) -> None:
    session["n"] = session.get("n", 0) + 1


async def _nothing(session: Session) -> None:
    pass


@pytest.fixture(params=["memory", "sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@asynccontextmanager
async def site(kind: str = "memory", path: Path | None = None, **options: Any) -> AsyncIterator[Site]:
    async with nodes(kind, path, 1, **options) as made:
        yield made[0]


@asynccontextmanager
async def nodes(kind: str, path: Path | None, count: int = 2, **options: Any) -> AsyncIterator[list[Site]]:
    clock = ManualClock()
    memory = MemoryStore(clock=clock)
    sites = [
        Site(
            GatedStore(memory if kind == "memory" else SQLiteStore(str((path or Path()) / "s.sqlite3"), clock=clock)),
            clock,
            **options,
        )
        for _ in range(count)
    ]
    try:
        yield sites
    finally:
        for made in sites:
            await made.sessions.close()


# ---- P1: ended is ended


async def test_a_replayed_cookie_is_refused_after_logout_on_every_node(kind: str, tmp_path: Path) -> None:
    async with nodes(kind, tmp_path) as (one, two):
        cookie = await one.log_in()
        assert await two.who(cookie) == "user"
        answer = await one.get("/logout", cookie)
        assert answer.cookie == b"__Host-session="
        assert b"Max-Age=0" in (answer.one(b"set-cookie") or b"")
        assert await one.who(cookie) is None
        async with asyncio.timeout(5):
            while await two.who(cookie) is not None:
                await asyncio.sleep(0)


async def test_a_store_that_cannot_be_asked_is_503_with_retry_after(kind: str, tmp_path: Path) -> None:
    async with site(kind, tmp_path) as here:
        cookie = await here.log_in()
        here.store.down = True
        assert await here.who(cookie) == "user", "inside the lease the copy is believed"
        here.clock.advance(2.0)
        answer = await here.get("/whoami", cookie)
        assert answer.status == 503
        assert answer.one(b"retry-after") == b"1"
        assert answer.one(b"set-cookie") is None
        assert (await here.get("/static", cookie)).status == 503
        assert (await here.get("/whoami")).status == 200, "visitors without a cookie need no store"
        here.store.down = False
        assert await here.who(cookie) == "user"


async def test_a_store_that_goes_away_before_the_commit_is_503_and_the_answer_is_withheld() -> None:
    async with site() as here:
        cookie = await here.log_in()

        async def write_while_it_goes(session: Session) -> str:
            session["x"] = 1
            here.store.down = True
            return "saved"

        here.handlers["/going"] = write_while_it_goes
        answer = await here.get("/going", cookie)
        assert answer.status == 503
        assert b"saved" not in answer.body
        here.store.down = False
        here.handlers["/read"] = lambda s: _value(s.get("x"))
        assert (await here.get("/read", cookie)).body == b"null"


async def _value(value: Any) -> Any:
    return value


async def test_a_verb_that_cannot_be_written_is_503() -> None:
    async with site() as here:
        cookie = await here.log_in()
        here.store.down = True
        assert (await here.get("/logout", cookie)).status == 503
        assert (await here.get("/login")).status == 503


# ---- P3: nothing lost, nothing raised from the dead


async def test_a_slow_request_after_logout_gets_its_answer_and_no_cookie(kind: str, tmp_path: Path) -> None:
    """https://github.com/expressjs/session/pull/632"""
    async with site(kind, tmp_path) as here:
        cookie = await here.log_in()
        gate = here.store.hold("apply", "before")
        slow = asyncio.ensure_future(here.get("/write", cookie))
        await gate.arrived.wait()
        await here.get("/logout", cookie)
        gate.release()
        answer = await slow
        assert answer.status == 200
        assert answer.one(b"set-cookie") is None
        assert await here.who(cookie) is None


async def test_a_slow_request_under_the_old_secret_changes_nothing(kind: str, tmp_path: Path) -> None:
    async with nodes(kind, tmp_path) as (one, two):
        old = await one.log_in()
        gate = two.store.hold("apply", "before")
        slow = asyncio.ensure_future(two.get("/write", old))
        await gate.arrived.wait()
        new = (await one.get("/login", old)).cookie
        gate.release()
        answer = await slow
        assert (answer.status, answer.one(b"set-cookie")) == (200, None)
        one.handlers["/keys"] = lambda s: _value(sorted(s))
        assert (await one.get("/keys", new)).body == b"[]"


async def test_a_second_tabs_slow_logout_does_not_end_the_new_login(kind: str, tmp_path: Path) -> None:
    async with site(kind, tmp_path) as here:
        old = await here.log_in()
        gate = here.store.hold("end", "before")
        slow = asyncio.ensure_future(here.get("/logout", old))
        await gate.arrived.wait()
        new = (await here.get("/login", old)).cookie
        gate.release()
        answer = await slow
        assert (answer.status, answer.one(b"set-cookie")) == (200, None)
        assert await here.who(new) == "user"


async def test_a_second_tab_with_the_replaced_cookie_is_anonymous_and_leaves_the_cookie_alone(
    kind: str, tmp_path: Path
) -> None:
    async with site(kind, tmp_path) as here:
        old = await here.log_in()
        await here.get("/login", old)
        for path in ("/write", "/logout", "/whoami"):
            answer = await here.get(path, old)
            assert answer.status == 200
            assert answer.one(b"set-cookie") is None
        assert await here.who(old) is None
        here.clock.advance(61)
        assert (await here.get("/write", old)).cookie is not None, "a minute later it is like any unknown cookie"


async def test_a_second_tab_after_logout_is_anonymous_and_sets_no_cookie(kind: str, tmp_path: Path) -> None:
    async with site(kind, tmp_path) as here:
        cookie = await here.log_in()
        await here.get("/logout", cookie)
        for path in ("/write", "/logout", "/whoami"):
            answer = await here.get(path, cookie)
            assert (answer.status, answer.one(b"set-cookie")) == (200, None)


async def test_whoever_was_logged_out_elsewhere_can_log_in_at_once_with_the_old_cookie_still_in_the_browser(
    kind: str, tmp_path: Path
) -> None:
    async with site(kind, tmp_path) as here:
        cookie = await here.log_in()
        await here.sessions.end_user("user", reason="signed out everywhere")
        new = (await here.get("/login", cookie)).cookie
        assert new is not None
        assert await here.who(new) == "user"


async def test_two_requests_that_change_two_keys_both_count(kind: str, tmp_path: Path) -> None:
    """https://github.com/expressjs/session/issues/361"""
    async with nodes(kind, tmp_path) as (one, two):
        cookie = await one.log_in()

        def setter(key: str) -> Handler:
            async def set_key(session: Session) -> None:
                assert dict(session) == {}
                session[key] = 1

            return set_key

        one.handlers["/a"], two.handlers["/b"] = setter("a"), setter("b")
        first, second = one.store.hold("apply", "before"), two.store.hold("apply", "before")
        both = [asyncio.ensure_future(one.get("/a", cookie)), asyncio.ensure_future(two.get("/b", cookie))]
        await first.arrived.wait()
        await second.arrived.wait()
        second.release()
        await both[1]
        first.release()
        await both[0]
        one.handlers["/all"] = lambda s: _value(dict(s))
        assert json.loads((await one.get("/all", cookie)).body) == {"a": 1, "b": 1}


async def test_an_exception_discards_pending_changes_and_leaves_awaited_verbs() -> None:
    async with site() as here:
        cookie = await here.log_in()

        async def fail(session: Session) -> None:
            await session.modify("counted", lambda n: (n or 0) + 1)
            session["pending"] = 1
            raise ZeroDivisionError

        here.handlers["/fail"] = fail
        with pytest.raises(ZeroDivisionError):
            await here.get("/fail", cookie)
        here.handlers["/all"] = lambda s: _value(dict(s))
        assert json.loads((await here.get("/all", cookie)).body) == {"counted": 1}


async def test_a_verb_on_an_ended_session_is_401_and_not_500() -> None:
    """https://github.com/spring-projects/spring-session/issues/2893"""
    async with site() as here:
        cookie = await here.log_in()

        async def end_and_save(session: Session) -> None:
            await here.sessions.end(session.id or "")
            session["x"] = 1
            await session.save()

        here.handlers["/save"] = end_and_save
        answer = await here.get("/save", cookie)
        assert answer.status == 401
        assert answer.one(b"www-authenticate") == b"Bearer"
        assert answer.one(b"set-cookie") is None


async def test_what_is_changed_after_the_first_byte_is_stored_at_the_end() -> None:
    async with site() as here:
        cookie = await here.log_in()

        async def late(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            session_of(scope)["late"] = True
            await send({"type": "http.response.body", "body": b"x"})

        await call(SessionMiddleware(late, here.sessions), "/", cookie=cookie)
        here.handlers["/all"] = lambda s: _value(dict(s))
        assert json.loads((await here.get("/all", cookie)).body) == {"late": True}


async def test_a_session_begun_after_the_first_byte_is_dropped_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with site() as here:

        async def late(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            session_of(scope)["late"] = True
            await send({"type": "http.response.body", "body": b"x"})

        answer = await call(SessionMiddleware(late, here.sessions), "/")
        assert answer.one(b"set-cookie") is None
        assert here.store.calls["create"] == 0
        assert "before the first byte" in caplog.text


# ---- P4: no adopted ids


async def test_the_old_cookie_is_dead_after_login_and_the_id_stays(kind: str, tmp_path: Path) -> None:
    async with nodes(kind, tmp_path) as (one, two):
        planted = (await one.get("/write")).cookie
        assert planted is not None
        mine = (await two.get("/login", planted)).cookie
        assert mine is not None
        assert mine != planted
        assert mine.split(b".")[0] == planted.split(b".")[0]
        assert await two.who(planted) is None
        async with asyncio.timeout(5):
            while await one.who(planted) is not None:
                await asyncio.sleep(0)
        assert await one.who(mine) == "user"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda c: c[:-43] + b"A" * 43, id="planted id with made-up secret"),
        pytest.param(lambda c: b"__Host-session=" + b"A" * 22 + b"." + b"A" * 43, id="planted id"),
        pytest.param(lambda c: c[:-1], id="truncated"),
        pytest.param(lambda c: c + b"A", id="too long"),
        pytest.param(lambda c: c + b"A" * 100_000, id="oversized"),
        pytest.param(lambda c: c + b"; " + c, id="doubled"),
        pytest.param(lambda c: c + b"; __Host-session=", id="doubled with an empty one"),
        pytest.param(lambda c: c[:20] + b"\xff" + c[21:], id="non-ASCII"),
        pytest.param(lambda c: c[:20] + b"\x00" + c[21:], id="NUL"),
        pytest.param(lambda c: c.replace(b".", b"%2E"), id="percent-encoded"),
        pytest.param(lambda c: b'__Host-session="' + c[15:] + b'"', id="quoted"),
        pytest.param(lambda c: c.replace(b"__Host-", b"__host-"), id="another name by case"),
        pytest.param(lambda c: c.replace(b"__Host-", b""), id="without its prefix"),
        pytest.param(lambda c: b"x" + c, id="another name by prefix"),
        pytest.param(lambda c: b"__Host-session=", id="empty"),
        pytest.param(lambda c: b"\xff\xfe;;;===;", id="garbage"),
    ],
)
async def test_a_cookie_that_was_not_issued_is_nobodys(
    kind: str, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    async with site(kind, tmp_path) as here:
        cookie = await here.log_in()
        assert await here.who(cookie) == "user"
        assert await here.who(change(cookie)) is None
        begun = (await here.get("/login", change(cookie))).cookie
        assert begun is not None
        assert begun.split(b".")[0] != cookie.split(b".")[0]
        assert await here.who(cookie) == "user"


async def test_cookie_crumbs_are_joined() -> None:
    async with site() as here:
        cookie = await here.log_in()
        answer = await here.get("/whoami", headers=[(b"cookie", b"a=b"), (b"cookie", cookie), (b"cookie", b"c=d")])
        assert json.loads(answer.body) == "user"
        doubled = await here.get("/whoami", headers=[(b"cookie", cookie), (b"cookie", cookie)])
        assert json.loads(doubled.body) is None


# ---- P6: no needless work


async def test_a_visitor_who_stores_nothing_gets_nothing() -> None:
    async with site() as here:
        answer = await here.get("/whoami")
        assert answer.one(b"set-cookie") is None
        assert here.store.calls == {}


async def test_a_warm_request_reads_and_writes_nothing(kind: str, tmp_path: Path) -> None:
    async with site(kind, tmp_path) as here:
        cookie = await here.log_in()
        await here.get("/write", cookie)
        here.store.calls.clear()
        for _ in range(5):
            assert (await here.get("/whoami", cookie)).one(b"set-cookie") is None
        assert here.store.calls == {}


async def test_a_response_that_used_no_session_is_not_touched() -> None:
    async with site() as here:
        cookie = await here.log_in()
        assert (await here.get("/static", cookie)).headers == []


# ---- the response's headers


async def test_a_response_that_used_a_session_varies_and_is_private() -> None:
    async with site() as here:
        cookie = await here.log_in()
        answer = await here.get("/whoami", cookie)
        assert answer.one(b"vary") == b"Cookie"
        assert answer.one(b"cache-control") == b"private"
        here.headers = [(b"Vary", b"Accept, cookie"), (b"Cache-Control", b"max-age=5")]
        answer = await here.get("/whoami", cookie)
        assert answer.one(b"vary") == b"Accept, cookie"
        assert answer.one(b"cache-control") == b"max-age=5"


async def test_a_response_that_sets_the_cookie_is_stored_by_no_cache() -> None:
    async with site() as here:
        assert (await here.get("/login")).one(b"cache-control") == b"no-store"
        here.headers = [(b"cache-control", b"public, max-age=60")]
        assert (await here.get("/login")).one(b"cache-control") == b"no-store"
        here.headers = [(b"cache-control", b"private, max-age=60")]
        assert (await here.get("/login")).one(b"cache-control") == b"private, max-age=60"


async def test_other_peoples_cookies_survive() -> None:
    async with site() as here:
        here.headers = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
        lines = (await here.get("/login")).all(b"set-cookie")
        assert lines[:2] == [b"a=1", b"b=2"]
        assert lines[2].startswith(b"__Host-session=")
        assert len(lines) == 3


async def test_the_cookie_is_fenced_in_and_ends_with_the_browser_unless_it_is_to_be_remembered() -> None:
    async with site() as here:
        line = (await here.get("/login")).one(b"set-cookie")
        assert line is not None
        assert line.split(b"; ")[1:] == [b"Path=/", b"Secure", b"HttpOnly", b"SameSite=Lax"]
        remembered = await here.get("/remember")
        assert b"; Max-Age=100000;" in (remembered.one(b"set-cookie") or b"")
        cookie = remembered.cookie
        here.clock.advance(500)
        assert (await here.get("/write", cookie)).one(b"set-cookie") is None, "never sent again just to roll"

        async def forget(session: Session) -> None:
            session.remember(False)

        here.handlers["/forget"] = forget
        line = (await here.get("/forget", cookie)).one(b"set-cookie") or b""
        assert line.startswith(cookie or b"-")
        assert b"Max-Age" not in line


async def test_a_cookie_that_clients_will_drop_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    async with site() as here:
        for _ in range(2):
            await here.get("/login", scheme="http")
        assert caplog.text.count('base_url="https://testserver"') == 1


# ---- cross-site requests


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 200),
        ([(b"sec-fetch-site", b"same-origin"), (b"origin", b"https://app.example")], 200),
        ([(b"sec-fetch-site", b"none")], 200),
        ([(b"sec-fetch-site", b"cross-site"), (b"origin", b"https://evil.example")], 403),
        ([(b"sec-fetch-site", b"same-site"), (b"origin", b"https://app.example:444")], 403),
        ([(b"sec-fetch-site", b"cross-site")], 403),
        ([(b"origin", b"null")], 403),
        ([(b"origin", b"https://evil.example")], 403),
        ([(b"origin", b"https://app.example")], 403),
        ([(b"sec-fetch-site", b"cross-site"), (b"origin", b"https://partner.example")], 200),
        ([(b"origin", b"https://partner.example"), (b"origin", b"https://evil.example")], 403),
        ([(b"sec-fetch-site", b"same-origin"), (b"sec-fetch-site", b"cross-site")], 403),
    ],
)
async def test_what_another_site_causes_is_refused(headers: list[tuple[bytes, bytes]], status: int) -> None:
    async with site(public_origins=["https://partner.example"]) as here:
        for path in ("/login", "/static"):
            answer = await here.get(path, method="POST", headers=headers)
            assert answer.status == status
            if status == 403:
                assert answer.one(b"content-type") == b"application/problem+json"
                assert b"public_origins" in answer.body
        assert (await here.get("/static", method="GET", headers=headers)).status == 200


# ---- the scope, and mistakes in use


async def test_the_session_is_found_by_scope_by_request_and_by_context() -> None:
    async with site() as here:
        seen: list[Session] = []

        async def look(session: Session) -> None:
            seen.append(current_session())

        here.handlers["/look"] = look
        await here.get("/look")
        assert isinstance(seen[0], Session)
        with pytest.raises(UsageError, match="SessionMiddleware"):
            current_session()
        with pytest.raises(UsageError, match="SessionMiddleware"):
            session_of({"type": "http"})
        with pytest.raises(UsageError, match="SessionMiddleware"):
            session_of(object())


async def test_verbs_work_from_a_thread() -> None:
    async with site() as here:

        def work(session: Session) -> int:
            session.sync.log_in("user")
            session["a"] = 1
            session.sync.save()
            session.sync.regenerate()
            session.sync.reload()
            return session.sync.modify("a", lambda n: n + 1)

        here.handlers["/thread"] = lambda s: asyncio.to_thread(work, s)
        answer = await here.get("/thread")
        assert answer.body == b"2"
        assert await here.who(answer.cookie) == "user"

        async def wrong(session: Session) -> None:
            session.sync.log_out()

        here.handlers["/wrong"] = wrong
        with pytest.raises(UsageError, match="await the verb itself"):
            await here.get("/wrong")

        def out(session: Session) -> None:
            session["x"] = 1
            session.sync.end()
            session["x"] = 2
            with pytest.raises(SessionEnded):
                session.sync.save()

        here.handlers["/out"] = lambda s: asyncio.to_thread(out, s)
        gone = await here.get("/out", answer.cookie)
        assert gone.cookie == b"__Host-session="
        assert await here.who(answer.cookie) is None


async def test_log_out_may_leave_something_for_an_anonymous_successor() -> None:
    async with site() as here:
        cookie = await here.log_in()

        async def farewell(session: Session) -> None:
            await session.log_out()
            session["message"] = "Bye"

        here.handlers["/bye"] = farewell
        after = (await here.get("/bye", cookie)).cookie
        assert after is not None
        assert after.split(b".")[0] != cookie.split(b".")[0]
        here.handlers["/message"] = lambda s: _value([s.user_id, dict(s)])
        assert json.loads((await here.get("/message", after)).body) == [None, {"message": "Bye"}]


async def test_another_cookie_policy_is_followed() -> None:
    policy = CookiePolicy(name="sid", secure=False, same_site="strict", path="/app")
    async with site(cookie=policy) as here:
        answer = await here.get("/login")
        assert (answer.one(b"set-cookie") or b"").endswith(b"; Path=/app; HttpOnly; SameSite=Strict")
        assert await here.who(answer.cookie) == "user"


async def test_a_value_that_cannot_be_stored_is_an_error_that_names_it() -> None:
    async with site() as here:

        async def bad(session: Session) -> None:
            session["cart"] = []
            session["cart"].append((1, 2))

        here.handlers["/bad"] = bad
        with pytest.raises(TypeError, match=r"session\['cart'\]\[0\] is a tuple.*list\(value\)"):
            await here.get("/bad")
        assert here.store.calls["create"] == 0


async def test_lifespan_starts_and_closes_the_sessions() -> None:
    sessions = Sessions("memory://")
    started: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        started.append(sessions.started)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> dict[str, str]:
        return next(messages)

    sent: list[str] = []

    async def send(message: dict[str, str]) -> None:
        sent.append(message["type"])

    await SessionMiddleware(app, sessions)({"type": "lifespan"}, receive, send)
    assert started == [True]
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert not sessions.started


async def test_many_sessions_of_one_user_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with site() as here:
        here.sessions.max_per_user = 3
        cookies = []
        for _ in range(5):
            here.clock.advance(1)
            cookies.append(await here.log_in())
        assert [await here.who(cookie) for cookie in cookies] == [None, None, "user", "user", "user"]
