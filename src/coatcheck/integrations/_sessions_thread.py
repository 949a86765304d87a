"""A thread with an event loop of its own, on which threads use `Sessions`. Leaves requests and responses to the framework.

One for each `Sessions`, begun when first needed in the process that needs it. In a forked child it is not there, and says so.
Before the interpreter ends, what is under way is finished, what is pending is written, and the store is closed.
"""

import asyncio
import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from coatcheck.errors import StoreUnavailable, UsageError
from coatcheck.manager import Sessions

__all__ = ["SessionsThread", "thread_of"]

_log = logging.getLogger("coatcheck.sessions")

T = TypeVar("T")

_LAST_SECONDS = 10.0
"""How long closing may take: a store that hangs must not keep the interpreter."""


class SessionsThread:
    """Runs coroutines that use `sessions` on a loop of its own. Starts `sessions` before the first, and again where that failed."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions: Sessions = sessions
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._under_way: set[asyncio.Task[Any]] = set()
        self._refused: Callable[[], Exception] | None = None

    @property
    def inherited(self) -> bool:
        """Whether this was made in a process that this one was forked from, and has not begun here."""
        return os.getpid() != self._process

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop, once there is one."""
        return self._loop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for what it gives or raises.

        Raises StoreUnavailable where the store cannot be opened or the process is ending, UsageError in a child of the
        process that has the thread.
        """
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise _here()
        return self._submit(coroutine).result()

    async def reach(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there, from a coroutine on this or any other loop. Raises as `run` does."""
        if asyncio.get_running_loop() is self._loop:
            return await coroutine
        return await asyncio.wrap_future(self._submit(coroutine))

    def close(self) -> None:
        """Finish what is under way, close `sessions`, end the thread. Harmless where there is none; `run` begins another."""
        if threading.current_thread() is self._thread:
            raise _here()
        if self.inherited:
            self.leave_behind()
        self._close()

    # ---- inside

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        if self.inherited:  # and whoever forked has not told, as uWSGI does not
            self.leave_behind()
        try:
            with self._lock:
                loop = self._loop or self._begin()
                return asyncio.run_coroutine_threadsafe(self._started(coroutine), loop)
        except BaseException:
            coroutine.close()
            raise

    def _begin(self) -> asyncio.AbstractEventLoop:
        if self._refused is not None:
            raise self._refused()
        loop = asyncio.new_event_loop()
        # A daemon, so that it never keeps the interpreter: `_at_exit` sees to it that nothing is lost.
        thread = threading.Thread(target=_serve, args=(loop,), name="coatcheck sessions", daemon=True)
        thread.start()
        self._loop, self._thread, self._process = loop, thread, os.getpid()
        self._register()
        return loop

    async def _started(self, coroutine: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        try:
            if not self.sessions.started:
                try:
                    await self.sessions.start()
                except BaseException:
                    coroutine.close()
                    raise
                self._register()
            return await coroutine
        finally:
            self._under_way.discard(task)

    def _register(self) -> None:
        # What is registered last runs first: behind the store's own hook there would be no store to write to.
        atexit.unregister(self._at_exit)
        atexit.register(self._at_exit)

    def _at_exit(self) -> None:
        if self._loop is not None and not self.inherited:
            self._refused = _ending
            # No thread can be begun any more, so what else would go to one is done in place.
            self._close(executor=_InPlace())

    def _close(self, executor: ThreadPoolExecutor | None = None) -> None:
        with self._lock:
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
        if loop is None or thread is None:
            return
        if executor is not None:
            loop.call_soon_threadsafe(loop.set_default_executor, executor)
        closing = asyncio.run_coroutine_threadsafe(self._finish(), loop)
        try:
            closing.result(_LAST_SECONDS)
        except TimeoutError:
            _log.error("the session store was not closed within %g s, and is left as it is", _LAST_SECONDS)
        finally:
            atexit.unregister(self._at_exit)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_LAST_SECONDS)

    async def _finish(self) -> None:
        if self._under_way:
            await asyncio.wait(set(self._under_way))
        await self.sessions.close()

    def leave_behind(self) -> None:
        """Know that this process is a forked child: the thread, if there was one, is the parent's."""
        self._lock = threading.Lock()  # somebody may have held the old one
        if self._loop is not None:
            # Never closed nor collected here: the parent's selector and database would hear of it.
            _left_behind.append((self._loop, self.sessions))
            self._loop = self._thread = None
            self._refused = _forked


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
    finally:
        loop.close()


def _here() -> UsageError:
    return UsageError("this code runs on the thread that would have to do it: await the coroutine itself")


def _ending() -> Exception:
    return StoreUnavailable("this process is ending: ask another")


def _forked() -> Exception:
    return UsageError(
        "these Sessions were used before this process was forked, and their thread stayed in its parent: use them first "
        "in the child, or give the store's URL, of which each process makes its own"
    )


class _InPlace(ThreadPoolExecutor):
    """Does at once what it is given, on the thread that gives it."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


_threads: "weakref.WeakValueDictionary[int, SessionsThread]" = weakref.WeakValueDictionary()
_threads_lock = threading.Lock()
_left_behind: list[object] = []


def thread_of(sessions: Sessions) -> SessionsThread:
    """Give the thread of these `Sessions`: always the same, for as long as somebody holds it."""
    key = id(sessions)  # which nobody else has while the thread, and so the sessions, are there
    found = _threads.get(key)
    if found is None:
        with _threads_lock:
            found = _threads.get(key)
            if found is None:
                found = _threads[key] = SessionsThread(sessions)
    return found


def _after_fork() -> None:
    global _threads_lock
    _threads_lock = threading.Lock()
    for thread in list(_threads.values()):
        thread.leave_behind()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
