"""FastAPI's dependencies in HTTP and WebSocket routes, and what OpenAPI says of them."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated, Any, cast

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket

from coatcheck import CookiePolicy, Session, SessionMiddleware, Sessions, UsageError
from coatcheck.integrations.fastapi import CurrentSession, CurrentUser, describe_sessions, require_fresh, require_login
from coatcheck.testing import ManualClock
from coatcheck.testing.clients import log_in
from tests.starlette_client import TestClient, WebSocketDenialResponse


def application(sessions: Sessions, cookie: CookiePolicy | None = None) -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, sessions, cookie=cookie)

    @app.post("/login")
    async def login(session: CurrentSession) -> None:
        await session.log_in("ada")

    @app.get("/visitor")
    async def visitor(session: CurrentSession) -> str | None:
        return session.user_id

    @app.get("/user")
    async def user(user: CurrentUser) -> str:
        return user

    @app.get("/user-in-a-thread")
    def user_in_a_thread(user: CurrentUser) -> str:
        return user

    @app.delete("/account", dependencies=[Depends(require_login(fresh_within=300))])
    async def delete_account() -> None: ...

    @app.get("/exact")
    async def exact(session: Annotated[Session, Depends(require_fresh())]) -> str | None:
        return session.user_id

    @app.get("/fresh", responses={401: {"description": "mine"}})
    async def fresh(session: Annotated[Session, Depends(require_login(fresh_within=0.5))]) -> str | None:
        return session.user_id

    router = APIRouter(prefix="/inside", dependencies=[Depends(require_login())])

    @router.get("")
    async def inside() -> str:
        return "inside"

    app.include_router(router)

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, user: CurrentUser) -> None:
        await websocket.accept()
        await websocket.send_text(user)
        await websocket.close()

    @app.websocket("/fresh-socket")
    async def fresh_socket(
        websocket: WebSocket, session: Annotated[Session, Depends(require_login(fresh_within=60))]
    ) -> None:
        await websocket.accept()
        await websocket.send_text(str(session.user_id))
        await websocket.close()

    return app


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


def test_a_route_that_must_ask_sees_an_end_that_no_feed_has_told(client: TestClient, sessions: Sessions) -> None:
    log_in(client, sessions, "ada")
    assert client.get("/exact").json() == "ada"
    memory = cast("Any", sessions.store.inner)
    (session_id,) = memory._records
    del memory._records[session_id]  # ended, and nobody was told
    assert client.get("/user").status_code == 200, "this node's copy"
    assert client.get("/exact").status_code == 401
    assert client.get("/user").status_code == 401, "and the copy is gone"


def test_the_current_session_is_an_anonymous_visitors_too(client: TestClient, sessions: Sessions) -> None:
    assert client.get("/visitor").json() is None
    log_in(client, sessions, "ada")
    assert client.get("/visitor").json() == "ada"


def test_log_in_by_the_current_session_is_known_to_the_next_request(client: TestClient) -> None:
    client.post("/login")
    assert client.get("/user").json() == "ada"


@pytest.mark.parametrize("path", ["/user", "/user-in-a-thread", "/inside", "/fresh"])
def test_where_nobody_is_logged_in_the_answer_is_401_with_a_bare_challenge(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json() == {"detail": "Unauthorized"}
    assert "cookie" in answer.headers["vary"].lower()


@pytest.mark.parametrize(
    ("path", "said"), [("/user", "ada"), ("/user-in-a-thread", "ada"), ("/inside", "inside"), ("/fresh", "ada")]
)
def test_whoever_is_logged_in_gets_through(client: TestClient, sessions: Sessions, path: str, said: str) -> None:
    log_in(client, sessions, "ada")
    assert client.get(path).json() == said


def test_a_login_that_is_too_old_is_told_the_age_that_is_demanded(
    client: TestClient, sessions: Sessions, clock: ManualClock
) -> None:
    log_in(client, sessions, "ada")
    clock.advance(300)
    assert client.delete("/account").status_code == 200
    clock.advance(0.001)
    answer = client.delete("/account")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == (
        'Bearer error="insufficient_user_authentication", '
        'error_description="A more recent login is required", max_age="300"'
    )
    assert client.get("/user").json() == "ada"
    log_in(client, sessions, "ada")
    assert client.delete("/account").status_code == 200


def test_the_challenge_speaks_of_whole_seconds(client: TestClient, sessions: Sessions, clock: ManualClock) -> None:
    log_in(client, sessions, "ada")
    clock.advance(1)
    assert client.get("/fresh").headers["www-authenticate"].endswith('max_age="0"')


async def test_an_ended_session_is_nobodys(sessions: Sessions) -> None:
    transport = httpx.ASGITransport(application(sessions))
    async with sessions, httpx.AsyncClient(transport=transport, base_url="https://testserver") as client:
        session = await log_in(client, sessions, "ada")
        assert (await client.get("/user")).json() == "ada"
        assert session.id is not None
        await sessions.end(session.id)
        assert (await client.get("/user")).status_code == 401


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_freshness_that_no_login_can_have_is_refused_when_it_is_asked_for(seconds: float) -> None:
    with pytest.raises(UsageError, match="fresh_within"):
        require_login(fresh_within=seconds)


def test_without_the_middleware_the_error_names_it() -> None:
    app = FastAPI()

    @app.get("/")
    async def root(user: CurrentUser) -> str:
        return user

    with pytest.raises(UsageError, match="SessionMiddleware"):
        TestClient(app).get("/")


# ---- WebSockets


@pytest.mark.parametrize("path", ["/socket", "/fresh-socket"])
def test_a_websocket_knows_its_user(client: TestClient, sessions: Sessions, path: str) -> None:
    log_in(client, sessions, "ada")
    with client.websocket_connect(f"wss://testserver{path}") as socket:
        assert socket.receive_text() == "ada"


def test_a_websocket_of_nobody_is_answered_401_before_it_is_accepted(client: TestClient) -> None:
    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("wss://testserver/socket"):
        pass
    assert refused.value.status_code == 401
    assert refused.value.headers["www-authenticate"] == "Bearer"


def test_a_websocket_of_a_login_that_is_too_old_is_told_so(
    client: TestClient, sessions: Sessions, clock: ManualClock
) -> None:
    log_in(client, sessions, "ada")
    clock.advance(61)
    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("wss://testserver/fresh-socket"):
        pass
    assert refused.value.status_code == 401
    assert 'max_age="60"' in refused.value.headers["www-authenticate"]


async def test_on_a_server_that_cannot_answer_a_handshake_it_is_closed_before_it_is_accepted(
    sessions: Sessions,
) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/socket", "headers": [], "query_string": b"", "subprotocols": []}
    async with sessions:
        await application(sessions)(scope, receive, send)
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1008)]


# ---- OpenAPI


def operations(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {path: operation for path, item in schema["paths"].items() for operation in item.values()}


def test_openapi_names_the_cookie_and_who_demands_it(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    scheme = schema["components"]["securitySchemes"]
    assert scheme.keys() == {"session"}
    assert (scheme["session"]["type"], scheme["session"]["in"]) == ("apiKey", "cookie")
    assert scheme["session"]["name"] == "__Host-session"
    demanding = {path for path, operation in operations(schema).items() if operation.get("security")}
    assert demanding == {"/user", "/user-in-a-thread", "/account", "/exact", "/fresh", "/inside"}
    assert all(
        operation["security"] == [{"session": []}]
        for path, operation in operations(schema).items()
        if path in demanding
    )


def test_described_sessions_show_the_policys_name_and_each_401(sessions: Sessions) -> None:
    policy = CookiePolicy(name="ticket")
    app = application(sessions, policy)
    describe_sessions(app, cookie=policy)
    with TestClient(app, base_url="https://testserver") as client:
        schema = client.get("/openapi.json").json()
        assert client.get("/openapi.json").json() == schema
    assert schema["components"]["securitySchemes"]["session"]["name"] == "ticket"
    answers = {path: operation["responses"].get("401") for path, operation in operations(schema).items()}
    assert answers["/login"] is None
    assert answers["/visitor"] is None
    assert answers["/fresh"]["description"] == "mine"
    for path in ("/user", "/account", "/inside"):
        assert answers[path]["headers"].keys() == {"WWW-Authenticate"}


def test_where_access_tokens_do_as_well_the_schema_names_both_for_each_route_that_wants_a_login(
    sessions: Sessions,
) -> None:
    app = application(sessions)
    describe_sessions(app, bearer=True)
    with TestClient(app, base_url="https://testserver") as client:
        schema = client.get("/openapi.json").json()
        assert client.get("/openapi.json").json() == schema
    assert schema["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    demands = {path: operation.get("security") for path, operation in operations(schema).items()}
    assert demands["/visitor"] is None
    assert demands["/user"] == [{"session": []}, {"bearer": []}]


def test_an_application_without_sessions_is_described_as_it_was() -> None:
    app = FastAPI()
    before = dict(app.openapi())
    describe_sessions(app)
    assert app.openapi() == before


def test_without_fastapi_the_error_says_what_to_install() -> None:
    program = """
import sys
sys.modules["fastapi"] = None
from coatcheck import MissingDependency
try:
    import coatcheck.integrations.fastapi
except MissingDependency as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == (
        "coatcheck.integrations.fastapi needs the package fastapi: pip install 'coatcheck[fastapi]'\n"
    )
