"""Two clients and a thief exchange one session's refresh tokens in any order; a state machine says what must hold."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from coatcheck import Sessions
from coatcheck.record import SessionRecord
from coatcheck.stores.memory import MemoryStore
from coatcheck.stores.sqlite import SQLiteStore
from coatcheck.testing import ManualClock
from coatcheck.tokens import AccessTokens, KeyRing, RefreshRefused, RefreshTokens
from coatcheck.tokens.refresh import GRACE


class Exchanges(RuleBasedStateMachine):
    """The owner's client may lose answers, and then asks again in time. The thief has what the owner had at one moment."""

    make_store: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.sessions = Sessions(type(self).make_store(self.clock), clock=self.clock, lifetime=1e9, idle_timeout=1e8)
        access = AccessTokens(KeyRing(clock=self.clock), issuer="https://me", audience="https://me")
        self.refresh = RefreshTokens(self.sessions, access)
        self.thief: str | None = None
        self.stolen: str | None = None
        self.owner_moved = self.thief_moved = False
        self.ended_by_us = False

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    @initialize()
    def log_in(self) -> None:
        async def begin() -> str:
            session = await self.sessions.load(None)
            await session.log_in("user")
            assert session.record is not None
            return (await self.refresh.begin(session.record)).refresh_token

        self.owner = self.run(begin())
        self.session_id = self.owner[:22]

    def exchange(self, token: str) -> str | None:
        async def attempt() -> str | None:
            try:
                return (await self.refresh.exchange(token)).refresh_token
            except RefreshRefused:
                return None

        return self.run(attempt())

    def alive(self) -> bool:
        return isinstance(self.run(self.sessions.store.read(self.session_id)), SessionRecord)

    @rule(lost=st.integers(0, 3), tabs=st.integers(1, 3))
    def the_owner_refreshes(self, lost: int, tabs: int) -> None:
        async def at_once() -> list[str | None]:
            async def one() -> str | None:
                try:
                    return (await self.refresh.exchange(self.owner)).refresh_token
                except RefreshRefused:
                    return None

            return list(await asyncio.gather(*(one() for _ in range(tabs))))

        for _ in range(lost):  # the answer never arrived; the client asks again soon
            self.exchange(self.owner)
            self.clock.advance(GRACE / 4)
        answers = set(self.run(at_once()))
        if self.thief is None and not self.ended_by_us:
            assert len(answers) == 1, "two tabs got two answers"
            assert None not in answers, "nobody stole anything, and the owner was refused"
        (answer, *_) = [each for each in answers if each] or [None]
        if answer is not None:
            self.owner = answer
            self.owner_moved = self.stolen is not None and answer != self.stolen

    @rule(seconds=st.sampled_from([0.5, 3.0, GRACE + 1, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.thief is None)
    @rule()
    def the_token_is_stolen(self) -> None:
        self.thief = self.stolen = self.owner
        self.owner_moved = self.thief_moved = False

    @precondition(lambda self: self.thief is not None)
    @rule()
    def the_thief_refreshes(self) -> None:
        assert self.thief is not None
        answer = self.exchange(self.thief)
        if answer is not None:
            self.thief = answer
            self.thief_moved = True

    @precondition(lambda self: self.thief is not None and self.thief_moved and self.owner_moved)
    @rule()
    def after_the_grace_the_loser_ends_it(self) -> None:
        assert self.thief is not None
        self.clock.advance(GRACE + 1)
        holders = {self.owner, self.thief}
        if len(holders) == 1:  # both hold the same token: one goes on, and the other has lost
            self.exchange(self.owner)
            self.clock.advance(GRACE + 1)
            self.exchange(self.owner)
        else:
            for token in holders:
                self.exchange(token)
        assert not self.alive(), "owner and thief both went on from one token, and the session lives"

    @rule(how=st.sampled_from(["end", "end_user"]))
    def the_session_is_ended(self, how: str) -> None:
        self.run(self.sessions.end(self.session_id) if how == "end" else self.sessions.end_user("user"))
        self.ended_by_us = True

    @invariant()
    def without_a_thief_nobody_is_logged_out(self) -> None:
        if self.thief is None and not self.ended_by_us:
            assert self.alive()

    @invariant()
    def an_ended_session_gives_no_token(self) -> None:
        if not self.alive():
            assert self.exchange(self.owner) is None

    def teardown(self) -> None:
        self.run(self.sessions.close())
        self.loop.close()


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_owner_and_thief_in_any_order(store: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    def make(clock: ManualClock) -> MemoryStore | SQLiteStore:
        if store == "memory":
            return MemoryStore(clock=clock)
        return SQLiteStore(tmp_path_factory.mktemp("model") / "s.sqlite3", clock=clock)

    machine = type("Exchanging", (Exchanges,), {"make_store": staticmethod(make)})
    examples = 60 if store == "memory" else 15
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
