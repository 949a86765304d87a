"""However an application is run, its sessions start: lifespan, context manager, first use; one loop, two, or one per request."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar, get, post
from litestar import Request as LitestarRequest
from litestar.middleware import DefineMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from coatcheck import (
    SessionMiddleware,
    Sessions,
    SessionsNotStarted,
    StoreUnavailable,
    UsageError,
    WrongEventLoop,
    session_of,
)
from coatcheck.stores.memory import MemoryStore
from coatcheck.testing import GatedStore


class OneLoopStore(MemoryStore):
    """A store whose connections belong to one loop, as those over the network are."""

    any_loop = False


async def login(request: Request) -> PlainTextResponse:
    await session_of(request).log_in("user")
    return PlainTextResponse("Logged in")


async def whoami(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(session_of(request).user_id))


ROUTES = [Route("/login", login, methods=["POST"]), Route("/whoami", whoami)]


def application(sessions: Sessions) -> Starlette:
    return Starlette(routes=ROUTES, middleware=[Middleware(SessionMiddleware, sessions=sessions)])


def use(client: Any) -> None:
    assert client.post("/login").text == "Logged in"
    assert client.get("/whoami").text == "user"


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 's.sqlite3'}"


def test_a_test_client_as_context_manager_starts_and_closes_them(url: str) -> None:
    sessions = Sessions(url)
    with TestClient(application(sessions), base_url="https://testserver") as client:
        assert sessions.started
        use(client)
    assert not sessions.started


def test_a_test_client_without_context_manager_has_a_loop_for_each_request(url: str) -> None:
    use(TestClient(application(Sessions(url)), base_url="https://testserver"))


async def test_asgi_transport_shows_no_lifespan_and_first_use_starts_them(url: str) -> None:
    sessions = Sessions(url)
    transport = httpx.ASGITransport(application(sessions))
    async with httpx.AsyncClient(transport=transport, base_url="https://testserver") as client:
        assert (await client.post("/login")).text == "Logged in"
        assert (await client.get("/whoami")).text == "user"
    await sessions.close()


def test_a_mounted_application_sees_no_lifespan_and_first_use_starts_them(url: str) -> None:
    sessions = Sessions(url)
    outer = Starlette(routes=[Mount("/app", app=application(sessions))])
    with TestClient(outer, base_url="https://testserver") as client:
        assert not sessions.started
        assert client.post("/app/login").text == "Logged in"
        assert client.get("/app/whoami").text == "user"


def test_litestar_uses_them(url: str) -> None:
    sessions = Sessions(url)

    @post("/login")
    async def log_in(request: LitestarRequest[Any, Any, Any]) -> str:
        await session_of(request).log_in("user")
        return "Logged in"

    @get("/whoami")
    async def who(request: LitestarRequest[Any, Any, Any]) -> str:
        return str(session_of(request).user_id)

    from litestar.testing import TestClient as LitestarClient

    app = Litestar([log_in, who], middleware=[DefineMiddleware(SessionMiddleware, sessions=sessions)])
    with LitestarClient(app, base_url="https://testserver.local") as client:
        use(client)


def test_two_loops_at_once_share_what_any_loop_may_use(url: str) -> None:
    sessions = Sessions(url)
    done: list[str | None] = []
    token: list[bytes] = []
    ready, finish = threading.Event(), threading.Event()

    async def first() -> None:
        async with sessions:
            session = await sessions.load(None)
            await session.log_in("user")
            assert session.cookie_change is not None
            token.append((session.cookie_change.token or "").encode())
            ready.set()
            await asyncio.to_thread(finish.wait, 10)

    async def second() -> None:
        done.append((await sessions.load(token[0])).user_id)
        session = await sessions.load(token[0])
        await session.log_out()
        done.append((await sessions.load(token[0])).user_id)

    thread = threading.Thread(target=lambda: asyncio.run(first()))
    thread.start()
    assert ready.wait(10)
    asyncio.run(second())
    finish.set()
    thread.join(10)
    assert done == ["user", None]


def test_a_store_of_one_loop_says_so_in_another() -> None:
    sessions = Sessions(OneLoopStore())
    asyncio.run(sessions.start())
    with pytest.raises(WrongEventLoop, match="with TestClient"):
        asyncio.run(sessions.load(None))


async def test_without_lazy_start_the_missing_line_is_named() -> None:
    sessions = Sessions("memory://", lazy_start=False)
    with pytest.raises(SessionsNotStarted, match="async with sessions"):
        await sessions.load(None)
    async with sessions:
        assert (await sessions.load(None)).user_id is None


async def test_starting_twice_at_once_is_starting_once() -> None:
    started: list[int] = []

    class Slow(MemoryStore):
        async def start(self) -> None:
            started.append(1)
            await asyncio.sleep(0)

    sessions = Sessions(Slow())
    await asyncio.gather(*(sessions.start() for _ in range(5)))
    assert started == [1]
    await sessions.close()
    await sessions.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"idle_timeout": 0}, "idle_timeout=0"),
        ({"lifetime": -1}, "lifetime=-1"),
        ({"max_staleness": 0}, "max_staleness=0"),
        ({"touch_interval": 0}, "touch_interval=0"),
        ({"idle_timeout": 5, "touch_interval": 6}, "idle_timeout=5"),
        ({"max_per_user": 0}, "max_per_user=0"),
        ({"cache_entries": 0}, "cache_entries"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Sessions("memory://", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["memory", "redis-ish://x", "sqlite://", "sqlite:///", "sqlite://relative"])
def test_a_url_that_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"memory://|sqlite:///"):
        Sessions(url)


async def test_a_request_that_comes_while_a_node_closes_is_503_and_starts_nothing() -> None:
    store = GatedStore(MemoryStore())
    sessions = Sessions(store)
    session = await sessions.load(None)
    await session.log_in("user")
    assert session.cookie_change is not None
    token = (session.cookie_change.token or "").encode()
    await sessions.load(token)
    gate = store.hold("touch", "before")
    sessions.active(session.id or "")
    closing = asyncio.ensure_future(sessions.close())
    await gate.arrived.wait()
    with pytest.raises(StoreUnavailable, match="closing"):
        await sessions.load(token)
    gate.release()
    await closing
    assert not sessions.started
    assert (await sessions.load(token)).user_id == "user", "closed, it may be opened again"
    await sessions.close()


def test_two_loops_that_start_at_once_make_one_feed() -> None:
    feeds: list[int] = []

    class Slow(MemoryStore):
        async def start(self) -> None:
            await asyncio.sleep(0.05)

        def changes(self) -> Any:
            feeds.append(1)
            return super().changes()

    sessions = Sessions(Slow())
    barrier = threading.Barrier(2)

    async def use() -> None:
        await asyncio.to_thread(barrier.wait, 10)
        await sessions.load(None)
        await asyncio.to_thread(barrier.wait, 10)

    threads = [threading.Thread(target=lambda: asyncio.run(use())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert feeds == [1]
