"""What is compared: small applications with sessions, each made as its own documentation has it for production.

Each answers `/anonymous`, `/read`, `/write`, `/login` and `/logout`, and each framework has a bare application beside it that answers
the same without sessions: what a contender costs over its bare one is what its sessions cost. Runs in the environment of
this folder; leaves timing to `measure`.
"""

import asyncio
import io
import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["COATCHECK", "PATHS", "Contender", "contender", "contenders"]

SECRET = "a secret of the benchmark's own, long enough for all"
VALUES = {"user": "user123", "theme": "dark", "locale": "en-GB", "cart": ["apple", "pear", "plum"], "visits": 12}
PATHS = ("/anonymous", "/read", "/write", "/login", "/logout")
COATCHECK = "Coatcheck"
BROWSER = [
    (b"host", b"app.example"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"accept-language", b"en-GB,en;q=0.5"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"sec-fetch-site", b"same-origin"),
]
_numbers = itertools.count(1)

Headers = list[tuple[bytes, bytes]]
Call = Callable[[str, Headers], Awaitable[tuple[int, Headers]]]
"""A path and the headers of a credential to the status and the headers of the answer."""


class Contender(NamedTuple):
    """One of those that are compared. `bare` is the name of what it is to be seen over; a bare one has none."""

    name: str
    app: Any
    """An ASGI application, or Flask's."""
    bare: str | None
    bearer: str | None = None
    """An access token, where the credential is no cookie."""

    @property
    def call(self) -> Call:
        """What calls it in process."""
        return wsgi(self.app.wsgi_app) if hasattr(self.app, "wsgi_app") else asgi(self.app)


class Place(NamedTuple):
    """Where contenders keep what they keep. Whatever must be closed is noted in `exits`."""

    exits: AsyncExitStack
    directory: Path
    redis: str
    postgres: str


@asynccontextmanager
async def contenders(directory: Path, redis: str, postgres: str) -> AsyncIterator[list[Contender]]:
    """Give all of them, ready to be called; stores are made in `directory` and on the servers."""
    async with AsyncExitStack() as exits:
        place = Place(exits, directory, redis, postgres)
        yield [contender for make in MAKERS.values() for contender in await make(place, "")]


@asynccontextmanager
async def contender(name: str, directory: Path, redis: str) -> AsyncIterator[Contender]:
    """Give the one of that name, and make no others but what comes with it."""
    async with AsyncExitStack() as exits:
        place = Place(exits, directory, redis, "")
        kind = next(kind for kind in MAKERS if kind in name)
        (found,) = [each for each in await MAKERS[kind](place, name) if each.name == name]
        yield found


# ---- how they are called


def asgi(app: Callable[..., Awaitable[Any]]) -> Call:
    """An ASGI application, called in process."""

    async def call(path: str, headers: Headers) -> tuple[int, Headers]:
        sent: list[MutableMapping[str, Any]] = []
        asked = False

        async def receive() -> MutableMapping[str, Any]:
            nonlocal asked
            if asked:  # behind the body only a disconnect can come, and none does
                await asyncio.get_running_loop().create_future()
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "https",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [*BROWSER, *headers],
            "client": ("127.0.0.1", 50000),
            "server": ("app.example", 443),
            "state": {},
        }
        await app(scope, receive, send)
        start = sent[0]
        return start["status"], start["headers"]

    return call


def wsgi(app: Callable[..., Any]) -> Call:
    """A WSGI application, called in process, without a thread of its own."""

    async def call(path: str, headers: Headers) -> tuple[int, Headers]:
        told: list[Any] = []
        environ: dict[str, Any] = {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "SERVER_NAME": "app.example",
            "SERVER_PORT": "443",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "https",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": False,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in (*BROWSER, *headers):
            environ["HTTP_" + name.decode().upper().replace("-", "_")] = value.decode()

        def start(status: str, answered: list[tuple[str, str]], exc_info: Any = None) -> Any:
            told.extend((status, answered))
            return lambda data: None

        body = app(environ, start)
        b"".join(body)
        if hasattr(body, "close"):
            body.close()
        return int(told[0].split()[0]), told[1]

    return call


async def _plain(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


async def _with_mapping(scope: Any, receive: Any, send: Any) -> None:
    """The application for whatever puts a mapping into the scope."""
    session, path = scope.get("session"), scope["path"]
    if path == "/read":
        session["user"], session["theme"]
    elif path == "/write":
        session["visits"] = next(_numbers)
    elif path == "/login":
        session.update(VALUES)
    elif path == "/logout":
        session.clear()
    await _plain(scope, receive, send)


# ---- who they are


async def _bare(place: Place, name: str) -> list[Contender]:
    return [Contender("bare ASGI application", _plain, None)]


async def _starlette(place: Place, name: str) -> list[Contender]:
    from starlette.middleware.sessions import SessionMiddleware

    app = SessionMiddleware(_with_mapping, secret_key=SECRET, https_only=True)
    return [Contender("Starlette, signed cookie", app, "bare ASGI application")]


async def _starsessions(place: Place, name: str) -> list[Contender]:
    from redis.asyncio import Redis
    from starsessions import InMemoryStore, SessionAutoloadMiddleware, SessionMiddleware
    from starsessions.stores.redis import RedisStore

    client = Redis.from_url(place.redis)
    place.exits.push_async_callback(client.aclose)
    stores = {"memory": InMemoryStore(), "Redis": RedisStore(connection=client)}
    return [
        Contender(
            f"starsessions, {name}",
            SessionMiddleware(SessionAutoloadMiddleware(_with_mapping), store=store, lifetime=14 * 86_400),
            "bare ASGI application",
        )
        for name, store in stores.items()
    ]


async def _litestar(place: Place, name: str) -> list[Contender]:
    from litestar import Litestar, Request, get
    from litestar.middleware.session.server_side import ServerSideSessionConfig
    from litestar.stores.memory import MemoryStore
    from litestar.stores.redis import RedisStore

    def handlers(with_session: bool) -> list[Any]:
        def handler(path: str) -> Any:
            async def answer(request: Request[Any, Any, Any]) -> str:
                if with_session:
                    if path == "/read":
                        request.session["user"], request.session["theme"]
                    elif path == "/write":
                        request.session["visits"] = next(_numbers)
                    elif path == "/login":
                        request.set_session(dict(VALUES))
                    elif path == "/logout":
                        request.clear_session()
                return "ok"

            return get(path, media_type="text/plain")(answer)

        return [handler(path) for path in PATHS]

    found = [Contender("bare Litestar application", Litestar(handlers(False)), None)]
    store = RedisStore.with_client(place.redis)
    place.exits.push_async_callback(store._redis.aclose)
    for name, each in (("memory", MemoryStore()), ("Redis", store)):
        config = ServerSideSessionConfig(secure=True)
        app = Litestar(handlers(True), middleware=[config.middleware], stores={"sessions": each})
        found.append(Contender(f"Litestar, {name}", app, "bare Litestar application"))
    return found


async def _flask(place: Place, name: str) -> list[Contender]:
    from flask import Flask, session
    from flask_session import Session
    from redis import Redis

    def application(with_session: bool) -> Flask:
        app = Flask("bench")
        if with_session:
            app.config.update(
                SESSION_TYPE="redis",
                SESSION_REDIS=Redis.from_url(place.redis),
                SECRET_KEY=SECRET,
                SESSION_COOKIE_SECURE=True,
            )
            Session(app)

        def view(path: str) -> Callable[[], str]:
            def answer() -> str:
                if with_session:
                    if path == "/read":
                        session["user"], session["theme"]
                    elif path == "/write":
                        session["visits"] = next(_numbers)
                    elif path == "/login":
                        session.update(VALUES)
                    elif path == "/logout":
                        session.clear()
                return "ok"

            return answer

        for path in PATHS:
            app.add_url_rule(path, endpoint=path, view_func=view(path))
        return app

    return [
        Contender("bare Flask application", application(False), None),
        Contender("Flask-Session, Redis", application(True), "bare Flask application"),
    ]


async def _django(place: Place, name: str) -> list[Contender]:
    import django
    from django.conf import settings

    settings.configure(
        SECRET_KEY=SECRET,
        ALLOWED_HOSTS=["app.example", "localhost"],
        ROOT_URLCONF="bench.peers.django_urls",
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(place.directory / "django.sqlite3")}
        },
        CACHES={"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": place.redis}},
        INSTALLED_APPS=["django.contrib.sessions"],
        SESSION_COOKIE_SECURE=True,
        LOGGING_CONFIG=None,
    )
    django.setup()
    from django.core.handlers.asgi import ASGIHandler
    from django.core.management import call_command
    from django.test.utils import override_settings

    await asyncio.to_thread(call_command, "migrate", verbosity=0)

    def application(engine: str | None) -> ASGIHandler:
        middleware = [] if engine is None else ["django.contrib.sessions.middleware.SessionMiddleware"]
        # The middleware reads its engine when it is made, and the handler makes it at once.
        with override_settings(
            MIDDLEWARE=middleware, SESSION_ENGINE=f"django.contrib.sessions.backends.{engine or 'signed_cookies'}"
        ):
            return ASGIHandler()

    return [
        Contender("bare Django application", application(None), None),
        Contender("Django, signed cookie", application("signed_cookies"), "bare Django application"),
        Contender("Django, cached database", application("cached_db"), "bare Django application"),
    ]


async def _pyjwt(place: Place, name: str) -> list[Contender]:
    import jwt
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

    key = generate_private_key(SECP256R1())
    claims = {"sub": "user123", "iss": "https://app.example", "aud": "api", "exp": 4_000_000_000, "theme": "dark"}
    token = jwt.encode(claims, key, algorithm="ES256")
    public = key.public_key()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/anonymous":
            line = next(value for name, value in scope["headers"] if name == b"authorization")
            found = jwt.decode(line[7:], public, algorithms=["ES256"], audience="api", issuer="https://app.example")
            found["sub"], found["theme"]
        await _plain(scope, receive, send)

    return [Contender("PyJWT by hand, ES256", app, "bare ASGI application", bearer=token)]


async def _coatcheck(place: Place, only: str) -> list[Contender]:
    from coatcheck import SessionMiddleware, Sessions
    from coatcheck.stores.postgres import PostgresStore
    from coatcheck.tokens import AccessTokens, KeyRing

    async def work(scope: Any, receive: Any, send: Any) -> None:
        session, path = scope["session"], scope["path"]
        if path == "/read":
            session["user"], session["theme"]
        elif path == "/write":
            session["visits"] = next(_numbers)
        elif path == "/login":
            await session.log_in("user123")
            session.update(VALUES)
        elif path == "/logout":
            await session.log_out()
        await _plain(scope, receive, send)

    stores = {
        "memory": "memory://",
        "SQLite": f"sqlite:///{place.directory / 'sessions.sqlite3'}",
        "Redis": f"{place.redis}?durability=any",
        "PostgreSQL": place.postgres,
    }
    if place.postgres:
        store = PostgresStore(place.postgres)
        await store.migrate()
        await store.close()
    found: list[Contender] = []
    for name, url in stores.items():
        if only and not only.startswith(f"{COATCHECK}, {name}"):
            continue
        # Each login is another session of one user: as many as the rounds make.
        sessions = await place.exits.enter_async_context(Sessions(url, max_per_user=None))
        app = SessionMiddleware(work, sessions)
        found.append(Contender(f"{COATCHECK}, {name}", app, "bare ASGI application"))
        if name == "SQLite":
            keys = KeyRing()
            keys.maintain()
            tokens = AccessTokens(keys, issuer="https://app.example", audience="api")
            session = await sessions.load(None)
            await session.log_in("user123")
            session.update(VALUES)
            await session.save()
            assert session.record is not None
            token, _ = tokens.issue(session.record)
            bearer = SessionMiddleware(work, sessions, tokens=tokens)
            found.append(Contender(f"{COATCHECK}, {name}, bearer", bearer, "bare ASGI application", bearer=token))
    return found


MAKERS = {
    "bare ASGI": _bare,
    "Starlette": _starlette,
    "starsessions": _starsessions,
    "Litestar": _litestar,
    "Flask": _flask,
    "Django": _django,
    "PyJWT": _pyjwt,
    COATCHECK: _coatcheck,
}
"""What makes those whose names have this in them."""
