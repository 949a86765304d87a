"""TokenAuth in httpx and httpx2, sync and async, against a real server: one exchange for all, nothing lost, nobody else told."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import httpx2
import pytest
import uvicorn

from coatcheck import SessionMiddleware, Sessions, UsageError, session_of
from coatcheck.integrations.httpx import RefreshFailed, SessionOver, TokenAuth, Tokens
from coatcheck.testing import ManualClock
from coatcheck.tokens import AccessTokens, KeyRing, RefreshRefused, RefreshTokens


class Site:
    """An API with tokens on a port of its own, which remembers every request."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.sessions = Sessions("memory://", clock=self.clock)
        self.access = AccessTokens(KeyRing(clock=self.clock), issuer="https://me", audience="https://me")
        self.refresh = RefreshTokens(self.sessions, self.access)
        self.seen: list[tuple[str, str]] = []
        self.bodies: list[tuple[str, str]] = []
        self.answers: list[tuple[int, list[tuple[bytes, bytes]], object]] = []
        self.elsewhere = ""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.refresh_url = f"{self.url}/refresh"
        self._app = SessionMiddleware(self._handle, self.sessions, tokens=self.access)
        self._server = uvicorn.Server(
            uvicorn.Config(self._record, interface="asgi3", lifespan="on", log_level="warning", ws="none")
        )
        self._thread = threading.Thread(target=self._server.run, args=[[self._listener]])

    def __enter__(self) -> "Site":
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        self._listener.close()

    async def _record(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            token = dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer ")
            self.seen.append((scope["path"], token))
        await self._app(scope, receive, send)

    async def _handle(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for name in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{name}.complete"})
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        path = scope["path"]
        self.bodies.append((path, body.decode()))
        status, headers, answer = await self._answer(path, scope, body)
        headers = [*headers, (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    async def _answer(self, path: str, scope: Any, body: bytes) -> tuple[int, list[tuple[bytes, bytes]], object]:
        if path == "/login":
            session = await self.sessions.load(None)
            await session.log_in("ada")
            assert session.record is not None
            return 200, [], await self._given(self.refresh.begin(session.record))
        if path == "/refresh":
            if self.answers:
                return self.answers.pop(0)
            try:
                return 200, [], await self._given(self.refresh.exchange(json.loads(body)["refresh_token"]))
            except RefreshRefused as error:
                return 400, [], {"error": error.error}
        if path == "/away":
            return 307, [(b"location", f"{self.elsewhere}/caught".encode())], None
        if path == "/done":
            return 303, [(b"location", b"/refused")], None
        if path == "/refused":
            return 401, [(b"www-authenticate", b'Bearer realm="x", error="invalid_token"')], None
        if path == "/forbidden":
            return 401, [(b"www-authenticate", b'Bearer error="insufficient_user_authentication"')], None
        session = session_of(scope)
        return (200 if session.is_authenticated else 401), [], [session.user_id, session.id]

    async def _given(self, pair: Any) -> dict[str, object]:
        return {**(await pair)._asdict(), "token_type": "Bearer"}

    def log_in(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/login") as answer:
            given = json.load(answer)
        self.seen.clear()
        self.bodies.clear()
        return given

    def exchanges(self) -> list[str]:
        return [body for path, body in self.bodies if path == "/refresh"]


@pytest.fixture(scope="module")
def running() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture(scope="module")
def other() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture
def site(running: Site) -> Site:
    running.answers.clear()
    return running


class Transport:
    """A transport of either library and kind that loses answers to refresh tokens on their way back."""

    def __init__(self, library: Any, is_async: bool) -> None:
        self._library = library
        # Without certificates: reading those takes longer than the test.
        self._inner = (library.AsyncHTTPTransport if is_async else library.HTTPTransport)(verify=False)
        self.lose = 0
        self.arrived: Callable[[], None] = lambda: None

    def handle_request(self, request: Any) -> Any:
        response = self._inner.handle_request(request)
        if request.url.path == "/refresh":
            response.read()
            self._lose()
        return response

    async def handle_async_request(self, request: Any) -> Any:
        response = await self._inner.handle_async_request(request)
        if request.url.path == "/refresh":
            await response.aread()
            self._lose()
        return response

    def _lose(self) -> None:
        self.arrived()
        if self.lose:
            self.lose -= 1
            raise self._library.ReadError("the connection was cut")

    def close(self) -> None:
        self._inner.close()

    async def aclose(self) -> None:
        await self._inner.aclose()


class Client:
    """A client of either library and kind, whose requests are awaited; the sync ones run in threads."""

    def __init__(self, library: Any, is_async: bool) -> None:
        self.is_async = is_async
        self.transport = Transport(library, is_async)
        kind = library.AsyncClient if is_async else library.Client
        self.inner = kind(transport=self.transport, follow_redirects=True)

    def auth(self, site: Site, given: dict[str, Any], **options: Any) -> TokenAuth:
        known = {name: given[name] for name in ("access_token", "refresh_token", "expires_in") if name in given}
        auth = TokenAuth(site.refresh_url, **{"client": self.inner, **known, **options})
        self.inner.auth = auth
        return auth

    async def send(self, url: str, method: str = "GET", **options: Any) -> Any:
        if self.is_async:
            return await self.inner.request(method, url, **options)
        return await asyncio.to_thread(self.inner.request, method, url, **options)

    async def close(self) -> None:
        if self.is_async:
            await self.inner.aclose()
        else:
            self.inner.close()

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


KINDS = [(httpx, False), (httpx, True), (httpx2, False), (httpx2, True)]
NAMES = ["httpx", "httpx async", "httpx2", "httpx2 async"]
Make = Callable[[], Client]


@pytest.fixture(params=KINDS, ids=NAMES)
def make(request: pytest.FixtureRequest) -> Make:
    return lambda: Client(*request.param)


def run_out(site: Site) -> None:
    site.clock.advance(301)


async def test_the_access_token_is_attached_and_nothing_is_exchanged_while_it_works(site: Site, make: Make) -> None:
    given = site.log_in()
    async with make() as client:
        client.auth(site, given)
        for _ in range(3):
            assert (await client.send(f"{site.url}/me")).json()[0] == "ada"
    assert [(path, token) for path, token in site.seen] == [("/me", given["access_token"])] * 3


async def test_without_an_access_token_one_is_got_first(site: Site, make: Make) -> None:
    given = site.log_in()
    async with make() as client:
        client.auth(site, {"refresh_token": given["refresh_token"]})
        assert (await client.send(f"{site.url}/me")).status_code == 200
    assert [path for path, _ in site.seen] == ["/refresh", "/me"]


async def test_a_refused_request_is_sent_once_more_with_its_body(site: Site, make: Make) -> None:
    given = site.log_in()
    run_out(site)
    async with make() as client:
        client.auth(site, given)
        answer = await client.send(f"{site.url}/me", "POST", content=b"all of it")
        assert answer.status_code == 200
    assert [path for path, _ in site.seen] == ["/me", "/refresh", "/me"]
    assert site.seen[0][1] == given["access_token"] != site.seen[2][1]
    assert site.bodies[-1] == ("/me", "all of it")


async def test_new_tokens_are_handed_over_before_they_are_used(site: Site, make: Make) -> None:
    given = site.log_in()
    run_out(site)
    handed: list[tuple[Tokens, int]] = []
    async with make() as client:
        auth = client.auth(site, given, on_tokens=lambda tokens: handed.append((tokens, len(site.seen))))
        await client.send(f"{site.url}/me")
        [(tokens, seen_by_then)] = handed
        assert tokens == auth.tokens
        assert seen_by_then == next(n for n, (_, token) in enumerate(site.seen) if token == tokens.access_token)
        assert given["refresh_token"] != tokens.refresh_token


@pytest.mark.parametrize("known", [True, False], ids=["known to have run out", "refused by the server"])
async def test_one_exchange_serves_however_many_requests(site: Site, make: Make, known: bool) -> None:
    given = site.log_in()
    run_out(site)
    async with make() as client:
        client.auth(site, given if not known else {"refresh_token": given["refresh_token"]})
        answers = await asyncio.gather(*(client.send(f"{site.url}/me") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(site.exchanges()) == 1


async def test_threads_and_tasks_share_one_exchange(site: Site) -> None:
    given = site.log_in()
    run_out(site)
    auth = TokenAuth(site.refresh_url, access_token=given["access_token"], refresh_token=given["refresh_token"])
    clients = [Client(*kind) for kind in KINDS]
    for client in clients:
        client.inner.auth = auth
    answers = await asyncio.gather(*(client.send(f"{site.url}/me") for client in clients for _ in range(4)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(site.exchanges()) == 1
    for client in clients:
        await client.close()


async def test_an_answer_that_is_lost_is_asked_for_again_with_the_same_token(site: Site, make: Make) -> None:
    given = site.log_in()
    run_out(site)
    async with make() as client:
        client.auth(site, given)
        client.transport.lose = 2
        answers = await asyncio.gather(*(client.send(f"{site.url}/me") for _ in range(3)))
        assert {answer.status_code for answer in answers} == {200}
        assert len(site.exchanges()) == 3
        assert len(set(site.exchanges())) == 1
        run_out(site)
        assert (await client.send(f"{site.url}/me")).status_code == 200, "and the session goes on"


async def test_a_server_that_asks_to_wait_is_asked_again(site: Site, make: Make) -> None:
    given = site.log_in()
    run_out(site)
    site.answers += [(503, [], None), (429, [(b"retry-after", b"0")], {"error": "slow_down"})]
    async with make() as client:
        client.auth(site, given)
        assert (await client.send(f"{site.url}/me")).status_code == 200
    assert len(site.exchanges()) == 3


@pytest.mark.parametrize(
    "answer",
    [
        (503, [(b"retry-after", b"3600")], None),
        (400, [], {"error": "invalid_request"}),
        (404, [], "not here"),
        (200, [], {"access_token": 1}),
        (200, [], {"access_token": "x", "token_type": "mac"}),
    ],
)
async def test_what_says_nothing_of_the_session_is_no_end_of_it(site: Site, make: Make, answer: Any) -> None:
    given = site.log_in()
    run_out(site)
    site.answers.append(answer)
    async with make() as client:
        auth = client.auth(site, given)
        with pytest.raises(RefreshFailed):
            await client.send(f"{site.url}/me")
        assert not auth.session_over
        assert (await client.send(f"{site.url}/me")).status_code == 200


async def test_when_the_session_is_over_it_says_so_and_asks_nobody_again(site: Site, make: Make) -> None:
    given = site.log_in()
    async with make() as client:
        auth = client.auth(site, given)
        session_id = given["refresh_token"].partition(".")[0]
        assert (await client.send(f"{site.url}/me")).json() == ["ada", session_id]
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(site.sessions.end(session_id), loop_of(site)))
        with pytest.raises(SessionOver):
            await client.send(f"{site.url}/me")
        assert auth.session_over
        assert len(site.exchanges()) == 1
        site.seen.clear()
        with pytest.raises(SessionOver):
            await client.send(f"{site.url}/me")
        assert site.seen == []
        again = site.log_in()
        auth.use(Tokens(again["access_token"], again["refresh_token"], again["expires_in"]))
        assert (await client.send(f"{site.url}/me")).status_code == 200


def loop_of(site: Site) -> asyncio.AbstractEventLoop:
    loop = site.sessions._loop  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    assert isinstance(loop, asyncio.AbstractEventLoop)
    return loop


async def test_a_body_that_can_be_read_only_once_is_not_sent_again_but_the_next_request_renews(
    site: Site, make: Make
) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"once"

    async def async_chunks() -> AsyncIterator[bytes]:
        yield b"once"

    given = site.log_in()
    run_out(site)
    async with make() as client:
        client.auth(site, given)
        content = async_chunks() if client.is_async else chunks()
        assert (await client.send(f"{site.url}/me", "POST", content=content)).status_code == 401
        assert [path for path, _ in site.seen] == ["/me"]
        assert (await client.send(f"{site.url}/me")).status_code == 200
        assert [path for path, _ in site.seen] == ["/me", "/refresh", "/me"]


async def test_a_post_that_was_done_and_led_elsewhere_is_not_done_again(site: Site, make: Make) -> None:
    given = site.log_in()
    async with make() as client:
        client.auth(site, given)
        assert (await client.send(f"{site.url}/done", "POST", content=b"x")).status_code == 401
    assert [path for path, _ in site.seen] == ["/done", "/refused"]


async def test_only_invalid_token_is_a_reason_to_renew_and_once(site: Site, make: Make) -> None:
    given = site.log_in()
    async with make() as client:
        client.auth(site, given)
        assert (await client.send(f"{site.url}/forbidden")).status_code == 401
        assert site.exchanges() == []
        assert (await client.send(f"{site.url}/refused")).status_code == 401
        assert [path for path, _ in site.seen] == ["/forbidden", "/refused", "/refresh", "/refused"]


async def test_no_other_origin_gets_a_token(site: Site, other: Site, make: Make) -> None:
    given = site.log_in()
    other.seen.clear()
    site.elsewhere = other.url
    async with make() as client:
        client.auth(site, given)
        await client.send(f"{other.url}/me")
        await client.send(f"{other.url}/refused")
        await client.send(f"{site.url}/away", "POST", content=b"x")
        assert [(path, token) for path, token in other.seen] == [("/me", ""), ("/refused", ""), ("/caught", "")]
        assert site.exchanges() == []
        run_out(site)
        site.answers.append((307, [(b"location", f"{other.url}/refresh".encode())], None))
        with pytest.raises(RefreshFailed, match="status 307"):
            await client.send(f"{site.url}/me")
        assert len(other.seen) == 3, "the refresh token was not sent on"


async def test_other_origins_get_it_where_they_are_named(site: Site, other: Site, make: Make) -> None:
    given = site.log_in()
    other.seen.clear()
    async with make() as client:
        client.auth(site, given, origins=[other.url])
        await client.send(f"{other.url}/forbidden")
        await client.send(f"{site.url}/forbidden")
    assert other.seen[0][1] == given["access_token"]
    assert site.seen[0][1] == ""


async def test_a_request_with_an_authorization_of_its_own_keeps_it(site: Site, make: Make) -> None:
    given = site.log_in()
    async with make() as client:
        client.auth(site, given)
        await client.send(f"{site.url}/me", headers={"Authorization": "Basic dTpw"})
    assert [(path, token) for path, token in site.seen] == [("/me", "Basic dTpw")]


async def test_it_renews_ahead_of_the_end_and_not_before(site: Site, make: Make) -> None:
    given = site.log_in()
    clock = ManualClock()
    async with make() as client:
        client.auth(site, given, clock=clock)
        clock.advance(269)
        await client.send(f"{site.url}/me")
        assert site.exchanges() == []
        clock.advance(2)
        await asyncio.gather(*(client.send(f"{site.url}/me") for _ in range(8)))
        assert len(site.exchanges()) == 1
        assert [path for path, _ in site.seen].count("/me") == 9, "nothing was refused"


async def test_while_the_old_token_works_a_failed_renewal_stops_nobody(site: Site, make: Make) -> None:
    given = site.log_in()
    clock = ManualClock()
    async with make() as client:
        client.auth(site, given, clock=clock)
        clock.advance(280)
        site.answers.append((404, [], None))
        assert (await client.send(f"{site.url}/me")).status_code == 200
        clock.advance(30)
        site.answers.append((404, [], None))
        with pytest.raises(RefreshFailed):
            await client.send(f"{site.url}/me")


async def test_tokens_that_could_not_be_stored_are_neither_used_nor_lost(site: Site, make: Make) -> None:
    given = site.log_in()
    run_out(site)
    handed: list[Tokens] = []

    def store(tokens: Tokens) -> None:
        handed.append(tokens)
        if len(handed) == 1:
            raise OSError("the disk is full")

    async with make() as client:
        client.auth(site, given, on_tokens=store)
        with pytest.raises(OSError, match="disk is full"):
            await client.send(f"{site.url}/me")
        assert handed[0].access_token not in [token for _, token in site.seen]
        site.clock.advance(60)
        assert (await client.send(f"{site.url}/me")).status_code == 200
        assert len(site.exchanges()) == 1
        assert handed[0] == handed[1]


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_a_task_that_is_cancelled_takes_nobody_with_it(site: Site, library: Any) -> None:
    given = site.log_in()
    run_out(site)
    client = Client(library, True)
    stored = asyncio.Event()
    reached = asyncio.Event()

    async def store(tokens: Tokens) -> None:
        reached.set()
        await stored.wait()

    async with client:
        client.auth(site, {"refresh_token": given["refresh_token"]}, on_tokens=store)
        first = asyncio.create_task(client.send(f"{site.url}/me"))
        await reached.wait()
        second = asyncio.create_task(client.send(f"{site.url}/me"))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        stored.set()
        assert (await second).status_code == 200
    assert len(site.exchanges()) == 1


def test_an_event_loop_that_goes_away_in_the_middle_leaves_the_next_one_a_way_on(site: Site) -> None:
    given = site.log_in()
    stuck = True

    async def store(tokens: Tokens) -> None:
        if stuck:
            await asyncio.sleep(60)

    async def ask(auth: TokenAuth, patience: float) -> int:
        async with httpx.AsyncClient(auth=auth) as client:
            return (await asyncio.wait_for(client.get(f"{site.url}/me"), patience)).status_code

    auth = TokenAuth(site.refresh_url, refresh_token=given["refresh_token"], on_tokens=store)
    with pytest.raises(TimeoutError):
        asyncio.run(ask(auth, 0.5))
    stuck = False
    assert asyncio.run(ask(auth, 20)) == 200
    assert len(site.exchanges()) == 1


async def test_an_exchange_that_does_not_come_to_an_end_holds_nobody_for_ever(
    site: Site, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = site.log_in()
    begun, stored = threading.Event(), threading.Event()

    def store(tokens: Tokens) -> None:
        begun.set()
        assert stored.wait(20)

    async with make() as client:
        auth = client.auth(site, {"refresh_token": given["refresh_token"]}, client=None, on_tokens=store)
        with httpx.Client(auth=auth, verify=False) as slow:
            first = asyncio.create_task(asyncio.to_thread(slow.get, f"{site.url}/me"))
            await asyncio.to_thread(begun.wait, 20)
            monkeypatch.setattr("coatcheck.integrations.httpx._LONGEST", 0.05)
            with pytest.raises(RefreshFailed, match="does not come to an end"):
                await client.send(f"{site.url}/me")
            stored.set()
            assert (await first).status_code == 200
        assert (await client.send(f"{site.url}/me")).status_code == 200
    assert len(site.exchanges()) == 1


def test_new_login_while_an_exchange_is_under_way_wins(site: Site) -> None:
    given, again = site.log_in(), site.log_in()
    client = Client(httpx, False)
    auth = client.auth(site, {"refresh_token": given["refresh_token"]})
    client.transport.arrived = lambda: auth.use(Tokens(again["access_token"], again["refresh_token"]))
    assert client.inner.get(f"{site.url}/me").status_code == 200
    assert auth.tokens.refresh_token == again["refresh_token"]
    client.inner.close()


def test_a_coroutine_function_cannot_be_called_back_by_a_client_of_threads(site: Site) -> None:
    async def store(tokens: Tokens) -> None: ...

    given = site.log_in()
    auth = TokenAuth(site.refresh_url, refresh_token=given["refresh_token"], on_tokens=store)
    with httpx.Client(auth=auth) as client, pytest.raises(UsageError, match="on_tokens"):
        client.get(f"{site.url}/me")


async def test_a_client_of_threads_may_carry_the_exchange_of_tasks_and_not_the_other_way_round(site: Site) -> None:
    given = site.log_in()
    with httpx.Client() as sender:
        auth = TokenAuth(site.refresh_url, refresh_token=given["refresh_token"], client=sender)
        async with httpx.AsyncClient(auth=auth) as client:
            assert (await client.get(f"{site.url}/me")).status_code == 200
    async with httpx2.AsyncClient() as wrong:
        auth = TokenAuth(site.refresh_url, refresh_token=given["refresh_token"], client=wrong)
        with httpx.Client(auth=auth) as client, pytest.raises(UsageError, match="async client"):
            client.get(f"{site.url}/me")


@pytest.mark.parametrize(
    "url", ["http://id.example/refresh", "ftp://id.example/refresh", "/refresh", "http://10.0.0.1/"]
)
def test_tokens_do_not_travel_in_the_open(url: str) -> None:
    with pytest.raises(UsageError):
        TokenAuth(url, refresh_token="x")
    with pytest.raises(UsageError):
        TokenAuth("https://id.example/refresh", refresh_token="x", origins=[url])


def test_nothing_shows_a_token(site: Site) -> None:
    given = site.log_in()
    auth = TokenAuth(site.refresh_url, refresh_token=given["refresh_token"], access_token=given["access_token"])
    for shown in (repr(auth), repr(auth.tokens), str(auth.tokens)):
        assert given["refresh_token"] not in shown
        assert given["access_token"] not in shown


def test_without_httpx_a_sentence_says_what_to_install() -> None:
    code = """
import sys
sys.modules["httpx"] = sys.modules["httpx2"] = None
try:
    import coatcheck.integrations.httpx
except ImportError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "coatcheck.integrations.httpx needs the package httpx: pip install 'coatcheck[httpx]'"


@pytest.mark.parametrize("absent", ["httpx", "httpx2"])
def test_either_library_is_enough(absent: str) -> None:
    present = "httpx2" if absent == "httpx" else "httpx"
    code = f"""
import sys
sys.modules["{absent}"] = None
import {present}
from coatcheck.integrations.httpx import TokenAuth
{present}.Client(auth=TokenAuth("https://id.example/refresh", refresh_token="x"))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
