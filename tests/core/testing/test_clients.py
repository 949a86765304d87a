"""`log_in` of `coatcheck.testing`: a real session, and a cookie that the client really sends."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from coatcheck import CookiePolicy, LoginRefused, SessionMiddleware, Sessions, UsageError, session_of
from coatcheck.testing.clients import log_in
from tests.starlette_client import TestClient


def application(sessions: Sessions, cookie: CookiePolicy | None = None) -> Starlette:
    async def who(request: Request) -> Response:
        session = session_of(request)
        return JSONResponse({"user": session.user_id, "cart": session.get("cart"), "about": dict(session.about)})

    async def fill(request: Request) -> Response:
        session_of(request)["cart"] = ["apple"]
        return Response()

    async def again(request: Request) -> Response:
        await session_of(request).regenerate()
        return Response()

    app = Starlette(routes=[Route("/", who), Route("/fill", fill), Route("/again", again)])
    app.add_middleware(SessionMiddleware, sessions, cookie=cookie)
    return app


@pytest.fixture
def sessions() -> Sessions:
    return Sessions("memory://")


@contextmanager
def asynchronous(sessions: Sessions, base_url: str = "https://testserver") -> Iterator[httpx.AsyncClient]:
    yield httpx.AsyncClient(transport=httpx.ASGITransport(application(sessions)), base_url=base_url)


def test_a_client_that_runs_the_lifespan_is_logged_in(sessions: Sessions) -> None:
    with TestClient(application(sessions), base_url="https://testserver") as client:
        session = log_in(client, sessions, "ada", about={"agent": "test"})
        assert session.user_id == "ada"
        assert client.get("/").json() == {"user": "ada", "cart": None, "about": {"agent": "test"}}


def test_a_client_without_a_lifespan_is_logged_in(sessions: Sessions) -> None:
    client = TestClient(application(sessions), base_url="https://testserver")
    log_in(client, sessions, "ada")
    assert client.get("/").json()["user"] == "ada"
    log_in(client, sessions, "bob")
    assert client.get("/").json()["user"] == "bob"


def test_logging_in_before_the_lifespan_begins_is_fine(sessions: Sessions) -> None:
    client = TestClient(application(sessions), base_url="https://testserver")
    log_in(client, sessions, "ada")
    with client:
        assert client.get("/").json()["user"] == "ada"


async def test_a_synchronous_client_in_a_coroutine_is_logged_in(sessions: Sessions) -> None:
    client = TestClient(application(sessions), base_url="https://testserver")
    log_in(client, sessions, "ada")
    assert client.get("/").json()["user"] == "ada"
    with pytest.raises(LoginRefused):
        log_in(client, sessions, "ada", epoch=99)


async def test_an_asynchronous_client_is_logged_in(sessions: Sessions) -> None:
    with asynchronous(sessions) as client:
        async with sessions, client:
            session = await log_in(client, sessions, "ada")
            assert (await client.get("/")).json()["user"] == "ada"
            assert session.id is not None
            await sessions.end(session.id)
            assert (await client.get("/")).json()["user"] is None


def test_what_the_visitor_stored_before_is_kept(sessions: Sessions) -> None:
    with TestClient(application(sessions), base_url="https://testserver") as client:
        client.get("/fill")
        log_in(client, sessions, "ada")
        assert client.get("/").json() == {"user": "ada", "cart": ["apple"], "about": {}}


def test_a_cookie_that_the_server_sets_later_takes_the_place_of_this_one(sessions: Sessions) -> None:
    with TestClient(application(sessions), base_url="https://testserver") as client:
        log_in(client, sessions, "ada")
        client.get("/again")
        assert len(list(client.cookies.jar)) == 1
        assert client.get("/").json()["user"] == "ada"


@pytest.mark.parametrize(
    ("base_url", "policy"),
    [
        ("http://testserver", CookiePolicy(name="session", secure=False)),
        ("https://testserver", CookiePolicy(name="__Secure-ticket", same_site="strict")),
        ("https://api.example.com", CookiePolicy(name="ticket", domain="example.com")),
        ("https://testserver:8443", CookiePolicy()),
    ],
)
def test_the_cookie_follows_the_policy_that_is_given(sessions: Sessions, base_url: str, policy: CookiePolicy) -> None:
    with TestClient(application(sessions, policy), base_url=base_url) as client:
        log_in(client, sessions, "ada", cookie=policy)
        assert client.get("/").json()["user"] == "ada"


def test_a_cookie_of_a_narrow_path_is_sent_there(sessions: Sessions) -> None:
    policy = CookiePolicy(name="ticket", path="/fill")
    with TestClient(application(sessions, policy), base_url="https://testserver") as client:
        log_in(client, sessions, "ada", cookie=policy)
        assert "cookie" in client.get("/fill").request.headers
        assert client.get("/").json()["user"] is None


@pytest.mark.parametrize("base_url", ["http://testserver", "http://localhost:8000"])
def test_a_secure_cookie_over_plain_http_is_refused_by_naming_the_base_url_to_use(
    sessions: Sessions, base_url: str
) -> None:
    client = TestClient(application(sessions), base_url=base_url)
    with pytest.raises(UsageError, match='base_url="https://testserver"'):
        log_in(client, sessions, "ada")
    assert not sessions.started


async def test_a_client_without_a_base_url_is_refused_likewise(sessions: Sessions) -> None:
    with asynchronous(sessions, base_url="") as client:
        with pytest.raises(UsageError, match='base_url="https://testserver"'):
            log_in(client, sessions, "ada")


def test_a_cookie_of_another_domain_is_refused_before_a_session_is_made(sessions: Sessions) -> None:
    client = TestClient(application(sessions), base_url="https://testserver")
    policy = CookiePolicy(name="ticket", domain="example.com")
    with pytest.raises(UsageError, match=r"example\.com"):
        log_in(client, sessions, "ada", cookie=policy)
    assert not sessions.started


def test_what_log_in_refuses_reaches_the_test(sessions: Sessions) -> None:
    arguments: dict[str, Any] = {"epoch": 99}
    with TestClient(application(sessions), base_url="https://testserver") as client:
        with pytest.raises(LoginRefused):
            log_in(client, sessions, "ada", **arguments)
        assert not list(client.cookies.jar)
