"""The how-to pages: what they show runs as it stands, in order, and does what the text around it says."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import grpc.aio
import pytest

from coatcheck import SessionMiddleware
from coatcheck.testing.clients import log_in
from tests.clients.serving import ROOT
from tests.core.integrations.grpc_site import NO_PROXY, status
from tests.starlette_client import TestClient, WebSocketDenialResponse, WebSocketTestSession

PAGES = ROOT / "docs" / "how-to"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)\)")


def program(name: str) -> ModuleType:
    """Everything that a page shows, as one module."""
    module = ModuleType(f"how_to_{name.replace('-', '_')}")
    sys.modules[module.__name__] = module  # where frameworks look for what annotations mean
    for language, block in BLOCK.findall((PAGES / f"{name}.md").read_text()):
        assert language == "python", f"nothing runs the {language or 'unnamed'} blocks of {name}.md"
        exec(compile(block, f"{name}.md", "exec"), module.__dict__)
    return module


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith("how_to_")]:
        del sys.modules[name]


def test_flask() -> None:
    page = program("flask")
    page.test_profile()
    client = page.app.test_client()
    answer = client.get("/profile", headers={"Accept": "text/html"})
    assert answer.headers["Location"] == "/login?next=/profile"
    assert client.post("/login").text == "Logged in"
    assert client.get("/profile").text == "Hello, user123"
    assert client.post("/cart/hat").json == {"cart": ["hat"], "said": ["hat is yours"]}
    answer = client.post("/cart/coat")
    assert answer.json == {"cart": ["hat", "coat"], "said": ["coat is yours"]}
    other = page.app.test_client()
    other.post("/login")
    assert client.delete("/account").status_code == 204
    assert other.get("/profile").status_code == 302
    assert client.post("/login/ada", data={"password": "wrong"}).status_code == 401
    answer = client.post("/login/ada", data={"password": "a coat, a hat, an umbrella", "remember": "1"})
    assert "Max-Age=" in answer.headers["Set-Cookie"]
    assert page.shop.test_client().get("/").status_code == 404
    shop = page.shop.test_client()
    assert shop.post("/", headers={"Origin": "https://shop.example"}).status_code == 404
    assert shop.post("/", headers={"Origin": "https://evil.example"}).status_code == 403
    page.coatcheck.close()
    page.extension.close()


def test_litestar() -> None:
    page = program("litestar")
    with TestClient(page.app, base_url="https://testserver") as client:
        assert client.get("/profile").status_code == 401
        client.post("/login")
        assert client.get("/profile").json() == {"hello": "user123"}
        assert client.delete("/account").status_code == 204
        assert client.get("/profile").status_code == 401
        schema = client.get("/schema/openapi.json").json()
        assert schema["paths"]["/profile"]["get"]["security"] == [{"session": []}]
    with TestClient(page.notes, base_url="https://testserver") as client:
        assert client.get("/notes").status_code == 401
        with pytest.raises(WebSocketDenialResponse), client.websocket_connect("wss://testserver/notes/live"):
            pass
        client.post("/login")
        with client.websocket_connect("wss://testserver/notes/live") as socket:
            assert socket.receive_json() == []
    with TestClient(page.bare, base_url="https://testserver") as client:
        assert page.sessions.started
        assert client.get("/who").text == "None"
    assert not page.sessions.started


def test_strawberry() -> None:
    page = program("strawberry")

    def ask(client: TestClient, query: str) -> Any:
        return client.post("/graphql", json={"query": query}).json()

    with TestClient(page.app, base_url="https://testserver") as client:
        assert ask(client, "{ profile }")["errors"][0]["extensions"] == {"code": "UNAUTHENTICATED"}
        refused = ask(client, "mutation { deleteAccount }")["errors"][0]["extensions"]
        assert refused == {"code": "UNAUTHENTICATED", "maxAge": 300}
        assert ask(client, "mutation { logIn }") == {"data": {"logIn": True}}
        assert ask(client, "{ profile }") == {"data": {"profile": "Hello, user123"}}
        origin = {"origin": "https://app.example"}
        with client.websocket_connect(
            "wss://testserver/graphql", subprotocols=["graphql-transport-ws"], headers=origin
        ) as socket:
            socket.send_json({"type": "connection_init"})
            assert socket.receive_json() == {"type": "connection_ack"}
            socket.send_json({"type": "subscribe", "id": "1", "payload": {"query": "mutation { logIn }"}})
            assert "no cookie can be set" in socket.receive_json()["payload"]["errors"][0]["message"]
            assert ask(client, "mutation { deleteAccount }") == {"data": {"deleteAccount": True}}
            while (message := socket.receive())["type"] == "websocket.send":
                pass
            assert (message["type"], message["code"]) == ("websocket.close", 4401)
        assert ask(client, "{ profile }")["data"] == {"profile": None}
    with TestClient(page.api, base_url="https://testserver") as client:
        session = log_in(client, page.sessions, "ada")
        assert ask(client, "{ name }") == {"data": {"name": "ada"}}
        token, _ = page.tokens.issue(session.record)
        client.cookies.clear()
        for app, query, answer in (
            (page.api, "{ name }", {"name": "ada"}),
            (SessionMiddleware(page.for_programs, page.sessions), "{ profile }", {"profile": "Hello, ada"}),
        ):
            program_ = TestClient(app, base_url="https://testserver")
            with program_.websocket_connect("/graphql", subprotocols=["graphql-transport-ws"]) as socket:
                socket.send_json({"type": "connection_init", "payload": {"authorization": f"Bearer {token}"}})
                assert socket.receive_json() == {"type": "connection_ack"}
                socket.send_json({"type": "subscribe", "id": "1", "payload": {"query": query}})
                assert socket.receive_json()["payload"]["data"] == answer


def test_websockets_and_sse() -> None:
    page = program("websockets-and-sse")

    def connect(path: str, *, offer: list[str] | None = None) -> WebSocketTestSession:
        headers = {"origin": "https://app.example"}
        return client.websocket_connect(f"wss://testserver{path}", subprotocols=offer, headers=headers)

    with TestClient(page.app, base_url="https://testserver") as client:
        with pytest.raises(WebSocketDenialResponse) as refused, connect("/echo"):
            pass
        assert refused.value.status_code == 401
        assert client.get("/ticks").status_code == 401
        client.post("/login")
        with connect("/echo") as socket:
            socket.send_text("hello")
            assert socket.receive_text() == "user123: hello"
            ticket = client.post("/ticket").json()
            client.post("/logout")
            assert socket.receive() == {
                "type": "websocket.close",
                "code": 4401,
                "reason": "session ended: logout",
            }
        offer = ["coatcheck", f"coatcheck.ticket.{ticket}"]
        with pytest.raises(WebSocketDenialResponse):
            with connect("/echo", offer=offer):
                pass
        client.post("/login")
        ticket, cookies = client.post("/ticket").json(), dict(client.cookies)
        client.cookies.clear()
        offer = ["coatcheck", f"coatcheck.ticket.{ticket}"]
        with connect("/echo", offer=offer) as socket:
            socket.send_text("hello")
            assert socket.receive_text() == "user123: hello"
    with TestClient(page.bare, base_url="https://testserver", cookies=cookies) as client:
        with client.websocket_connect("wss://testserver/whoami") as socket:
            assert socket.receive_text() == "user123"


async def test_the_streams_last_event_is_what_the_page_says() -> None:
    page: Any = program("websockets-and-sse")
    async with page.sessions as sessions:
        session = await sessions.load(None)
        await session.log_in("user123")
        cookie = f"__Host-session={session.cookie_change.token}".encode()
        body = bytearray()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.body":
                first = not body
                body.extend(message["body"])
                if first:
                    await sessions.end(session.id, "logout")

        scope = {
            "type": "http", "method": "GET", "path": "/ticks", "raw_path": b"/ticks", "query_string": b"", "root_path": "",
            "scheme": "https", "http_version": "1.1", "asgi": {"version": "3.0"}, "headers": [(b"cookie", cookie)],
        }  # fmt: skip
        await page.app(scope, receive, send)
    event, data = body.decode().rstrip("\n").splitlines()[-2:]
    assert event == "event: session-ended"
    assert json.loads(data.removeprefix("data: ")) == {"reason": "logout"}


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_every_page_has_a_test_and_links_to_what_is_there(page: Path) -> None:
    assert f"def test_{page.stem.replace('-', '_')}(" in Path(__file__).read_text()
    assert [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()] == []


async def test_grpc() -> None:
    page = program("grpc")
    async with page.sessions:
        server = page.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=NO_PROXY) as channel:

            def call(name: str, metadata: Any = ()) -> Any:
                kind = channel.unary_stream if name == "Follow" else channel.unary_unary
                return kind(f"/shop.Orders/{name}")(b"", metadata=metadata)

            for name in ("Mine", "Cancel", "Follow"):
                assert await status(call(name)) == (grpc.StatusCode.UNAUTHENTICATED, "Nobody is logged in.")
            login = call("LogIn")
            assert await login == b"Logged in"
            cookie = [("cookie", str((await login.initial_metadata())["set-cookie"]).partition(";")[0])]
            assert await call("Mine", cookie) == b"orders of user123"
            following = call("Follow", cookie)
            assert await following.read() == b"nothing new"
            assert await call("Cancel", cookie) == b"Cancelled, and logged out"
            assert await status(following) == (grpc.StatusCode.UNAUTHENTICATED, "session ended: logout")
        await server.stop(None)
        await page.connect(page.Tokens("a.b.c", "refresh")).close()
