"""Starlette's decorator in HTTP and WebSocket endpoints, and its `request.user`."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from coatcheck import SessionMiddleware, Sessions, UsageError, session_of
from coatcheck.integrations.starlette import SessionBackend, requires_login
from coatcheck.testing import ManualClock
from coatcheck.testing.clients import log_in
from tests.starlette_client import TestClient, WebSocketDenialResponse


@requires_login
async def user(request: Request) -> Response:
    return PlainTextResponse(session_of(request).user_id)


@requires_login
def user_in_a_thread(request: Request) -> Response:
    return PlainTextResponse(session_of(request).user_id)


@requires_login(fresh_within=300)
async def account(request: Request) -> Response:
    return PlainTextResponse("deleted")


class Notes(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("for everybody")

    @requires_login
    async def post(self, request: Request) -> Response:
        return PlainTextResponse("written")


@requires_login(fresh_within=60)
async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(str(session_of(websocket).user_id))
    await websocket.close()


class Echo(WebSocketEndpoint):
    encoding = "text"

    @requires_login
    async def on_connect(self, websocket: WebSocket) -> None:
        await websocket.accept()

    async def on_receive(self, websocket: WebSocket, data: str) -> None:
        await websocket.send_text(data)


async def who(request: Request) -> Response:
    user = request.user
    return JSONResponse([user.is_authenticated, user.identity, user.display_name, list(request.auth.scopes)])


async def log_in_here(request: Request) -> Response:
    before = request.user.is_authenticated
    await session_of(request).log_in("ada")
    return JSONResponse([before, request.user.is_authenticated])


@requires("authenticated")
async def starlettes_own(request: Request) -> Response:
    return PlainTextResponse("in")


async def nobody_asks(request: Request) -> Response:
    return PlainTextResponse("")


ROUTES = [
    Route("/user", user),
    Route("/user-in-a-thread", user_in_a_thread),
    Route("/account", account, methods=["DELETE"]),
    Route("/notes", Notes),
    Route("/who", who),
    Route("/login", log_in_here, methods=["POST"]),
    Route("/own", starlettes_own),
    Route("/nobody-asks", nobody_asks),
    WebSocketRoute("/socket", socket),
    WebSocketRoute("/echo", Echo),
]


def application(sessions: Sessions) -> Starlette:
    return Starlette(
        routes=ROUTES,
        middleware=[
            Middleware(SessionMiddleware, sessions),
            Middleware(AuthenticationMiddleware, backend=SessionBackend()),
        ],
    )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def sessions(clock: ManualClock) -> Sessions:
    return Sessions("memory://", clock=clock)


@pytest.fixture
def client(sessions: Sessions) -> Iterator[TestClient]:
    with TestClient(application(sessions), base_url="https://testserver") as client:
        yield client


@pytest.mark.parametrize(("method", "path"), [("GET", "/user"), ("GET", "/user-in-a-thread"), ("POST", "/notes")])
def test_an_endpoint_that_requires_a_login_is_401_for_strangers(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "cookie" in answer.headers["vary"].lower()


def test_whoever_is_logged_in_gets_through(client: TestClient, sessions: Sessions) -> None:
    assert client.get("/notes").text == "for everybody"
    log_in(client, sessions, "ada")
    assert client.get("/user").text == "ada"
    assert client.get("/user-in-a-thread").text == "ada"
    assert client.post("/notes").text == "written"


def test_a_login_that_is_too_old_is_told_the_age_that_is_demanded(
    client: TestClient, sessions: Sessions, clock: ManualClock
) -> None:
    log_in(client, sessions, "ada")
    clock.advance(300)
    assert client.delete("/account").text == "deleted"
    clock.advance(0.001)
    answer = client.delete("/account")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith('Bearer error="insufficient_user_authentication"')
    assert answer.headers["www-authenticate"].endswith('max_age="300"')


def test_a_websocket_knows_its_user(client: TestClient, sessions: Sessions) -> None:
    log_in(client, sessions, "ada")
    with client.websocket_connect("wss://testserver/socket") as opened:
        assert opened.receive_text() == "ada"
    with client.websocket_connect("wss://testserver/echo") as opened:
        opened.send_text("hello")
        assert opened.receive_text() == "hello"


@pytest.mark.parametrize("path", ["/socket", "/echo"])
def test_a_websocket_of_nobody_is_answered_401_before_it_is_accepted(client: TestClient, path: str) -> None:
    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect(f"wss://testserver{path}"):
        pass
    assert refused.value.status_code == 401
    assert refused.value.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/socket", "/echo"])
async def test_on_a_server_that_cannot_answer_a_handshake_it_is_closed_before_it_is_accepted(
    sessions: Sessions, path: str
) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": path, "headers": [], "query_string": b"", "subprotocols": []}
    async with sessions:
        await application(sessions)(scope, receive, send)
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1008)]


def test_request_user_is_whoever_the_session_belongs_to(client: TestClient) -> None:
    assert client.get("/who").json() == [False, "", "", []]
    assert client.get("/own").status_code == 403
    assert client.post("/login").json() == [False, True]
    assert client.get("/who").json() == [True, "ada", "ada", ["authenticated"]]
    assert client.get("/own").text == "in"


def test_where_nobody_asks_for_the_user_the_response_does_not_depend_on_the_cookie(
    client: TestClient, sessions: Sessions
) -> None:
    log_in(client, sessions, "ada")
    assert "vary" not in client.get("/nobody-asks").headers
    assert client.get("/who").headers["vary"] == "Cookie"


def test_what_cannot_be_decorated_is_named() -> None:
    with pytest.raises(UsageError, match="Notes"):
        requires_login(Notes)
    with pytest.raises(UsageError, match="fresh_within"):
        requires_login(fresh_within=0)

    @requires_login
    def no_request() -> None: ...

    with pytest.raises(UsageError, match="neither a request nor a WebSocket"):
        no_request()


def test_without_the_middleware_the_error_names_it() -> None:
    with pytest.raises(UsageError, match="SessionMiddleware"):
        TestClient(Starlette(routes=ROUTES)).get("/user")


def test_without_starlette_the_error_says_what_to_install() -> None:
    program = """
import sys
sys.modules["starlette"] = None
from coatcheck import MissingDependency
try:
    import coatcheck.integrations.starlette
except MissingDependency as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "coatcheck.integrations.starlette needs the package starlette: pip install starlette\n"
