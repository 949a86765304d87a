"""What one request costs in the session middleware: the application is called in this process, without server or socket.

The bare application answers two bytes. With a middleware around it the same application also does the item's work on
`scope["session"]`, so what a contender costs over the bare one is all that sessions cost: middleware, reads and writes.
"""

import itertools
import json
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import itsdangerous
from starlette.middleware.sessions import SessionMiddleware as SignedCookieMiddleware

from bench.rounds import Block, collector, measure
from coatcheck import Session, SessionMiddleware, Sessions

__all__ = [
    "BARE",
    "BROWSER",
    "ITEMS",
    "STARLETTE",
    "VALUES",
    "CountedSessions",
    "Item",
    "application",
    "block",
    "read_two_keys",
    "run",
]

App = Callable[[Any, Any, Any], Awaitable[None]]
Work = Callable[[Any], None]
Headers = list[tuple[bytes, bytes]]

BARE = "bare application"
STARLETTE = "Starlette, signed cookie"
ITSDANGEROUS = "itsdangerous alone, same cookie"
SQLITE = "Coatcheck, SQLite"
MEMORY = "Coatcheck, memory"

SECRET = "a secret of the benchmark's own"
VALUES = {"user": "user123", "theme": "dark", "locale": "en-GB", "cart": ["apple", "pear", "plum"], "visits": 12}
BROWSER: Headers = [
    (b"host", b"app.example"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"accept-language", b"en-GB,en;q=0.5"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"sec-fetch-site", b"same-origin"),
]
OTHERS = b"consent=all; _ga=GA1.1.1207398461.1763880000; {}; theme=dark"


class Item(NamedTuple):
    """One thing to do per request. `share` is the target: of Starlette's cost, at most so much.

    `{}` in `cookies` is the contender's own cookie. `pace` scales the number of rounds.
    """

    name: str
    work: Work | None
    cookies: bytes = b"{}"
    writes: bool = False
    share: float | None = None
    pace: float = 1.0
    bare: str = BARE
    reference: str = STARLETTE
    judged: str = "Coatcheck"


def read_two_keys(session: Any) -> None:
    session.mark_accessed()  # as `request.session` does
    session["user"]
    session["theme"]


_numbers = itertools.count(1)


def _write(session: Any) -> None:
    session.mark_accessed()
    session["visits"] = next(_numbers)


def _write_the_same(session: Any) -> None:
    session.mark_accessed()
    session["theme"] = "dark"


ITEMS = (
    Item("anonymous request that leaves the session alone", work=None, cookies=b""),
    Item("logged-in read of two keys", work=read_two_keys, share=1 / 3),
    Item("logged-in read of two keys, cookie among others", work=read_two_keys, cookies=OTHERS, share=1 / 3),
    Item("logged-in write of a value that is there already", work=_write_the_same),
    Item("logged-in write of one key", work=_write, writes=True, pace=0.05),
)


class CountedSessions(Sessions):
    """Counts what a warm request must not need."""

    asked = 0

    async def load(self, token: bytes | None) -> Session:
        self.asked += 1
        return await super().load(token)

    async def load_bearer(self, *arguments: Any, **keywords: Any) -> Session:
        self.asked += 1
        return await super().load_bearer(*arguments, **keywords)

    async def apply(self, *arguments: Any, **keywords: Any) -> Any:
        self.asked += 1
        return await super().apply(*arguments, **keywords)


async def _receive() -> MutableMapping[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: MutableMapping[str, Any]) -> None:
    pass


def application(work: Work | None) -> App:
    """Answers two bytes, and does the work on the scope's session before."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if work is not None:
            work(scope["session"])
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    return application


async def _log_in(scope: Any, receive: Any, send: Any) -> None:
    session = scope["session"]
    if isinstance(session, Session):
        await session.log_in("user123")
    session.update(VALUES)
    await application(None)(scope, receive, send)


def _scope(headers: Headers) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": "/profile",
        "raw_path": b"/profile",
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8443),
        "state": {},
    }


def block(app: App, headers: Headers) -> Block:
    """So many requests with these headers."""
    scope = _scope(headers)

    async def run(size: int) -> None:
        for _ in range(size):
            await app({**scope}, _receive, _send)

    return run


async def _cookie(wrap: Callable[[App], App]) -> bytes:
    """Log in through the middleware, and check that the cookie it sets is worth something."""
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    def check(session: Any) -> None:
        found = {key: session[key] for key in VALUES}
        if found != VALUES:
            raise RuntimeError(f"the session came back as {found}")

    await wrap(_log_in)(_scope(BROWSER), _receive, send)
    cookie = next(value for name, value in sent[0]["headers"] if name.lower() == b"set-cookie").partition(b";")[0]
    await wrap(application(check))(_scope([*BROWSER, (b"cookie", cookie)]), _receive, send)
    return cookie


def _itsdangerous(cookie: bytes) -> App:
    """The least that a signed cookie can cost: no middleware, no parsing of headers, no Vary."""
    signer = itsdangerous.TimestampSigner(SECRET)
    signed = cookie.partition(b"=")[2]
    respond = application(None)

    async def unsigned(scope: Any, receive: Any, send: Any) -> None:
        session = json.loads(b64decode(signer.unsign(signed, max_age=14 * 24 * 60 * 60)))
        session["user"]
        session["theme"]
        await respond(scope, receive, send)

    return unsigned


@asynccontextmanager
async def _contenders(directory: Path) -> AsyncIterator[dict[str, tuple[Callable[[App], App], bytes, Any]]]:
    def signed(app: App) -> App:
        return SignedCookieMiddleware(app, secret_key=SECRET)  # pyright: ignore[reportReturnType, reportArgumentType]

    def ticketed(sessions: Sessions) -> Callable[[App], App]:
        return lambda app: SessionMiddleware(app, sessions)  # pyright: ignore[reportArgumentType]

    async with (
        CountedSessions(f"sqlite:///{directory / 'sessions.sqlite3'}") as sqlite,
        CountedSessions("memory://") as memory,
    ):
        yield {
            STARLETTE: (signed, await _cookie(signed), None),
            SQLITE: (ticketed(sqlite), await _cookie(ticketed(sqlite)), sqlite),
            MEMORY: (ticketed(memory), await _cookie(ticketed(memory)), memory),
        }


async def run(
    directory: Path, *, rounds: int, size: int, seed: int, collect: bool, tell: Callable[[str], None]
) -> dict[str, dict[str, list[float]]]:
    """Give, by item and contender, the microseconds per request of each round. The SQLite file is made in `directory`.

    Raises RuntimeError if a session does not come back as it went, or a request that must be warm asked its store.
    """
    results: dict[str, dict[str, list[float]]] = {}
    async with _contenders(directory) as contenders:
        for item in ITEMS:
            tell(item.name)
            blocks = {BARE: block(application(None), BROWSER)}
            for name, (wrap, cookie, _) in contenders.items():
                cookies = item.cookies.replace(b"{}", cookie)
                headers = [*BROWSER, (b"cookie", cookies)] if cookies else BROWSER
                blocks[name] = block(wrap(application(item.work)), headers)
            if item.work is read_two_keys:
                blocks[ITSDANGEROUS] = block(_itsdangerous(contenders[STARLETTE][1]), BROWSER)
            before = {name: sessions.asked for name, (_, _, sessions) in contenders.items() if sessions is not None}
            with collector(on=collect):
                results[item.name] = await measure(
                    blocks,
                    rounds=max(20, int(rounds * item.pace)),
                    size=max(1, size // 5) if item.writes else size,
                    seed=seed,
                )
            for name, asked in before.items():
                if not item.writes and contenders[name][2].asked != asked:
                    raise RuntimeError(f"{name}, {item.name}: a request was not warm, so this measured the store")
    return results
