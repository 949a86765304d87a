"""Logs a test client in: a real session through the manager, its cookie in the client's own jar. Leaves the rest to the client.

Works with Starlette's and FastAPI's TestClient, and with httpx.AsyncClient over ASGITransport; imports none of them.
"""

import asyncio
import threading
from collections.abc import Coroutine, Mapping
from email.message import Message
from http.client import HTTPResponse
from http.cookiejar import CookieJar
from typing import Any, Protocol, TypeVar, cast, overload
from urllib.parse import urlsplit
from urllib.request import Request

from coatcheck.cookies import CookiePolicy, find_cookie
from coatcheck.errors import UsageError
from coatcheck.manager import Sessions
from coatcheck.session import Session

__all__ = ["AsyncClient", "Cookies", "SyncClient", "log_in"]

T = TypeVar("T")


class Cookies(Protocol):
    """What is asked of a client's cookies."""

    @property
    def jar(self) -> CookieJar: ...


class SyncClient(Protocol):
    """Starlette's TestClient, as far as it matters here."""

    @property
    def base_url(self) -> object: ...
    @property
    def cookies(self) -> Cookies: ...
    def close(self) -> None: ...


class AsyncClient(Protocol):
    """httpx.AsyncClient, as far as it matters here."""

    @property
    def base_url(self) -> object: ...
    @property
    def cookies(self) -> Cookies: ...
    async def aclose(self) -> None: ...


@overload
def log_in(
    client: SyncClient,
    sessions: Sessions,
    user_id: str,
    *,
    cookie: CookiePolicy | None = None,
    epoch: int | None = None,
    remember: bool | None = None,
    about: Mapping[str, str] | None = None,
) -> Session: ...
@overload
def log_in(
    client: AsyncClient,
    sessions: Sessions,
    user_id: str,
    *,
    cookie: CookiePolicy | None = None,
    epoch: int | None = None,
    remember: bool | None = None,
    about: Mapping[str, str] | None = None,
) -> Coroutine[Any, Any, Session]: ...
def log_in(
    client: SyncClient | AsyncClient,
    sessions: Sessions,
    user_id: str,
    *,
    cookie: CookiePolicy | None = None,
    **verb: Any,
) -> Session | Coroutine[Any, Any, Session]:
    """Log a test client in and give its session: `log_in(client, sessions, "user123")`; `await` it for httpx.AsyncClient.

    The session that the client's cookie already names is the one that is logged in, as in a request; else a new one.
    `cookie` is the policy that SessionMiddleware was given; all else goes to `Session.log_in`. Raises UsageError where
    the client would not send the cookie back, as to a base_url of plain http.
    """
    policy = cookie or CookiePolicy()
    jar = client.cookies.jar
    url = _reachable(str(client.base_url), policy)
    logging_in = _log_in(jar, url, sessions, user_id, policy, verb)
    if hasattr(client, "aclose"):
        return logging_in
    portal = getattr(client, "portal", None)
    if portal is not None:
        # The client runs a loop of its own (`with TestClient(…)`): what the session starts belongs there.
        return cast("Session", portal.call(_awaited, logging_in))
    return _run(logging_in)


async def _log_in(
    jar: CookieJar, url: str, sessions: Sessions, user_id: str, policy: CookiePolicy, verb: dict[str, Any]
) -> Session:
    sent = _request(url)
    jar.add_cookie_header(sent)
    header = sent.get_header("Cookie")
    token = None if header is None else find_cookie(header.encode("latin-1"), policy.name.encode("ascii"))
    session = await sessions.load(token)
    await session.log_in(user_id, **verb)
    change = session.cookie_change
    assert change is not None
    assert change.token is not None
    jar.extract_cookies(_answer(policy.set_cookie(change.token, max_age=change.max_age)), _request(url))
    return session


def _reachable(base_url: str, policy: CookiePolicy) -> str:
    """Give the URL whose cookies these are. Raises UsageError where a cookie of this policy would not come back."""
    parts = urlsplit(base_url)
    mend = 'give the client base_url="https://testserver"'
    if not parts.netloc:
        raise UsageError(f"the client has no base_url, so its cookies belong nowhere: {mend}")
    if policy.secure and parts.scheme not in ("https", "wss"):
        raise UsageError(
            f"the cookie {policy.name} is Secure, and a client at {base_url} never sends such a one over plain http: {mend}"
        )
    url = f"{parts.scheme}://{parts.netloc}{policy.path}"
    jar = CookieJar()
    jar.extract_cookies(_answer(policy.set_cookie("probe", max_age=None)), _request(url))
    probe = _request(url)
    jar.add_cookie_header(probe)
    if not probe.has_header("Cookie"):
        raise UsageError(
            f"a client at {base_url} would not send back the cookie {policy.name} of the domain {policy.domain}: "
            f'give it base_url="https://{policy.domain}", or the policy no domain'
        )
    return url


class _Response:
    def __init__(self, headers: Message) -> None:
        self._headers = headers

    def info(self) -> Message:
        return self._headers


def _answer(set_cookie: bytes) -> HTTPResponse:
    """Give as much of a response as http.cookiejar looks at."""
    headers = Message()
    headers["Set-Cookie"] = set_cookie.decode("ascii")
    return cast("HTTPResponse", _Response(headers))


def _request(url: str) -> Request:
    # http.cookiejar wants one; nobody opens it.
    return Request(url)  # noqa: S310


async def _awaited(coroutine: Coroutine[Any, Any, T]) -> T:
    return await coroutine


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    # A synchronous client inside of a coroutine: its requests run on other loops, and so must this.
    outcome: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(asyncio.run(coroutine))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work, name="coatcheck.testing.log_in")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]
