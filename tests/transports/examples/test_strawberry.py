"""The example of GraphQL, and what its README says of it, on a real server."""

import json
from pathlib import Path
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.clients.examples import EXAMPLES, served


def ask(url: str, query: str, **headers: str) -> Any:
    answer = httpx.post(f"{url}/graphql", json={"query": query}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


def log_in(url: str) -> dict[str, str]:
    """The header of a client that is logged in; over plain http it is sent back by hand."""
    answer = ask(url, "mutation { logIn }")
    assert answer.json() == {"data": {"logIn": "Logged in"}}
    return {"cookie": answer.headers["set-cookie"].partition(";")[0]}


def close_code(socket: ClientConnection) -> int | None:
    """Read on until it is closed."""
    while True:
        try:
            socket.recv(10)
        except ConnectionClosed as closed:
            return None if closed.rcvd is None else closed.rcvd.code


def test_one_can_log_in_be_known_listen_and_log_out_which_ends_the_listening(tmp_path: Path) -> None:
    with served("strawberry_login", tmp_path) as url:
        (error,) = ask(url, "{ profile }").json()["errors"]
        assert error["extensions"] == {"code": "UNAUTHENTICATED"}
        headers = log_in(url)
        assert ask(url, "{ profile }", **headers).json() == {"data": {"profile": "Hello, user123"}}
        listening = {"query": "subscription { clock }"}
        accept = {"accept": "text/event-stream", **headers}
        with (
            connect(
                url.replace("http", "ws") + "/graphql",
                additional_headers=headers,
                subprotocols=["graphql-transport-ws"],  # type: ignore[list-item]
            ) as socket,
            httpx.stream("POST", f"{url}/graphql", json=listening, headers=accept, timeout=20) as stream,
        ):
            lines = stream.iter_lines()
            assert next(lines) == "event: next"
            socket.send(json.dumps({"type": "connection_init"}))
            assert json.loads(socket.recv(10))["type"] == "connection_ack"
            socket.send(json.dumps({"type": "subscribe", "id": "1", "payload": listening}))
            assert "clock" in json.loads(socket.recv(10))["payload"]["data"]
            refused = {"query": "mutation { logOut }"}
            socket.send(json.dumps({"type": "subscribe", "id": "2", "payload": refused}))
            while (message := json.loads(socket.recv(10)))["id"] == "1":
                pass
            assert "no cookie can be set" in message["payload"]["errors"][0]["message"]
            assert ask(url, "mutation { logOut }", **headers).json() == {"data": {"logOut": "Logged out"}}
            assert close_code(socket) == 4401
            assert "event: session-ended" in list(lines)
        assert ask(url, "{ profile }", **headers).json()["data"] == {"profile": None}


def test_it_has_less_than_fifty_lines_of_code() -> None:
    lines = (EXAMPLES / "strawberry_login.py").read_text().splitlines()
    assert len([line for line in lines if line and not line.startswith(('"""', "#"))]) < 50
