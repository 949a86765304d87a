"""What several requests, nodes and verbs do to one session at once: each interleaving forced by a barrier."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from coatcheck import LoginRefused, Session, SessionEnded, SessionMiddleware, Sessions, StoreUnavailable, session_of
from coatcheck.stores.memory import MemoryStore
from coatcheck.testing import GatedStore, ManualClock
from tests.core.asgi_client import Answer, call

IDLE, TOUCH, LIFE = 1000.0, 10.0, 100_000.0


class Node:
    def __init__(self, clock: ManualClock, memory: MemoryStore) -> None:
        self.clock = clock
        self.store = GatedStore(memory)
        self.sessions = Sessions(self.store, clock=clock, idle_timeout=IDLE, touch_interval=TOUCH, lifetime=LIFE)
        self.handler: Callable[[Session], Awaitable[Any]] | None = None
        self.app = SessionMiddleware(self._handle, self.sessions)

    async def log_in(self, user_id: str = "user") -> bytes:
        session = await self.sessions.load(None)
        await session.log_in(user_id)
        return token_of(session)

    async def user(self, token: bytes) -> str | None:
        return (await self.sessions.load(token)).user_id

    async def get(self, token: bytes | None, handler: Callable[[Session], Awaitable[Any]]) -> Answer:
        self.handler = handler
        return await call(self.app, "/", cookie=None if token is None else b"__Host-session=" + token)

    async def _handle(self, scope: Any, receive: Any, send: Any) -> None:
        assert self.handler is not None
        await self.handler(session_of(scope))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def token_of(session: Session) -> bytes:
    assert session.cookie_change is not None
    assert session.cookie_change.token is not None
    return session.cookie_change.token.encode()


@asynccontextmanager
async def nodes(count: int = 1) -> AsyncIterator[list[Node]]:
    clock = ManualClock()
    memory = MemoryStore(clock=clock)
    made = [Node(clock, memory) for _ in range(count)]
    for each in made:
        await each.sessions.start()
    await asyncio.sleep(0)  # their upkeep begins
    try:
        yield made
    finally:
        for each in made:
            each.store.down = False
            await each.sessions.close()


# ---- log out everywhere, and the session that stays


@pytest.mark.parametrize("on", [0, 1], ids=["this node", "another node"])
async def test_the_session_that_was_kept_can_change_its_secret_in_the_same_request(on: int) -> None:
    # A new password: every other session ends, and this one gets a new secret.
    async with nodes(2) as all_:
        here = all_[0]
        token, other = await here.log_in(), await here.log_in()
        session = await here.sessions.load(token)
        await all_[on].sessions.end_user("user", keep=session.id)
        await session.regenerate()
        assert await here.user(token_of(session)) == "user"
        assert await here.user(token) is None
        assert await here.user(other) is None


async def test_a_session_that_was_not_kept_cannot() -> None:
    async with nodes() as (here,):
        token = await here.log_in()
        session = await here.sessions.load(token)
        await here.sessions.end_user("user")
        with pytest.raises(SessionEnded):
            await session.regenerate()


async def test_everything_ended_between_the_two_tries_of_a_new_secret_is_ended() -> None:
    async with nodes() as (here,):
        session = await here.sessions.load(await here.log_in())
        await here.sessions.end_user("user", keep=session.id)
        gate = here.store.hold("apply", "before")
        regenerating = asyncio.create_task(session.regenerate())
        await gate.arrived.wait()
        again = here.store.hold("apply", "before")
        gate.release()
        waiting = asyncio.create_task(again.arrived.wait())
        await asyncio.wait([regenerating, waiting], return_when=asyncio.FIRST_COMPLETED)
        await here.sessions.end_user("user")
        again.release()
        with pytest.raises(SessionEnded):
            await regenerating
        waiting.cancel()


# ---- no cookie for a session that is over


async def test_a_login_that_was_ended_before_the_response_left_sets_no_cookie() -> None:
    async with nodes() as (here,):

        async def handler(session: Session) -> None:
            await session.log_in("user")
            assert await here.sessions.end_user("user")
            session["late"] = 1

        answer = await here.get(None, handler)
        assert answer.status == 200
        assert answer.all(b"set-cookie") == []


async def test_a_login_that_was_ended_sets_no_cookie_even_if_nothing_was_written_after_it() -> None:
    async with nodes(2) as (here, there):
        for elsewhere in (here, there):

            async def handler(session: Session, node: Node = elsewhere) -> None:
                await session.log_in("user")
                await node.sessions.end_user("user")

            answer = await here.get(None, handler)
            assert answer.status == 200
            assert answer.all(b"set-cookie") == []


async def test_the_cookie_of_a_new_secret_costs_no_look_at_the_store() -> None:
    async with nodes() as (here,):
        before = here.store.reads

        async def handler(session: Session) -> None:
            await session.log_in("user")
            nonlocal before
            before = here.store.reads

        answer = await here.get(None, handler)
        assert answer.cookie is not None
        assert here.store.reads == before


async def test_a_verb_that_stands_has_its_cookie_even_if_the_rest_could_not_be_stored() -> None:
    async with nodes() as (here,):
        token = await here.log_in()

        async def regenerate(session: Session) -> None:
            await session.regenerate()
            session["x"] = 1
            here.store.down = True

        async def regenerate_and_raise(session: Session) -> None:
            await session.regenerate()
            here.store.down = True
            await session.regenerate()

        for handler in (regenerate, regenerate_and_raise):
            answer = await here.get(token, handler)
            here.store.down = False
            assert answer.status == 503
            assert answer.cookie is not None, "or the client is logged out by an outage"
            token = answer.cookie.partition(b"=")[2]
            assert await here.user(token) == "user"


async def test_a_refused_verb_that_the_handler_shrugs_off_leaves_no_cookie() -> None:
    async with nodes() as (here,):

        async def handler(session: Session) -> None:
            await session.log_in("user")
            await here.sessions.end_user("user")
            session["x"] = 1
            for verb in (session.regenerate, session.save, session.reload):
                with pytest.raises(SessionEnded):
                    await verb()

        answer = await here.get(None, handler)
        assert answer.all(b"set-cookie") == []


async def test_the_cookie_of_a_session_that_this_request_ended_is_deleted_whatever_it_tries_after() -> None:
    async with nodes() as (here,):

        async def handler(session: Session) -> None:
            await session.end()
            session["x"] = 1
            with pytest.raises(SessionEnded):
                await session.save()

        answer = await here.get(await here.log_in(), handler)
        assert b"Max-Age=0" in (answer.one(b"set-cookie") or b"")


# ---- expiry against a login


@pytest.mark.parametrize("by", ["request", "upkeep"])
async def test_a_session_that_was_found_expired_is_not_ended_if_it_was_logged_in_to_meanwhile(by: str) -> None:
    async with nodes() as (here,):
        token = await here.log_in()
        early = await here.sessions.load(token)
        here.clock.advance(LIFE - 1)
        await here.store.touch({early.id or "": here.clock.time()})
        early = await here.sessions.load(token)
        assert early.user_id == "user"
        here.clock.advance(1)
        gate = here.store.hold("end", "before")
        if by == "request":
            ending = asyncio.create_task(here.sessions.load(token))
        else:
            ending = asyncio.create_task(here.sessions._look_at([early.id or ""]))
        await gate.arrived.wait()
        await early.log_in("user")
        gate.release()
        await ending
        assert await here.user(token_of(early)) == "user"


async def test_activity_that_another_node_is_about_to_write_down_keeps_a_session_alive() -> None:
    async with nodes(2) as (here, there):
        token = await here.log_in()
        here.clock.advance(IDLE - 0.1)
        assert await there.user(token) == "user"
        # That node writes it down when its interval is over, and a moment later: its upkeep looks four times a second.
        here.clock.advance(TOUCH + 0.2)
        assert await here.user(token) == "user"


async def test_activity_that_could_not_be_written_down_is_as_soon_as_the_store_is_back() -> None:
    async with nodes(2) as (here, there):
        token = await here.log_in()
        here.clock.advance(IDLE / 2)
        assert await there.user(token) == "user"
        gate = there.store.hold("touch", "before")
        here.clock.advance(TOUCH)
        async with asyncio.timeout(5):
            await gate.arrived.wait()
            there.store.down = True
            gate.release()
            while there.sessions._seen == {}:
                await asyncio.sleep(0.001)
            there.store.down = False
            while not there.store.calls["touch"]:
                await asyncio.sleep(0.01)
        here.clock.advance(IDLE / 2 + 1)
        assert await here.user(token) == "user"


# ---- live connections


async def test_a_connection_that_came_while_another_was_being_confirmed_is_confirmed_too() -> None:
    async with nodes() as (here,):
        session = await here.sessions.load(await here.log_in())
        assert session.record is not None
        session_id = session.record.id
        closed: list[str] = []
        here.sessions.watch(session.record, kind="websocket", close=lambda reason: closed.append("first"))
        gate = here.store.hold("alive", "after")
        here.sessions.recheck(session_id)
        # The upkeep asks, and the store answers that the session lives; the answer is on its way.
        await asyncio.wait_for(gate.arrived.wait(), 5)
        await here.sessions.end(session_id)
        # A handshake that had found the session alive opens its connection only now.
        here.sessions.watch(session.record, kind="websocket", close=lambda reason: closed.append("second"))
        gate.release()
        async with asyncio.timeout(5):
            while closed != ["first", "second"]:
                await asyncio.sleep(0.005)


async def test_a_websocket_whose_session_began_after_its_handshake_ends_with_it_too() -> None:
    async with nodes() as (here,):
        inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            await session_of(scope).log_in("user")
            await send({"type": "websocket.send", "text": session_of(scope).id})
            assert (await receive())["code"] == 4401

        scope = {"type": "websocket", "path": "/", "scheme": "wss", "headers": []}
        running = asyncio.create_task(SessionMiddleware(app, here.sessions)(scope, inbox.get, sent.put))
        inbox.put_nowait({"type": "websocket.connect"})
        inbox.put_nowait({"type": "websocket.receive", "text": "log me in"})
        async with asyncio.timeout(5):
            assert (await sent.get())["type"] == "websocket.accept"
            assert await here.sessions.end((await sent.get())["text"])
            assert (await sent.get())["code"] == 4401
            await running


async def test_a_deadline_that_came_while_the_store_was_away_is_kept_when_it_is_back() -> None:
    async with nodes() as (here,):
        session = await here.sessions.load(await here.log_in())
        assert session.record is not None
        closed: list[str] = []
        here.sessions.watch(session.record, kind="websocket", close=closed.append)
        here.clock.advance(IDLE + 2 * TOUCH)
        here.store.down = True
        due = here.sessions.connections.due(here.clock.time())
        assert due
        with pytest.raises(StoreUnavailable):
            await here.sessions._look_at(due)
        here.store.down = False
        async with asyncio.timeout(5):
            while not closed:
                await asyncio.sleep(0.005)
                here.clock.advance(0.05)


# ---- verbs that fail leave things as they were


async def test_a_login_as_another_user_that_is_refused_leaves_the_session_as_it_was() -> None:
    async with nodes() as (here,):
        session = await here.sessions.load(await here.log_in("one"))
        session["cart"] = ["a"]
        await session.save()
        epoch = await here.sessions.epoch("two")
        await here.sessions.end_user("two")
        with pytest.raises(LoginRefused):
            await session.log_in("two", epoch=epoch)
        assert session.user_id == "one"
        assert dict(session) == {"cart": ["a"]}
        session.clear()
        await session.save()
        await session.reload()
        assert dict(session) == {}


async def test_what_could_not_be_saved_is_saved_the_next_time() -> None:
    async with nodes() as (here,):
        token = await here.log_in()
        session = await here.sessions.load(token)
        session["x"] = 1
        session.remember()
        here.store.down = True
        with pytest.raises(StoreUnavailable):
            await session.save()
        here.store.down = False
        await session.save()
        again = await here.sessions.load(token)
        assert again["x"] == 1
        assert again.record is not None
        assert again.record.remember


async def test_a_session_that_could_not_be_begun_is_begun_the_next_time() -> None:
    async with nodes() as (here,):
        session = await here.sessions.load(None)
        session["x"] = 1
        session.remember()
        here.store.down = True
        with pytest.raises(StoreUnavailable):
            await session.save()
        here.store.down = False
        await session.save()
        again = await here.sessions.load(token_of(session))
        assert dict(again) == {"x": 1}
        assert session.cookie_change is not None
        assert session.cookie_change.max_age is not None


async def test_a_secret_that_could_not_be_changed_is_still_the_old_one() -> None:
    async with nodes() as (here,):
        token = await here.log_in()
        session = await here.sessions.load(token)
        here.store.down = True
        with pytest.raises(StoreUnavailable):
            await session.regenerate()
        here.store.down = False
        assert await here.user(token) == "user"
        await session.regenerate()
        assert await here.user(token) is None
        assert await here.user(token_of(session)) == "user"


# ---- modify


async def test_modify_sees_what_this_request_has_assigned_already() -> None:
    async with nodes() as (here,):
        for token in (None, await here.log_in()):
            session = await here.sessions.load(token)
            session["n"] = 5
            assert await session.modify("n", lambda n: (n or 0) + 1) == 6
            assert session["n"] == 6
            await session.save()
            await session.reload()
            assert session["n"] == 6


# ---- one request, several tasks


async def test_two_tasks_of_one_request_that_save_at_once_lose_nothing() -> None:
    async with nodes() as (here,):
        token = await here.log_in()
        session = await here.sessions.load(token)
        session["a"] = 1
        gate = here.store.hold("apply", "after")
        first = asyncio.create_task(session.save())
        await gate.arrived.wait()
        session["b"] = 2
        session["a"] = 3
        await session.save()
        gate.release()
        await first
        await session.save()
        again = await here.sessions.load(token)
        assert dict(again) == {"a": 3, "b": 2}


async def test_what_a_request_changes_while_it_logs_in_is_stored_after_it() -> None:
    async with nodes() as (here,):
        session = await here.sessions.load(None)
        session["before"] = 1
        gate = here.store.hold("create", "after")
        logging_in = asyncio.create_task(session.log_in("user"))
        await gate.arrived.wait()
        session["during"] = 2
        del session["before"]
        gate.release()
        await logging_in
        await session.save()
        again = await here.sessions.load(token_of(session))
        assert dict(again) == {"during": 2}


# ---- several nodes


async def test_a_new_secret_from_another_node_is_good_here_before_the_feed_has_told() -> None:
    async with nodes(2) as (here, there):
        token = await here.log_in()
        assert await there.user(token) == "user"
        there.store.feed_cut = True
        session = await here.sessions.load(token)
        await session.regenerate()
        assert await there.user(token_of(session)) == "user"
        assert await there.user(token) is None, "asking for the new one has taught this node better"


async def test_a_stolen_old_secret_does_not_keep_a_session_from_its_owner() -> None:
    async with nodes(2) as (here, there):
        token = await here.log_in()
        session = await here.sessions.load(token)
        await session.regenerate()
        for _ in range(3):
            assert await there.user(token) is None
            assert await there.user(token_of(session)) == "user"


async def test_a_request_that_waits_for_anothers_read_is_refused_if_the_session_ends_meanwhile() -> None:
    async with nodes(2) as (here, there):
        token = await here.log_in()
        gate = there.store.hold("read", "after")
        first = asyncio.create_task(there.user(token))
        await gate.arrived.wait()
        second = asyncio.create_task(there.user(token))
        await asyncio.sleep(0)
        session = await here.sessions.load(token)
        await here.sessions.end(session.id or "")
        there.sessions.load_cached(token)  # any request on that node takes in what the feed has told
        gate.release()
        assert [await first, await second] == [None, None]
        assert await there.user(token) is None


async def test_the_store_away_and_the_feed_cut_nothing_is_believed_beyond_the_lease() -> None:
    async with nodes(2) as (here, there):
        token = await here.log_in()
        assert await there.user(token) == "user"
        there.store.feed_cut = True
        session = await here.sessions.load(token)
        await here.sessions.end(session.id or "")
        there.store.down = True
        there.clock.advance(1.999)
        assert await there.user(token) == "user", "within the lease"
        there.clock.advance(0.001)
        with pytest.raises(StoreUnavailable):
            await there.user(token)
        there.store.down = False
        assert await there.user(token) is None
        there.store.feed_cut = False
        assert await there.user(token) is None
