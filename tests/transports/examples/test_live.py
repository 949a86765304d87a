"""The live examples on a real server: a chat by WebSocket, a clock by server-sent events. Both end with their session."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.clients.examples import served

PAGE = "http://localhost:8000"


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served("websocket_chat", tmp_path_factory.mktemp("chat")) as url:
        yield url


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served("sse_clock", tmp_path_factory.mktemp("clock")) as url:
        yield url


def log_in(url: str, path: str) -> dict[str, str]:
    answer = httpx.post(f"{url}{path}")
    assert answer.status_code == 200
    return {"cookie": answer.headers["set-cookie"].partition(";")[0]}


def join(url: str, headers: dict[str, str], origin: str | None = PAGE) -> connect:
    return connect(url.replace("http", "ws") + "/chat", additional_headers=headers, origin=origin)  # type: ignore[arg-type]


async def heard(socket: ClientConnection) -> str | bytes:
    return await asyncio.wait_for(socket.recv(), 10)


async def test_whoever_is_logged_in_hears_the_others_until_they_log_out(chat: str) -> None:
    ada, bob = log_in(chat, "/login/ada"), log_in(chat, "/login/bob")
    async with join(chat, ada) as adas, join(chat, ada) as adas_second, join(chat, bob) as bobs:
        await adas.send("hello")
        for socket in (adas, adas_second, bobs):
            assert await heard(socket) == "ada: hello"
        httpx.post(f"{chat}/logout", headers=ada)
        for socket in (adas, adas_second):
            with pytest.raises(ConnectionClosed) as closed:
                await heard(socket)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "session ended: logout")
        await bobs.send("anybody there?")
        assert await heard(bobs) == "bob: anybody there?"


@pytest.mark.parametrize(("who", "origin", "status"), [("nobody", PAGE, 401), ("ada", "https://evil.example", 403)])
async def test_strangers_and_pages_of_other_sites_are_refused(chat: str, who: str, origin: str, status: int) -> None:
    headers = log_in(chat, "/login/ada") if who == "ada" else {}
    with pytest.raises(InvalidStatus) as refused:
        async with join(chat, headers, origin):
            pass
    assert refused.value.response.status_code == status


def test_the_clock_ticks_until_the_session_ends_and_then_says_so(clock: str) -> None:
    assert httpx.get(f"{clock}/clock").status_code == 401
    headers = log_in(clock, "/login")
    with httpx.stream("GET", f"{clock}/clock", headers=headers, timeout=10) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        assert next(lines).startswith("data: user123, it is ")
        assert next(lines) == ""
        httpx.post(f"{clock}/logout", headers=headers)
        rest = list(lines)  # to its end, which is a proper one
    assert "event: session-ended" in rest
    last = rest[rest.index("event: session-ended") + 1]
    assert json.loads(last.removeprefix("data: ")) == {"reason": "logout"}
    assert rest[-1] == ""
    assert httpx.get(f"{clock}/clock", headers=headers).status_code == 401


@pytest.mark.parametrize("site", ["chat", "clock"])
def test_there_is_a_page_to_try_it(site: str, request: pytest.FixtureRequest) -> None:
    page = httpx.get(request.getfixturevalue(site) + "/")
    assert page.headers["content-type"].startswith("text/html")


def test_a_server_that_ends_says_nothing_of_its_connections(tmp_path: Path) -> None:
    serving = served("sse_clock", tmp_path)
    with serving as url:
        headers = log_in(url, "/login")
        with httpx.stream("GET", f"{url}/clock", headers=headers, timeout=10) as stream:
            assert next(stream.iter_lines()).startswith("data: ")
    assert serving.said == b""
