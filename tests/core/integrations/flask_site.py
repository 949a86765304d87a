"""A small Flask application over a store that tests can hold, count and take away."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from coatcheck import CookiePolicy, Sessions
from coatcheck.integrations.flask import Coatcheck, login_required, session
from coatcheck.stores.memory import MemoryStore
from coatcheck.stores.sqlite import SQLiteStore
from coatcheck.testing import Gate, GatedStore, ManualClock

COOKIE = "__Host-session"


class Site:
    """Views by path, each answering with JSON. `add` adds one."""

    def __init__(self, store: GatedStore, clock: ManualClock, cookie: CookiePolicy | None = None, **rest: Any) -> None:
        self.store = store
        self.clock = clock
        self.sessions = Sessions(store, clock=clock, idle_timeout=1000.0, touch_interval=10.0, lifetime=100_000.0)
        self.app = Flask("site")
        self.coatcheck = Coatcheck(self.app, self.sessions, cookie=cookie, **rest)
        self.add("/login", lambda: session.sync.log_in("user"))
        self.add("/logout", lambda: session.sync.log_out())
        self.add("/whoami", lambda: session.user_id)
        self.add("/write", self._write)
        self.add("/static-page", lambda: None)
        self.add("/private", login_required(lambda: "for users"))

    @staticmethod
    def _write() -> int:
        session["n"] = session.get("n", 0) + 1
        return int(session["n"])

    def add(self, path: str, view: Callable[..., Any], **options: Any) -> None:
        def answer(**values: Any) -> Any:
            result = view(**values)
            return result if isinstance(result, self.app.response_class) else json.dumps(result)

        # Not by add_url_rule, which refuses once the application has served a request.
        options.setdefault("methods", ["GET", "POST"])
        self.app.url_map.add(self.app.url_rule_class(path, endpoint=path, **options))
        self.app.view_functions[path] = answer

    def client(self, *, cookie: str | None = None) -> FlaskClient:
        client = self.app.test_client()
        if cookie is not None:
            client.set_cookie(COOKIE, cookie)
        return client

    def logged_in(self) -> FlaskClient:
        client = self.client()
        assert client.post("/login").status_code == 200
        return client

    def who(self, client: FlaskClient) -> str | None:
        answer = client.get("/whoami")
        assert answer.status_code == 200
        return json.loads(answer.data)

    def release(self, gate: Gate) -> None:
        """Let a call that is held go on."""

        async def go_on() -> None:
            gate.release()

        self.coatcheck.run(go_on())

    def arrived(self, gate: Gate) -> None:
        """Wait until a call is held."""
        self.coatcheck.run(gate.arrived.wait())


def cookie_of(client: FlaskClient) -> str | None:
    """The session token in the client's jar."""
    cookie = client.get_cookie(COOKIE)
    return None if cookie is None else cookie.value


def set_cookies(answer: TestResponse) -> list[str]:
    return answer.headers.getlist("Set-Cookie")


@contextmanager
def site(kind: str = "memory", path: Path | None = None, **options: Any) -> Iterator[Site]:
    with sites(kind, path, 1, **options) as made:
        yield made[0]


@contextmanager
def sites(
    kind: str, path: Path | None, count: int = 2, *, clock: ManualClock | None = None, **options: Any
) -> Iterator[list[Site]]:
    """Several nodes on one store: as many applications, each with Sessions and a thread of its own."""
    clock = clock or ManualClock()
    memory = MemoryStore(clock=clock)
    made = [
        Site(
            GatedStore(memory if kind == "memory" else SQLiteStore(str((path or Path()) / "s.sqlite3"), clock=clock)),
            clock,
            **options,
        )
        for _ in range(count)
    ]
    try:
        yield made
    finally:
        for each in made:
            each.coatcheck.close()
