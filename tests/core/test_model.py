"""Two nodes on one store against a model: whatever happens in whatever order, the promises hold (P1, P3, P4, P6).

Every rule is something that requests, administrators or the world do to one of two nodes; after each load what the node
says is compared with what may be said. A session is an activity's place in time: it must live while less than the idle
timeout has passed, must be over after the idle timeout and twice the touch interval, and may be either between.
"""

import asyncio
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from coatcheck import LoginRefused, Session, SessionEnded, Sessions, StoreUnavailable
from coatcheck.stores.contract import Store
from coatcheck.stores.memory import MemoryStore
from coatcheck.stores.sqlite import SQLiteStore
from coatcheck.testing import GatedStore, ManualClock

T = TypeVar("T")

IDLE, TOUCH, LIFE, STALE = 100.0, 10.0, 400.0, 2.0

which = st.sampled_from([0, 1])
users = st.sampled_from(["ann", "bob"])
keys = st.sampled_from(["a", "b"])
numbers = st.integers(0, 2)
things = numbers | st.lists(numbers, max_size=2)


class Kept(msgspec.Struct, eq=False):
    """What the model knows of one session."""

    id: str
    user: str | None
    expires: float
    last: float
    """The last activity on any node."""
    written: float
    """The last activity that the store knows of."""
    values: dict[str, Any]
    over: bool = False
    pending: dict[int, float] = {}
    """The last activity on each node that it has not written yet."""


class Token(msgspec.Struct, eq=False):
    """A token as a client holds it."""

    text: bytes
    session: Kept
    died: float | None = None
    killer: int | None = None


class Slow(msgspec.Struct, eq=False):
    """A request that is still under way."""

    node: int
    token: Token
    session: Session


# Mostly what may still live: of what is over there is more and more, and little to find out.
tokens = st.runner().flatmap(lambda machine: st.sampled_from(machine.favourites()))
slow = st.runner().flatmap(lambda machine: st.sampled_from(machine.under_way))


class Promises(RuleBasedStateMachine):
    def open_store(self, clock: ManualClock) -> Store:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.stores = [GatedStore(self.open_store(self.clock)) for _ in range(2)]
        self.nodes = [
            Sessions(
                store,
                clock=self.clock,
                idle_timeout=IDLE,
                touch_interval=TOUCH,
                lifetime=LIFE,
                max_staleness=STALE,
                max_per_user=None,
                cache_entries=3,
            )
            for store in self.stores
        ]
        self.all: list[Token] = []
        self.under_way: list[Slow] = []
        for node in self.nodes:
            self.run(node.start())

    def run(self, work: Awaitable[T]) -> T:
        async def await_it() -> T:
            return await work

        return self.runner.run(await_it())

    def teardown(self) -> None:
        try:
            for store in self.stores:
                store.down = store.feed_cut = False
            for node in range(2):
                for token in self.all:
                    self.look(node, token)
        finally:
            for store, node in zip(self.stores, self.nodes, strict=True):
                store.down = store.feed_cut = False
                self.run(node.close())
            self.runner.close()
            self.directory.cleanup()

    # ---- what may be said

    def live(self, node: int) -> bool:
        return not (self.stores[node].down or self.stores[node].feed_cut)

    def favourites(self) -> list[Token]:
        now = self.clock.time()
        living = [token for token in self.all if self.is_good(token) and now < token.session.last + IDLE + TOUCH]
        return (living * 4)[:8] + self.all[-3:]

    def is_good(self, token: Token) -> bool:
        """Whether the store would take the token for its session's; time is not looked at."""
        return token.died is None and not token.session.over

    def must_live(self, node: int, token: Token) -> bool:
        kept, now = token.session, self.clock.time()
        last = max(kept.written, kept.pending.get(node, 0.0))
        return self.is_good(token) and now < kept.expires and now < last + IDLE

    def may_live(self, node: int, token: Token) -> bool:
        kept, now = token.session, self.clock.time()
        if now >= kept.expires or now >= kept.last + IDLE + 2 * TOUCH:
            return False
        if self.is_good(token):
            return True
        # It is over, but a node that does not hear may not know yet, unless it did it itself.
        died = token.died
        assert died is not None
        return not self.live(node) and token.killer != node and self.clock.monotonic() < died + STALE

    def kill(self, kept: Kept, node: int | None) -> None:
        kept.over = True
        for token in self.all:
            if token.session is kept and token.died is None:
                token.died, token.killer = self.clock.monotonic(), node

    def replace(self, token: Token, node: int, session: Session) -> None:
        token.died, token.killer = self.clock.monotonic(), node
        self.hand_out(session, token.session)

    def hand_out(self, session: Session, kept: Kept) -> None:
        assert session.cookie_change is not None
        assert session.cookie_change.token is not None
        self.all.append(Token(session.cookie_change.token.encode(), kept))

    def begin(self, node: int, session: Session, user: str | None, values: dict[str, Any]) -> None:
        now = self.clock.time()
        assert session.id not in {token.session.id for token in self.all}, "an id is issued once"
        kept = Kept(session.id or "", user, now + LIFE, now, now, values, pending={})
        self.hand_out(session, kept)

    # ---- a request

    def load(self, node: int, token: Token) -> Session | None:
        """Loads a session, compares what the node says with what may be said; None for a visitor or an outage."""
        must, may = self.must_live(node, token), self.may_live(node, token)
        try:
            session = self.run(self.nodes[node].load(token.text))
        except StoreUnavailable:
            assert self.stores[node].down, "a store that is there can be asked"
            return None
        if session.record is None:
            assert not must, "a session that lives was refused"
            assert session.user_id is None
            assert dict(session) == {}
            if self.is_good(token):
                self.kill(token.session, None)  # it was found idle or expired
            return None
        assert may, "a token was believed that must not be"
        kept = token.session
        assert session.id == kept.id
        if self.is_good(token):
            assert session.user_id == kept.user
            if self.live(node):
                assert dict(session) == kept.values
            kept.last = kept.pending[node] = self.clock.time()
        return session

    def look(self, node: int, token: Token) -> None:
        """Loads a session and asks the store itself what it holds."""
        session = self.load(node, token)
        if session is None or self.stores[node].down:
            return
        try:
            self.run(session.reload())
        except SessionEnded:
            assert not self.must_live(node, token)
        else:
            assert self.is_good(token)
            assert dict(session) == token.session.values

    def commit(self, node: int, token: Token, session: Session, changed: dict[str, Any], gone: set[str]) -> None:
        """Ends a request that set and deleted keys; in the model only if it still may."""
        try:
            self.run(session.commit())
        except StoreUnavailable:
            assert self.stores[node].down
            return
        if self.is_good(token):
            for key in gone:
                token.session.values.pop(key, None)
            token.session.values.update(changed)

    # ---- what visitors and users do

    @initialize(user=users)
    def somebody_is_logged_in(self, user: str) -> None:
        session = self.run(self.nodes[0].load(None))
        self.run(session.log_in(user))
        self.begin(0, session, user, {})

    @precondition(lambda self: sum(map(self.is_good, self.all)) < 4)
    @rule(node=which, user=users | st.none(), key=keys, value=things)
    def come(self, node: int, user: str | None, key: str, value: Any) -> None:
        session = self.run(self.nodes[node].load(None))
        session[key] = value
        try:
            self.run(session.commit() if user is None else session.log_in(user))
        except StoreUnavailable:
            assert self.stores[node].down
            return
        self.begin(node, session, user, {key: value})

    @rule(node=which, token=tokens)
    def visit(self, node: int, token: Token) -> None:
        self.look(node, token)

    @rule(node=which, token=tokens, key=keys, value=things)
    def write(self, node: int, token: Token, key: str, value: Any) -> None:
        session = self.load(node, token)
        if session is not None:
            changed = {} if session.get(key) == value else {key: value}
            session[key] = value
            self.commit(node, token, session, changed, set())

    @rule(node=which, token=tokens, key=keys)
    def delete(self, node: int, token: Token, key: str) -> None:
        session = self.load(node, token)
        if session is not None:
            gone = {key} if key in session else set[str]()
            session.pop(key, None)
            self.commit(node, token, session, {}, gone)

    @rule(node=which, token=tokens)
    def clear(self, node: int, token: Token) -> None:
        session = self.load(node, token)
        if session is not None:
            gone = set(session)
            session.clear()
            self.commit(node, token, session, {}, gone)

    @rule(node=which, token=tokens, verb=st.sampled_from(["modify", "regenerate", "log_in", "log_out"]), user=users)
    def use_a_verb(self, node: int, token: Token, verb: str, user: str) -> None:
        session = self.load(node, token)
        if session is not None:
            self.do(verb, Slow(node, token, session), user)

    def do(self, verb: str, request: Slow, user: str) -> None:
        """Uses a verb, and finds out by the model whether it may have done what it did."""
        good = self.is_good(request.token)
        try:
            if verb == "modify":
                self.modify(request)
            elif verb == "regenerate":
                self.run(request.session.regenerate())
                self.replace(request.token, request.node, request.session)
            elif verb == "log_in":
                self.log_in(request, user)
            else:
                self.log_out(request)
        except StoreUnavailable:
            assert self.stores[request.node].down
        except SessionEnded:
            assert not self.must_live(request.node, request.token)
        else:
            assert good or verb in ("log_in", "log_out"), "something was done to a session that is over"

    def modify(self, request: Slow) -> None:
        values = request.token.session.values
        before = values.get("a")
        counted = self.run(request.session.modify("a", lambda n: (n if isinstance(n, int) else 0) + 1))
        assert counted == (before if isinstance(before, int) else 0) + 1, "nobody came in between"
        values["a"] = counted

    def log_in(self, request: Slow, user: str) -> None:
        kept, session = request.token.session, request.session
        self.run(session.log_in(user))
        if session.id != kept.id:
            assert not self.is_good(request.token), "a session that lives is logged in to as it is"
            self.begin(request.node, session, user, {})
            return
        if kept.user not in (None, user):
            kept.values = {}
        kept.user, kept.expires = user, self.clock.time() + LIFE
        self.replace(request.token, request.node, session)

    def log_out(self, request: Slow) -> None:
        good = self.is_good(request.token)
        self.run(request.session.log_out())
        assert (request.session.cookie_change is not None) == good, "who did not end it says nothing"
        if good:
            self.kill(request.token.session, request.node)

    # ---- slow requests

    @rule(node=which, token=tokens)
    def begin_slowly(self, node: int, token: Token) -> None:
        session = self.load(node, token)
        if session is not None:
            self.under_way = [*self.under_way[-2:], Slow(node, token, session)]

    @precondition(lambda self: self.under_way)
    @rule(request=slow, key=keys, value=numbers)
    def write_late(self, request: Slow, key: str, value: int) -> None:
        # What was only read, a list above all, must not be written back over another's change.
        request.session.get("b" if key == "a" else "a")
        changed = {} if request.session.get(key) == value else {key: value}
        request.session[key] = value
        self.finish(request, changed)

    @precondition(lambda self: self.under_way)
    @rule(request=slow, key=keys, other=keys, value=numbers)
    def append_late(self, request: Slow, key: str, other: str, value: int) -> None:
        request.session.get(other)
        old = request.session.get(key)
        new = [*(old if isinstance(old, list) else []), value]
        if isinstance(old, list):
            old.append(value)
        else:
            request.session[key] = list(new)
        self.finish(request, {key: new})

    def finish(self, request: Slow, changed: dict[str, Any]) -> None:
        self.commit(request.node, request.token, request.session, changed, set())
        if self.stores[request.node].down:
            request.session.discard()

    @precondition(lambda self: self.under_way)
    @rule(request=slow, verb=st.sampled_from(["modify", "regenerate", "log_in", "log_out"]), user=users)
    def use_a_verb_late(self, request: Slow, verb: str, user: str) -> None:
        self.under_way.remove(request)
        self.do(verb, request, user)

    # ---- what administrators do

    @rule(node=which, token=tokens)
    def end(self, node: int, token: Token) -> None:
        was_good = self.is_good(token)
        try:
            ended = self.run(self.nodes[node].end(token.session.id))
        except StoreUnavailable:
            assert self.stores[node].down
            return
        assert ended or token.session.over or not self.must_live(node, token)
        assert not (ended and token.session.over), "it ends once"
        if not token.session.over:
            self.kill(token.session, node)
        assert not was_good or self.load(node, token) is None

    @rule(node=which, user=users, token=tokens | st.none())
    def end_everywhere(self, node: int, user: str, token: Token | None) -> None:
        keep = None if token is None else token.session
        epoch = None if self.stores[node].down else self.run(self.nodes[node].epoch(user))
        try:
            ended = self.run(self.nodes[node].end_user(user, keep=None if keep is None else keep.id))
        except StoreUnavailable:
            assert self.stores[node].down
            return
        for kept in {id(token.session): token.session for token in self.all}.values():
            if kept.user == user and kept is not keep and not kept.over:
                assert kept.id in ended or not self.must_live(node, next(t for t in self.all if t.session is kept))
                self.kill(kept, node)
        session = self.run(self.nodes[node].load(None))
        try:
            self.run(session.log_in(user, epoch=epoch))
            raise AssertionError("a login that was checked before the end was let in after it")
        except LoginRefused:
            pass

    # ---- what the world does

    @rule(seconds=st.sampled_from([0.1, 0.1, 1.0, STALE - 0.1, STALE, STALE, TOUCH, 0.6 * IDLE, 0.6 * IDLE, IDLE]))
    def wait(self, seconds: float) -> None:
        while seconds > 0:
            step = min(seconds, TOUCH / 2)
            seconds -= step
            self.clock.advance(step)
            for number, node in enumerate(self.nodes):
                # What the node's upkeep does by itself, at a time of our choosing.
                try:
                    self.run(node._flush())
                except StoreUnavailable:
                    continue
                for kept in {id(token.session): token.session for token in self.all}.values():
                    if number in kept.pending:
                        kept.written = max(kept.written, kept.pending.pop(number))

    @rule(node=which, trouble=st.sampled_from(["feed", "feed", "store", "none", "none"]))
    def get_into_trouble_or_out_of_it(self, node: int, trouble: str) -> None:
        self.stores[node].feed_cut = trouble == "feed"
        self.stores[node].down = trouble == "store"

    # ---- what nothing may cost

    @precondition(lambda self: self.live(0) or self.live(1))
    @rule(token=tokens)
    def visit_warm(self, token: Token) -> None:
        node = 0 if self.live(0) else 1
        if self.load(node, token) is None:
            return
        store = self.stores[node]
        calls = dict(store.calls)
        session = self.nodes[node].load_cached(token.text)
        assert session is not None
        assert dict(session) == token.session.values
        assert not session.needs_commit()
        assert dict(store.calls) == calls, "a warm request asks nobody"


class MemoryPromises(Promises):
    def open_store(self, clock: ManualClock) -> Store:
        if not hasattr(self, "memory"):
            self.memory = MemoryStore(clock=clock)
        return self.memory


class SQLitePromises(Promises):
    def open_store(self, clock: ManualClock) -> Store:
        return SQLiteStore(Path(self.directory.name) / "sessions.sqlite3", clock=clock)


MemoryPromises.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
SQLitePromises.TestCase.settings = settings(
    max_examples=10, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestMemoryPromises = MemoryPromises.TestCase
TestSQLitePromises = SQLitePromises.TestCase
