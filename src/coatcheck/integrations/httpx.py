"""TokenAuth: an `httpx.Auth` that keeps a pair of tokens and attaches the access token. Works with httpx and httpx2.

    auth = TokenAuth("https://id.example/v1/token/refresh", refresh_token=stored, on_tokens=store)
    client = httpx.AsyncClient(base_url="https://id.example", auth=auth)

For clients of asyncio and of threads; one TokenAuth may serve many of them. Leaves logging in to the caller.
"""

import asyncio
import inspect
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from concurrent.futures import Future
from importlib import import_module
from ipaddress import ip_address
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import urlsplit

from coatcheck.clock import Clock, SystemClock
from coatcheck.errors import CoatcheckError, MissingDependency, UsageError
from coatcheck.integrations._refreshing import (
    ATTEMPT,
    RETRY_WITHIN,
    Answer,
    Ask,
    Lost,
    Pair,
    Pause,
    RefreshFailed,
    SessionOver,
    Tokens,
)
from coatcheck.origin import normalise_origins

__all__ = ["RefreshFailed", "SessionOver", "TokenAuth", "Tokens"]

if TYPE_CHECKING:
    import httpx
    import httpx2

    AnyClient = httpx.Client | httpx.AsyncClient | httpx2.Client | httpx2.AsyncClient


def _installed() -> list[ModuleType]:
    found: list[ModuleType] = []
    missing: ImportError | None = None
    for name in ("httpx", "httpx2"):
        try:
            found.append(import_module(name))
        except ImportError as error:
            missing = missing or error
    if not found:
        raise MissingDependency("httpx", "httpx", "coatcheck.integrations.httpx") from missing
    return found


_LIBRARIES = _installed()
_NO_ANSWER = tuple(cast("type[Exception]", library.RequestError) for library in _LIBRARIES)

if TYPE_CHECKING:

    class _Auth(httpx.Auth, httpx2.Auth):  # pyright: ignore[reportIncompatibleMethodOverride]
        pass

else:
    # Each library takes only what derives from its own Auth.
    _Auth = type("_Auth", tuple(library.Auth for library in _LIBRARIES), {})

_INVALID_TOKEN = re.compile(r'\bbearer\b.*\berror\s*=\s*"?invalid_token\b', re.IGNORECASE | re.DOTALL)
_PORTS = {"http": 80, "https": 443}
# An exchange takes less; this is for one whose event loop has gone away, or whose tokens nobody manages to store.
_LONGEST = RETRY_WITHIN + 5 * ATTEMPT


class _Renew(NamedTuple):
    """Come to other tokens than this access token."""

    instead_of: str | None


class TokenAuth(_Auth):
    """Attaches the access token, and renews the pair ahead of its end or when the server calls it invalid.

    - `refresh_url`: where refresh tokens are exchanged: `POST {"refresh_token": …}`. Https, or http on loopback
    - `refresh_token`, `access_token`, `expires_in`: what the login gave; without an access token one is got first
    - `on_tokens`: called with each new pair before it is used, so that it can be stored; may be a coroutine function
      for async clients. What it raises, the requests that wait raise, and the pair is handed to it again
    - `origins`: who is sent the access token: other origins never are. Default: the origin of `refresh_url`
    - `client`: what sends the refresh token; for private CAs and proxies. May be the very client that uses this auth.
      Default: a new one for each exchange
    - `margin`: seconds before its end at which an access token is renewed (30; a fifth of its life if that is less)

    However many requests wait in threads and tasks, one exchange serves them all, and a lost answer is asked for again
    for 7 seconds. A request that was answered 401 with `invalid_token` (RFC 6750) is sent once more, unless its body can
    be read only once; the next request renews first then. Requests raise SessionOver when the session is over, from
    then on without asking anybody, until `use`; and RefreshFailed when no token could be had for another reason.
    """

    def __init__(
        self,
        refresh_url: str,
        *,
        refresh_token: str,
        access_token: str | None = None,
        expires_in: float | None = None,
        on_tokens: Callable[[Tokens], Awaitable[None] | None] | None = None,
        origins: Iterable[str] | None = None,
        client: "AnyClient | None" = None,
        margin: float = 30.0,
        clock: Clock | None = None,
    ) -> None:
        parts = urlsplit(refresh_url)
        self._url = refresh_url
        self._origins = normalise_origins([f"{parts.scheme}://{parts.netloc}"] if origins is None else origins)
        for origin in {*self._origins, *normalise_origins([f"{parts.scheme}://{parts.netloc}"])}:
            _demand_secrecy(origin.decode("ascii"))
        self._pair = Pair(Tokens(access_token, refresh_token, expires_in), margin=margin, clock=clock or SystemClock())
        self._on_tokens = on_tokens
        self._client = client
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<TokenAuth {self._url}>"

    @property
    def tokens(self) -> Tokens:
        """The tokens in use. `expires_in` is what it was when they came."""
        return self._pair.tokens

    @property
    def session_over(self) -> bool:
        """Whether the server has said that the session is over."""
        return self._pair.over

    def use(self, tokens: Tokens) -> None:
        """Go on with the tokens of a new login."""
        self._pair.use(tokens)

    # ---- for clients that are not httpx's

    async def access_token(self, *, instead_of: str | None = None) -> str:
        """Give an access token that works as far as is known, renewed first if need be; in tasks, for other kinds of clients.

        `instead_of` is one that a server has refused. Raises SessionOver and RefreshFailed.
        """
        pair = self._pair
        pair.check()
        if instead_of is not None:
            await self._renew_async(instead_of, None)
        elif pair.needs_renewal():
            try:
                await self._renew_async(pair.tokens.access_token, None)
            except RefreshFailed:
                if not pair.works():
                    raise
        return self._in_use()

    def doubt(self, access_token: str) -> None:
        """Renew before the next request, unless that has happened already: a server has refused this access token."""
        self._pair.doubt(access_token)

    # ---- what httpx calls

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """Send the request with the access token, and once more with a new one."""
        steps = self._steps(request)
        step = next(steps, None)
        while step is not None:
            if isinstance(step, _Renew):
                try:
                    self._renew(step.instead_of, request)
                except CoatcheckError as error:
                    step = steps.throw(error)
                else:
                    step = next(steps, None)
                continue
            response = yield step
            step = _after(steps, response)

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """Send the request with the access token, and once more with a new one."""
        steps = self._steps(request)
        step = next(steps, None)
        while step is not None:
            if isinstance(step, _Renew):
                try:
                    await self._renew_async(step.instead_of, request)
                except CoatcheckError as error:
                    step = steps.throw(error)
                else:
                    step = next(steps, None)
                continue
            response = yield step
            step = _after(steps, response)

    # ---- one request

    def _steps(self, request: Any) -> Generator[Any, Any, None]:
        if _origin(request.url) not in self._origins or "authorization" in request.headers:
            yield request
            return
        pair = self._pair
        pair.check()
        if pair.needs_renewal():
            try:
                yield _Renew(pair.tokens.access_token)
            except RefreshFailed:
                if not pair.works():
                    raise
        used = self._in_use()
        request.headers["Authorization"] = f"Bearer {used}"
        response = yield request
        if not self._refused(response):
            return
        if response.request.method != request.method or not _replayable(request):
            pair.doubt(used)
            return
        yield _Renew(used)
        request.headers["Authorization"] = f"Bearer {pair.tokens.access_token}"
        yield request

    def _in_use(self) -> str:
        used = self._pair.tokens.access_token
        if used is None:
            raise RefreshFailed("a new login was given without an access token meanwhile: try again")
        return used

    def _refused(self, response: Any) -> bool:
        if response.status_code != 401 or _origin(response.request.url) not in self._origins:
            return False
        return _INVALID_TOKEN.search(", ".join(response.headers.get_list("www-authenticate"))) is not None

    # ---- renewing, in threads

    def _renew(self, instead_of: str | None, request: object) -> None:
        flight, mine = self._pair.board(instead_of)
        if flight is None:
            return
        if mine:
            try:
                self._exchange(request)
            except BaseException as error:
                self._pair.land(flight, error)
                raise
            self._pair.land(flight, None)
            return
        try:
            flight.result(_LONGEST)
        except TimeoutError:
            if flight.done():
                raise
            raise self._stuck(flight) from None

    def _exchange(self, request: object) -> None:
        renewal = self._pair.renewal()
        step = next(renewal, None)
        while step is not None:
            answer = None
            if isinstance(step, Ask):
                answer = self._ask(step.refresh_token, request)
            elif isinstance(step, Pause):
                time.sleep(step.seconds)
            elif self._on_tokens is not None:
                waiting = self._on_tokens(step.tokens)
                if inspect.isawaitable(waiting):
                    if inspect.iscoroutine(waiting):
                        waiting.close()
                    raise UsageError("on_tokens is a coroutine function, and this client is none of asyncio's")
            step = _after(renewal, answer)

    def _ask(self, refresh_token: str, request: object) -> Answer | Lost:
        client = self._client
        if client is None:
            with cast("httpx.Client", _library(request).Client()) as own:
                return self._send(own, refresh_token)
        if hasattr(client, "aclose"):
            raise UsageError("TokenAuth(client=…) is an async client, and this request came from another kind")
        return self._send(cast("httpx.Client", client), refresh_token)

    def _send(self, client: "httpx.Client", refresh_token: str) -> Answer | Lost:
        try:
            built = client.build_request("POST", self._url, json={"refresh_token": refresh_token}, timeout=ATTEMPT)
            return _answer(client.send(built, auth=None, follow_redirects=False))
        except _NO_ANSWER as error:
            return Lost(error)

    # ---- renewing, in tasks

    async def _renew_async(self, instead_of: str | None, request: object) -> None:
        flight, mine = self._pair.board(instead_of)
        if flight is None:
            return
        if mine:
            # In a task of its own: a request that is given up must not take the others' answer with it.
            task = asyncio.create_task(self._fly(flight, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            await asyncio.wait_for(asyncio.wrap_future(flight), _LONGEST)
        except TimeoutError:
            raise self._stuck(flight) from None

    async def _fly(self, flight: "Future[None]", request: object) -> None:
        try:
            await self._exchange_async(request)
        except asyncio.CancelledError:
            self._pair.land(flight, RefreshFailed("the event loop was closed while new tokens were on their way"))
            raise
        except BaseException as error:
            self._pair.land(flight, error)
        else:
            self._pair.land(flight, None)

    async def _exchange_async(self, request: object) -> None:
        renewal = self._pair.renewal()
        step = next(renewal, None)
        while step is not None:
            answer = None
            if isinstance(step, Ask):
                answer = await self._ask_async(step.refresh_token, request)
            elif isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            elif self._on_tokens is not None:
                waiting = self._on_tokens(step.tokens)
                if waiting is not None:
                    await waiting
            step = _after(renewal, answer)

    async def _ask_async(self, refresh_token: str, request: object) -> Answer | Lost:
        client = self._client
        if client is None:
            async with cast("httpx.AsyncClient", _library(request).AsyncClient()) as own:
                return await self._send_async(own, refresh_token)
        if hasattr(client, "aclose"):
            return await self._send_async(cast("httpx.AsyncClient", client), refresh_token)
        return await asyncio.to_thread(self._send, cast("httpx.Client", client), refresh_token)

    async def _send_async(self, client: "httpx.AsyncClient", refresh_token: str) -> Answer | Lost:
        try:
            built = client.build_request("POST", self._url, json={"refresh_token": refresh_token}, timeout=ATTEMPT)
            return _answer(await client.send(built, auth=None, follow_redirects=False))
        except _NO_ANSWER as error:
            return Lost(error)

    def _stuck(self, flight: "Future[None]") -> RefreshFailed:
        error = RefreshFailed("the exchange of tokens that another request began does not come to an end: try again")
        self._pair.land(flight, error)
        return error


def _after(steps: Generator[Any, Any, None], answer: object) -> Any:
    try:
        return steps.send(answer)
    except StopIteration:
        return None


def _answer(response: "httpx.Response") -> Answer:
    after = response.headers.get("retry-after", "")
    return Answer(response.status_code, response.content, float(after) if after.isascii() and after.isdigit() else 0.0)


def _library(request: object) -> ModuleType:
    """Of which library a request is; the first that there is for one that is of neither."""
    kinds = (library for library in _LIBRARIES if isinstance(request, cast("type", library.Request)))
    return next(kinds, _LIBRARIES[0])


def _origin(url: "httpx.URL") -> bytes:
    suffix = "" if url.port is None or url.port == _PORTS.get(url.scheme) else f":{url.port}"
    return b"%s://%s%s" % (url.scheme.encode(), _bracketed(url.raw_host), suffix.encode())


def _bracketed(host: bytes) -> bytes:
    return b"[" + host.strip(b"[]") + b"]" if b":" in host else host


def _replayable(request: "httpx.Request") -> bool:
    try:
        request.content  # noqa: B018 - it raises where the body is read from somewhere while it is sent
    except RuntimeError:
        return False
    return True


def _demand_secrecy(origin: str) -> None:
    parts = urlsplit(origin)
    if parts.scheme == "https":
        return
    host = parts.hostname or ""
    try:
        loopback = ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost" or host.endswith(".localhost")
    if not loopback:
        raise UsageError(f"tokens would travel to {origin} for all to read: use https (http is for loopback only)")
