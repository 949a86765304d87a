"""The way to a tokens' issuer: bounded requests over https, to the addresses that were configured and nowhere else.

Needs httpx or httpx2. Leaves what the answers mean to `jwks`, `revocations` and `verifier`.
"""

import asyncio
import contextlib
import importlib
import ipaddress
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import urlsplit

from coatcheck.errors import MissingDependency, TokenRefused, UsageError
from coatcheck.tokens.errors import IssuerUnavailable

if TYPE_CHECKING:
    import httpx

__all__ = ["Issuer", "Transport", "check_url"]

TIMEOUT = 5.0
"""Seconds for a whole request, its answer included."""
MOST_BYTES = 64 * 1024


class Transport(Protocol):
    """What httpx and httpx2 call `AsyncBaseTransport`."""

    async def handle_async_request(self, request: Any) -> Any: ...

    async def aclose(self) -> None: ...


def check_url(url: str, what: str) -> str:
    """Give the URL back. Raises UsageError for one that could be read or answered by somebody on the way."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if not host or "@" in parts.netloc or "#" in url or parts.scheme not in ("https", "http"):
        raise UsageError(f"{what}={url!r} is no URL to be asked; give one like https://login.example.com")
    if parts.scheme == "http" and not _is_loopback(host):
        raise UsageError(f"{what}={url!r} must be https: over http anybody on the way could answer (loopback excepted)")
    return url


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Issuer:
    """Asks one issuer. Follows no redirect, heeds no proxy of the environment, reads no more than 64 KiB in 5 seconds."""

    def __init__(
        self,
        url: str,
        *,
        service: tuple[str, str] | None,
        transport: Transport | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._url = url.rstrip("/")
        self._service = service
        library = _library(transport)
        self._errors: tuple[type[Exception], ...] = (
            library.HTTPError,
            library.InvalidURL,
            library.StreamError,
            OSError,
        )
        self._timeout: Any = library.Timeout
        limits = library.Limits(max_connections=100, max_keepalive_connections=20)
        options: dict[str, Any] = {"follow_redirects": False, "trust_env": False, "limits": limits, "timeout": TIMEOUT}
        # A compressed answer could be of any length.
        options["headers"] = {"accept-encoding": "identity"}
        if transport is not None:
            options["transport"] = transport
        if tls is not None:
            options["verify"] = tls
        self._client: httpx.AsyncClient = library.AsyncClient(**options)

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    async def fetch(self, url: str) -> tuple[bytes, Mapping[str, str]]:
        """Give the body of a 200, and the headers. Raises IssuerUnavailable for anything else."""
        async with self._asking():
            async with self._client.stream("GET", url, headers={"accept": "application/json"}) as answer:
                if answer.status_code != 200:
                    raise IssuerUnavailable(f"{url} answered {answer.status_code}")
                return await _bounded(answer), answer.headers
        raise AssertionError  # _asking lets nothing pass that is an error

    async def ask(self, token: str, audience: str) -> None:
        """Ask whether a token is still good. Raises TokenRefused, IssuerUnavailable."""
        async with self._asking():
            headers = {"authorization": f"Bearer {token}"}
            url = f"{self._url}/v1/verify"
            async with self._client.stream("GET", url, headers=headers, params={"audience": audience}) as answer:
                if answer.status_code == 200:
                    return
                if answer.status_code == 401:
                    raise TokenRefused("its issuer says that it is not good any more")
                raise IssuerUnavailable(f"{url} answered {answer.status_code}")

    @contextlib.asynccontextmanager
    async def revocations(self, last_id: str, *, silence: float) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Open the feed of revocations. `silence`: seconds without a byte after which it counts as lost.

        Raises IssuerUnavailable where it does not open; reading it raises that too.
        """
        url = f"{self._url}/v1/revocations"
        headers = {"accept": "text/event-stream"} | ({"last-event-id": last_id} if last_id else {})
        timeout = self._timeout(TIMEOUT, read=silence)
        request = self._client.stream("GET", url, headers=headers, auth=self._service, timeout=timeout)
        try:
            async with request as answer:
                kind = answer.headers.get("content-type", "").partition(";")[0].strip()
                if answer.status_code != 200 or kind != "text/event-stream":
                    raise IssuerUnavailable(f"{url} answered {answer.status_code} {kind or 'without a type'}")
                if answer.headers.get("content-encoding", "identity") != "identity":
                    raise IssuerUnavailable(f"{url} answered with a content coding that was not asked for")
                yield answer.aiter_raw()
        except self._errors as error:
            raise IssuerUnavailable(f"{url}: {error or type(error).__name__}") from error

    @contextlib.asynccontextmanager
    async def _asking(self) -> AsyncGenerator[None]:
        try:
            async with asyncio.timeout(TIMEOUT):
                yield
        except (*self._errors, TimeoutError) as error:
            raise IssuerUnavailable(f"{self._url} cannot be asked: {error or type(error).__name__}") from error


async def _bounded(answer: "httpx.Response") -> bytes:
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise IssuerUnavailable(f"{answer.url} answered with a content coding that was not asked for")
    body = bytearray()
    async for piece in answer.aiter_raw():
        body += piece
        if len(body) > MOST_BYTES:
            raise IssuerUnavailable(f"{answer.url} answered with more than {MOST_BYTES} bytes")
    return bytes(body)


def _library(transport: object) -> Any:
    """Give httpx, or httpx2 where only that is installed or the transport is one of its own."""
    found: list[Any] = []
    for name in ("httpx", "httpx2"):
        with contextlib.suppress(ImportError):
            found.append(cast("Any", importlib.import_module(name)))
    if not found:
        raise MissingDependency("httpx", "httpx", "TokenVerifier")
    return next((library for library in found if isinstance(transport, library.AsyncBaseTransport)), found[0])
