"""Litestar's plugin, guard and dependencies in HTTP and WebSocket handlers, and what OpenAPI says of them."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from litestar import Controller, Litestar, MediaType, Request, Response, WebSocket, delete, get, post, websocket
from litestar.config.app import AppConfig
from litestar.di import Provide
from litestar.exceptions import ClientException, InternalServerException
from litestar.middleware import DefineMiddleware
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from litestar.params import FromPath

from coatcheck import CookiePolicy, SessionMiddleware, Sessions, StoreUnavailable, UsageError
from coatcheck.integrations.litestar import CurrentSession, CurrentUser, SessionPlugin, provide_session, requires_login
from coatcheck.stores.memory import MemoryStore
from coatcheck.testing import GatedStore, ManualClock
from coatcheck.testing.clients import log_in
from coatcheck.tokens import AccessTokens, KeyRing
from tests.starlette_client import TestClient, WebSocketDenialResponse


@post("/login", status_code=200)
async def log_in_here(session: CurrentSession) -> None:
    await session.log_in("ada")


@get("/visitor")
async def visitor(session: CurrentSession, request: Request[Any, Any, Any]) -> dict[str, Any]:
    assert request.session is session
    return {"user": session.user_id, **session}


@get("/user", media_type=MediaType.TEXT)
async def user(current_user: CurrentUser) -> str:
    return current_user


@get("/user-in-a-thread", media_type=MediaType.TEXT, sync_to_thread=True)
def user_in_a_thread(current_user: CurrentUser, session: CurrentSession) -> str:
    session.sync.modify("seen", lambda seen: (seen or 0) + 1)
    return current_user


@delete("/account", guards=[requires_login(fresh_within=300)])
async def delete_account() -> None: ...


class Inside(Controller):
    path = "/inside"
    guards = (requires_login(),)

    @get(["/", "/again"], media_type=MediaType.TEXT)
    async def inside(self) -> str:
        return "inside"


@get("/fails/{kind:str}")
async def fails(session: CurrentSession, kind: FromPath[str]) -> None:
    session[kind] = True
    raise {
        "zero": ZeroDivisionError(),
        "key": KeyError(kind),
        "client": ClientException("no"),
        "server": InternalServerException("oh"),
    }[kind]


@post("/verb", status_code=200)
async def verb(session: CurrentSession) -> None:
    session["pending"] = True
    await session.regenerate()


@websocket("/socket")
async def socket(socket: WebSocket[Any, Any, Any], current_user: CurrentUser) -> None:
    await socket.accept()
    await socket.send_text(current_user)
    await socket.close()


@websocket("/fresh-socket", guards=[requires_login(fresh_within=60)])
async def fresh_socket(socket: WebSocket[Any, Any, Any], session: CurrentSession) -> None:
    await socket.accept()
    await socket.send_text(str(session.user_id))
    await socket.close()


HANDLERS: list[Any] = [
    log_in_here, visitor, user, user_in_a_thread, delete_account, Inside, fails, verb, socket, fresh_socket,
]  # fmt: skip


def application(sessions: Sessions, **options: Any) -> Litestar:
    forgiving = {KeyError: lambda request, error: Response("forgiven", status_code=200, media_type=MediaType.TEXT)}
    return Litestar(
        HANDLERS, plugins=[SessionPlugin(sessions, **options)], exception_handlers=forgiving, logging_config=None
    )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> GatedStore:
    return GatedStore(MemoryStore(clock=clock))


@pytest.fixture
def sessions(store: GatedStore, clock: ManualClock) -> Sessions:
    return Sessions(store, clock=clock, lazy_start=False)


@pytest.fixture
def client(sessions: Sessions) -> Iterator[TestClient]:
    app = application(sessions)
    with TestClient(app, base_url="https://testserver", raise_server_exceptions=False) as client:  # type: ignore[arg-type]
        yield client
    assert not sessions.started


def test_the_session_is_an_anonymous_visitors_too_and_the_requests_own(client: TestClient) -> None:
    assert client.get("/visitor").json() == {"user": None}
    client.post("/login")
    assert client.get("/visitor").json() == {"user": "ada"}


@pytest.mark.parametrize("path", ["/user", "/user-in-a-thread", "/inside", "/inside/again"])
def test_where_nobody_is_logged_in_the_answer_is_401_with_a_bare_challenge(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "cookie" in answer.headers["vary"].lower()


def test_whoever_is_logged_in_gets_through(client: TestClient) -> None:
    client.post("/login")
    for path, said in (("/user", "ada"), ("/user-in-a-thread", "ada"), ("/inside", "inside")):
        assert client.get(path).text == said
    assert client.get("/visitor").json()["seen"] == 1


def test_a_login_that_is_too_old_is_told_the_age_that_is_demanded(
    client: TestClient, sessions: Sessions, clock: ManualClock
) -> None:
    log_in(client, sessions, "ada")
    clock.advance(300)
    assert client.delete("/account").status_code == 204
    clock.advance(0.001)
    answer = client.delete("/account")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].endswith('max_age="300"')
    with pytest.raises(UsageError, match="fresh_within"):
        requires_login(fresh_within=-1)


def test_what_another_site_causes_is_refused(sessions: Sessions) -> None:
    app = application(sessions, public_origins=["https://app.example"])
    with TestClient(app, base_url="https://testserver") as client:  # type: ignore[arg-type]
        assert client.post("/login", headers={"origin": "https://evil.example"}).status_code == 403
        assert client.post("/login", headers={"origin": "https://app.example"}).status_code == 200


def test_an_exception_that_the_application_lets_out_discards_and_what_it_answers_is_stored(client: TestClient) -> None:
    client.post("/login")
    answers = [client.get(f"/fails/{kind}").status_code for kind in ("zero", "key", "client", "server")]
    assert answers == [500, 200, 400, 500]
    assert client.get("/visitor").json() == {"user": "ada", "key": True, "client": True}


@pytest.mark.parametrize("catch", [Exception, 500])
def test_an_exception_handler_for_every_exception_answers_none_of_them(sessions: Sessions, catch: Any) -> None:
    handlers = {catch: lambda request, error: Response("sorry", status_code=500)}
    app = Litestar(HANDLERS, plugins=[SessionPlugin(sessions)], exception_handlers=handlers, logging_config=None)
    with TestClient(app, base_url="https://testserver") as client:  # type: ignore[arg-type]
        client.post("/login")
        assert client.get("/fails/zero").text == "sorry"
        assert client.get("/visitor").json() == {"user": "ada"}


def test_a_store_that_cannot_be_asked_is_503(client: TestClient, store: GatedStore) -> None:
    client.post("/login")
    store.down = True
    answer = client.post("/verb")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 503
    store.down = False
    assert client.get("/visitor").json() == {"user": "ada"}


def test_a_verb_on_a_session_that_has_ended_is_401(sessions: Sessions) -> None:
    @post("/over")
    async def over(session: CurrentSession) -> None:
        await sessions.end(session.id or "")
        session["pending"] = True
        await session.regenerate()

    app = Litestar([log_in_here, over, visitor], plugins=[SessionPlugin(sessions)], logging_config=None)
    with TestClient(app, base_url="https://testserver") as client:  # type: ignore[arg-type]
        client.post("/login")
        answer = client.post("/over")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert "set-cookie" not in answer.headers


def test_the_application_may_answer_our_errors_itself(sessions: Sessions, store: GatedStore) -> None:
    handlers = {StoreUnavailable: lambda request, error: Response("mine", status_code=500, media_type="text/plain")}
    app = Litestar(HANDLERS, plugins=[SessionPlugin(sessions)], exception_handlers=handlers, logging_config=None)
    with TestClient(app, base_url="https://testserver") as client:  # type: ignore[arg-type]
        store.down = True
        assert client.post("/login").text == "mine"


def test_the_application_starts_with_its_store_away(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    class Shut(GatedStore):
        async def start(self) -> None:
            if self.down:
                raise StoreUnavailable("shut")
            await super().start()

    store = Shut(MemoryStore(clock=clock))
    store.down = True
    app = application(Sessions(store, clock=clock))
    with TestClient(app, base_url="https://testserver") as client:  # type: ignore[arg-type]
        assert "is away" in caplog.text
        assert client.post("/login").status_code == 503
        store.down = False
        assert client.post("/login").status_code == 200


def test_what_the_application_provides_by_our_names_is_its_own(sessions: Sessions) -> None:
    async def mine() -> str:
        return "mine"

    app = Litestar([user], plugins=[SessionPlugin(sessions)], dependencies={"current_user": Provide(mine)})
    with TestClient(app, base_url="https://testserver") as client:  # type: ignore[arg-type]
        assert client.get("/user").text == "mine"
        assert "security" not in client.get("/schema/openapi.json").json()["paths"]["/user"]["get"]


# ---- WebSockets


@pytest.mark.parametrize("path", ["/socket", "/fresh-socket"])
def test_a_websocket_knows_its_user(client: TestClient, sessions: Sessions, path: str) -> None:
    log_in(client, sessions, "ada")
    with client.websocket_connect(f"wss://testserver{path}") as opened:
        assert opened.receive_text() == "ada"


@pytest.mark.parametrize("path", ["/socket", "/fresh-socket"])
def test_a_websocket_of_nobody_is_answered_401_before_it_is_accepted(client: TestClient, path: str) -> None:
    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect(f"wss://testserver{path}"):
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
    assert 'max_age="60"' in refused.value.headers["www-authenticate"]


async def closes(app: Any, path: str, extensions: dict[str, Any]) -> list[Any]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "websocket", "path": path, "raw_path": path.encode(), "headers": [], "query_string": b"",
        "subprotocols": [], "extensions": extensions, "client": None, "root_path": "",
    }  # fmt: skip
    await app(scope, receive, send)
    return [(message["type"], message.get("code")) for message in sent]


async def test_on_a_server_that_cannot_answer_a_handshake_it_is_closed_before_it_is_accepted(
    sessions: Sessions,
) -> None:
    async with sessions:
        assert await closes(application(sessions), "/socket", {}) == [("websocket.close", 1008)]


async def test_without_the_plugin_it_is_closed_on_every_server(sessions: Sessions) -> None:
    app = Litestar(
        [fresh_socket],
        middleware=[DefineMiddleware(SessionMiddleware, sessions=sessions)],
        dependencies={"session": Provide(provide_session)},
        logging_config=None,
    )
    async with sessions:
        assert await closes(app, "/fresh-socket", {"websocket.http.response": {}}) == [("websocket.close", 1008)]


# ---- OpenAPI


def operations(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {path: operation for path, item in schema["paths"].items() for operation in item.values()}


def test_openapi_names_the_cookie_and_who_demands_it(sessions: Sessions) -> None:
    app = application(sessions, cookie=CookiePolicy(name="ticket"))
    with TestClient(app, base_url="https://testserver") as client:  # type: ignore[arg-type]
        schema = client.get("/schema/openapi.json").json()
    scheme = schema["components"]["securitySchemes"]["session"]
    assert (scheme["type"], scheme["in"], scheme["name"]) == ("apiKey", "cookie", "ticket")
    demanding = {path for path, operation in operations(schema).items() if operation.get("security")}
    assert demanding == {"/user", "/user-in-a-thread", "/account", "/inside", "/inside/again"}
    for path in demanding:
        operation = operations(schema)[path]
        assert operation["security"] == [{"session": []}]
        assert "401" in operation["responses"]
    assert "401" not in operations(schema)["/visitor"]["responses"]


def test_openapi_offers_the_bearer_beside_it_and_keeps_what_is_there(sessions: Sessions) -> None:
    @get("/both", guards=[requires_login()], security=[{"session": []}, {"key": []}])
    async def both() -> None: ...

    tokens = AccessTokens(KeyRing(), issuer="https://me", audience="https://me")
    key = Components(security_schemes={"key": SecurityScheme(type="apiKey", name="key", security_scheme_in="header")})
    for components in (key, [key]):
        config = OpenAPIConfig(title="mine", version="1", components=components)
        app = Litestar([user, both], plugins=[SessionPlugin(sessions, tokens=tokens)], openapi_config=config)
        schema = app.openapi_schema.to_schema()
        assert schema["components"]["securitySchemes"].keys() == {"session", "bearer", "key"}
        assert operations(schema)["/user"]["security"] == [{"session": []}, {"bearer": []}]
        assert operations(schema)["/both"]["security"] == [{"session": []}, {"key": []}, {"bearer": []}]
        assert config.components is components, "the given configuration is left alone"


def test_an_application_without_openapi_has_sessions_too(sessions: Sessions) -> None:
    assert SessionPlugin(sessions).on_app_init(AppConfig(openapi_config=None)).openapi_config is None


def test_without_litestar_the_error_says_what_to_install() -> None:
    program = """
import sys
sys.modules["litestar"] = None
from coatcheck import MissingDependency
try:
    import coatcheck.integrations.litestar
except MissingDependency as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == (
        "coatcheck.integrations.litestar needs the package litestar: pip install 'coatcheck[litestar]'\n"
    )
