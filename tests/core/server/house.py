"""A whole server but for its sockets: real accounts and sessions on SQLite, the real application, clients in process."""

import contextlib
import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
from starlette.routing import BaseRoute

from coatcheck import Sessions
from coatcheck.accounts import Accounts, HashParameters, PasswordHasher
from coatcheck.accounts.database import ensure_private_file, parse_url, place_of
from coatcheck.accounts.migrate import migrate
from coatcheck.accounts.passkeys import Passkeys
from coatcheck.accounts.recovery import RecoveryCodes
from coatcheck.accounts.security_log import SecurityLog
from coatcheck.sealed import new_key
from coatcheck.server.activity import Activity
from coatcheck.server.app import compose, rest_app
from coatcheck.server.attempts import PLAIN_DEVICE, TLS_DEVICE, Attempts
from coatcheck.server.context import WorkerContext
from coatcheck.server.live_table import LiveTable
from coatcheck.server.login_counts import LoginCounts
from coatcheck.server.metrics import Publisher
from coatcheck.server.services import Services
from coatcheck.server.settings import Settings
from coatcheck.server.signing import open_access_tokens
from coatcheck.stores.sqlite import SQLiteStore
from coatcheck.testing import GatedStore, ManualClock
from coatcheck.tokens import RefreshTokens

CHEAP = HashParameters(memory_kib=8, passes=1, lanes=1)
PASSWORD = "correct horse"
ORIGIN = "https://localhost:8443"
PLAIN_ORIGIN = "http://localhost:8080"
COOKIE = "__Host-session"
PLAIN_COOKIE = "session"
WORKER = 7


@functools.cache
def _migrated() -> bytes:
    """An empty accounts' database. Every house has a copy: making one takes longer than most tests."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "accounts.sqlite3"
        ensure_private_file(file)
        migrate(place_of(f"sqlite:///{file}"))
        return file.read_bytes()


class House:
    """Use as `async with House(tmp_path) as house`. Further keywords are settings."""

    def __init__(
        self,
        path: Path,
        *,
        hasher: PasswordHasher | None = None,
        accounts: Callable[..., Accounts] = Accounts,
        keys: Sequence[bytes] | None = None,
        **settings: Any,
    ) -> None:
        self.clock = ManualClock()
        self.settings = Settings(data_dir=path, workers=2, **settings)
        self.store = GatedStore(SQLiteStore(path / "sessions.sqlite3", clock=self.clock))
        self.sessions = Sessions(self.store, clock=self.clock)
        self.hasher = hasher or PasswordHasher(CHEAP)
        self.accounts = accounts(self.settings.accounts_url(), hasher=self.hasher, clock=self.clock)
        self.worker = WorkerContext(runtime_dir=path, worker_id=WORKER)
        self.attempts = Attempts(self.accounts, self.settings.throttling, keys or [new_key()], clock=self.clock)
        self.access = open_access_tokens(self.settings, clock=self.clock)
        self.activity = Activity(self.accounts, self.sessions)
        self.services = Services(
            settings=self.settings,
            worker=self.worker,
            sessions=self.sessions,
            accounts=self.accounts,
            attempts=self.attempts,
            access=self.access,
            refresh=RefreshTokens(self.sessions, self.access),
            activity=self.activity,
            passkeys=Passkeys(self.accounts, self.settings.effective_public_origins(), clock=self.clock),
            recovery=RecoveryCodes(self.accounts, clock=self.clock),
            security=SecurityLog(self.accounts, clock=self.clock),
            logins=LoginCounts(self.accounts, self.sessions),
            live=LiveTable(path, WORKER, self.sessions.connections),
        )
        self.app = compose(self.services)
        self._exits = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        file = Path(str(parse_url(self.settings.accounts_url()).database))
        if not file.exists():
            ensure_private_file(file)
            file.write_bytes(_migrated())
        await self._exits.enter_async_context(self.accounts)
        self._exits.push_async_callback(self.activity.close)
        await self._exits.enter_async_context(self.sessions)
        self.access.keys.maintain()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    def publish(self) -> None:
        """Have this worker's figures written where the overview reads them, as happens every second."""
        Publisher(self.worker.figures, self.sessions).publish()

    def routes(self) -> list[BaseRoute]:
        """Every route that FastAPI has."""
        return rest_app(self.services).routes

    def client(self, origin: str = ORIGIN, **options: Any) -> httpx.AsyncClient:
        """A browser or curl of its own, without a cookie."""
        transport = httpx.ASGITransport(self.app, client=("192.0.2.7", 50000))
        return httpx.AsyncClient(transport=transport, base_url=origin, **options)

    async def register(self, username: str, name: str = "") -> str:
        """Give the id of a new user whose password is PASSWORD."""
        return (await self.accounts.register(username, PASSWORD, name)).id

    async def log_in(self, username: str, origin: str = ORIGIN, **options: Any) -> httpx.AsyncClient:
        """Give a client that is logged in; registers the user if need be."""
        if await self.accounts.find(username) is None:
            await self.register(username)
        client = self.client(origin, **options)
        answer = await client.post("/v1/login", json={"username": username, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        return client


async def log_in_for_tokens(client: httpx.AsyncClient, username: str) -> dict[str, Any]:
    """Give what a login by token answers."""
    form = {"username": username, "password": PASSWORD, "mode": "token"}
    answer = await client.post("/v1/login", json=form)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def bearer(token: str) -> dict[str, str]:
    """The header that carries an access token."""
    return {"authorization": f"Bearer {token}"}


def session_line(answer: httpx.Response) -> str:
    """The Set-Cookie header of the session; a login sets the device's as well."""
    devices = (f"{TLS_DEVICE.name}=", f"{PLAIN_DEVICE.name}=")
    (line,) = [line for line in answer.headers.get_list("set-cookie") if not line.startswith(devices)]
    return str(line)


def cookie_of(answer: httpx.Response) -> str:
    """The token that an answer set; empty where it deleted the cookie."""
    return session_line(answer).split(";")[0].partition("=")[2]


def token_of(client: httpx.AsyncClient) -> str:
    """The token that a logged-in client has, under whichever name."""
    (token,) = [value for name, value in client.cookies.items() if name in (COOKIE, PLAIN_COOKIE)]
    return token


async def session_id(client: httpx.AsyncClient) -> str:
    """The id of a client's session."""
    answer = await client.get("/v1/verify")
    assert answer.status_code == 200
    return str(answer.headers["x-auth-session-id"])
