"""The thread of `Sessions`: one, begun when needed, that finishes what it was given. Forks and exits: tests/stores."""

import asyncio
import gc
import logging
import threading
import time
import weakref

import pytest

from coatcheck import Sessions, StoreUnavailable, UsageError
from coatcheck.integrations import _sessions_thread
from coatcheck.integrations._sessions_thread import SessionsThread, thread_of
from coatcheck.stores.memory import MemoryStore
from coatcheck.testing import CountingStore, GatedStore


async def where() -> threading.Thread:
    return threading.current_thread()


def test_everything_runs_on_one_thread_that_begins_when_it_is_needed() -> None:
    thread = thread_of(Sessions("memory://"))
    assert thread.loop is None
    try:
        first = thread.run(where())
        assert first is thread.run(where())
        assert first is not threading.current_thread()
        assert first.daemon
        assert thread.sessions.started
    finally:
        thread.close()
    assert not first.is_alive()
    assert not thread.sessions.started


def test_the_same_sessions_have_the_same_thread_and_others_another() -> None:
    one, two = Sessions("memory://"), Sessions("memory://")
    held = thread_of(one)
    assert thread_of(one) is held
    assert thread_of(two) is not held


def test_a_thread_that_never_began_goes_with_whoever_held_it() -> None:
    thread = weakref.ref(thread_of(Sessions("memory://")))
    gc.collect()
    assert thread() is None


def test_many_threads_at_once_begin_one() -> None:
    thread = SessionsThread(Sessions("memory://"))
    together = threading.Barrier(8)
    seen: list[threading.Thread] = []

    def ask() -> None:
        together.wait(10)
        seen.append(thread.run(where()))

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(10)
    thread.close()
    assert len(seen) == 8
    assert len(set(seen)) == 1


def test_what_a_coroutine_raises_is_raised_here() -> None:
    thread = SessionsThread(Sessions("memory://"))

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        thread.run(fail())
    thread.close()


async def test_a_coroutine_on_any_loop_reaches_it_and_one_that_is_there_goes_on_there() -> None:
    thread = SessionsThread(Sessions("memory://"))

    async def twice() -> tuple[threading.Thread, threading.Thread]:
        return await where(), await thread.reach(where())

    try:
        first, second = await thread.reach(twice())
        assert first is second
        assert first is not threading.current_thread()
    finally:
        await asyncio.to_thread(thread.close)


def test_to_wait_on_the_thread_for_itself_is_refused() -> None:
    thread = SessionsThread(Sessions("memory://"))

    async def wait_for_itself() -> None:
        with pytest.raises(UsageError, match="await"):
            thread.run(where())
        with pytest.raises(UsageError, match="await"):
            thread.close()

    thread.run(wait_for_itself())
    thread.close()


def test_a_store_that_cannot_be_opened_is_tried_again_with_the_next_call() -> None:
    class Shut(CountingStore):
        shut = True

        async def start(self) -> None:
            if self.shut:
                raise StoreUnavailable("shut")
            await super().start()

    store = Shut(MemoryStore())
    thread = SessionsThread(Sessions(store, lazy_start=False))
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="shut"):
            thread.run(thread.sessions.epoch("user"))
    store.shut = False
    assert thread.run(thread.sessions.epoch("user")) > 0
    thread.close()


def test_closing_finishes_what_is_under_way_and_the_next_call_begins_again() -> None:
    store = GatedStore(MemoryStore())
    thread = SessionsThread(Sessions(store))
    gate = store.hold("epoch", "before")
    answers: list[int] = []
    asker = threading.Thread(target=lambda: answers.append(thread.run(thread.sessions.epoch("user"))))
    asker.start()
    thread.run(gate.arrived.wait())
    loop = thread.loop
    assert loop is not None
    closer = threading.Thread(target=thread.close)
    closer.start()
    while thread.loop is not None:
        time.sleep(0)  # until it is being closed
    loop.call_soon_threadsafe(gate.release)
    closer.join(10)
    asker.join(10)
    assert len(answers) == 1
    assert loop.is_closed()
    assert thread.run(thread.sessions.epoch("user")) == answers[0]
    thread.close()


def test_a_store_that_hangs_while_it_is_closed_keeps_nobody_for_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Hanging(CountingStore):
        async def close(self) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(_sessions_thread, "_LAST_SECONDS", 0.05)
    thread = SessionsThread(Sessions(Hanging(MemoryStore())))
    serving = thread.run(where())
    thread.close()
    serving.join(10)
    assert not serving.is_alive()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_in_a_forked_child_a_thread_that_ran_is_the_parents_and_one_that_never_began_is_begun() -> None:
    ran, idle = SessionsThread(Sessions("memory://")), SessionsThread(Sessions("memory://"))
    ran.run(where())
    loop = ran.loop
    assert loop is not None
    ran._process = idle._process = 0  # as if this were the child
    assert (ran.inherited, idle.inherited) == (True, True)
    with pytest.raises(UsageError, match="forked"):
        ran.run(where())
    ran.close()
    assert loop.is_running(), "the parent's loop is nobody's to stop"
    idle.run(where())
    assert not idle.inherited
    idle.close()
    asyncio.run_coroutine_threadsafe(ran.sessions.close(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    _sessions_thread._left_behind.clear()
