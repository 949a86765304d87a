"""What a warm request does not do, whatever the machine's mood: wait, ask the store, make tasks, leave anything behind.

The times are `bench`'s to tell. What holds here holds on every machine; system calls are counted in `tests/slow`.
"""

import asyncio
import gc
import logging
import sys
import tracemalloc
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from coatcheck import SessionMiddleware, Sessions, session_of
from coatcheck.stores import open_store
from coatcheck.testing.stores import CountingStore
from coatcheck.tokens import AccessTokens, KeyRing

SETS_GOING = (
    "create_task",
    "create_future",
    "call_soon",
    "call_soon_threadsafe",
    "call_later",
    "call_at",
    "run_in_executor",
)
MOST_BYTES = 5120
"""That one request holds at once, the application's own included: 1.7 to 2.1 KB, and 1.5 more where coverage is counted."""


async def application(scope: Any, receive: Any, send: Any) -> None:
    session = session_of(scope)
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
    await send(
        {"type": "http.response.start", "status": 200 if session["user"] == "user123" else 401, "headers": headers}
    )
    await send({"type": "http.response.body", "body": b"ok"})


class Site:
    """An application with somebody logged in, by cookie and by bearer."""

    def __init__(self, app: SessionMiddleware, store: CountingStore, cookie: bytes, bearer: bytes) -> None:
        self.app = app
        self.store = store
        self.credentials = {"cookie": (b"cookie", cookie), "bearer": (b"authorization", b"Bearer " + bearer)}
        self.sent: list[MutableMapping[str, Any]] = []

    async def _receive(self) -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message)

    def ask(self, by: str) -> int:
        """One request, driven by hand: a single step, or it has waited for something."""
        self.sent.clear()
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": [(b"host", b"localhost"), self.credentials[by]],
        }
        request = self.app(scope, self._receive, self._send)
        try:
            request.send(None)  # type: ignore[attr-defined]
        except StopIteration:
            return int(self.sent[0]["status"])
        request.close()  # type: ignore[attr-defined]
        raise AssertionError("a warm request has waited for something")


@asynccontextmanager
async def site_on(url: str) -> AsyncIterator[Site]:
    store = CountingStore(open_store(url))
    async with Sessions(store) as sessions:
        ring = KeyRing()
        ring.maintain()
        tokens = AccessTokens(ring, issuer="https://app.example", audience="api")
        session = await sessions.load(None)
        await session.log_in("user123")
        session.update({"user": "user123", "theme": "dark", "cart": ["apple"], "visits": 12, "locale": "en-GB"})
        await session.save()
        assert session.record is not None and session.cookie_change is not None
        cookie = f"__Host-session={session.cookie_change.token}".encode()
        bearer, _ = tokens.issue(session.record)
        site = Site(SessionMiddleware(application, sessions, tokens=tokens), store, cookie, bearer.encode())
        yield site


STORES = pytest.mark.parametrize("store", ["memory://", "sqlite:///{}/sessions.sqlite3"], ids=["memory", "sqlite"])
BY = pytest.mark.parametrize("by", ["cookie", "bearer"])


@STORES
@BY
async def test_it_waits_for_nothing_asks_no_store_and_sets_nothing_going(
    by: str, store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    going: list[str] = []
    async with site_on(store.format(tmp_path)) as site:
        assert site.ask(by) == 200  # a bearer is verified once
        with monkeypatch.context() as patch, caplog.at_level(logging.DEBUG):
            for name in SETS_GOING:
                patch.setattr(loop, name, lambda *args, name=name, **kwargs: going.append(name))
            before = dict(site.store.calls)
            caplog.clear()
            for _ in range(100):
                assert site.ask(by) == 200
        assert going == []
        assert dict(site.store.calls) == before
        assert caplog.records == []


@STORES
@BY
async def test_it_leaves_nothing_behind_and_holds_little_meanwhile(by: str, store: str, tmp_path: Path) -> None:
    async with site_on(store.format(tmp_path)) as site:
        for _ in range(200):
            site.ask(by)

        def grown(requests: int) -> int:
            gc.collect()  # which empties lists of free objects too: they fill again, and no further
            before = sys.getallocatedblocks()
            for _ in range(requests):
                site.ask(by)
            return sys.getallocatedblocks() - before

        gc.disable()
        try:
            few, many = grown(200), grown(4000)
            assert gc.collect() < 5, "circles that only the collector can free"
            tracemalloc.start()
            site.ask(by)
            tracemalloc.reset_peak()
            held = tracemalloc.get_traced_memory()[0]
            site.ask(by)
            most = tracemalloc.get_traced_memory()[1] - held
        finally:
            tracemalloc.stop()
            gc.enable()
    assert many - few < 40, f"{many - few} blocks more after 4000 requests than after 200"
    assert most < MOST_BYTES, f"{most} bytes at once"


async def test_one_that_is_not_warm_would_be_seen() -> None:
    async with site_on("memory://") as site:
        site.app.sessions.cache.clear()
        before = site.store.reads
        assert site.ask("cookie") == 200
        assert site.store.reads == before + 1
        site.app.app = waiting
        with pytest.raises(AssertionError, match="has waited"):
            site.ask("cookie")


async def waiting(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0)
    await application(scope, receive, send)
