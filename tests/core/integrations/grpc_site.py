"""A real grpc.aio server on loopback whose methods are the test's own functions, and channels to it. Messages are bytes."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any, Self

import grpc
import grpc.aio

from coatcheck import Sessions
from coatcheck.integrations.grpc import SessionInterceptor
from coatcheck.stores.memory import MemoryStore
from coatcheck.testing import GatedStore, ManualClock
from coatcheck.tokens import AccessTokens, KeyRing

NO_PROXY = (("grpc.enable_http_proxy", 0),)
COOKIE = "__Host-session"
UNARY, SERVER, CLIENT, BOTH = "unary_unary", "unary_stream", "stream_unary", "stream_stream"
KINDS = (UNARY, SERVER, CLIENT, BOTH)


class Site(grpc.GenericRpcHandler):
    """`site.serve(kind, handler)` makes a method, `site.call(kind)` calls it. Use as `async with`."""

    def __init__(self, *, bearer: bool = False, manager: dict[str, Any] | None = None, **options: Any) -> None:
        self.clock = ManualClock()
        self.tokens = AccessTokens(KeyRing(clock=self.clock), issuer="https://me", audience="https://me")
        if bearer:
            options["tokens"] = self.tokens
        self.store = GatedStore(MemoryStore(clock=self.clock))
        manager = {"idle_timeout": 1000.0, "touch_interval": 10.0, **(manager or {})}
        self.sessions = Sessions(self.store, clock=self.clock, **manager)
        self.interceptor = SessionInterceptor(self.sessions, **options)
        self.server = grpc.aio.server(interceptors=[self.interceptor], options=NO_PROXY)
        self.server.add_generic_rpc_handlers([self])
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self._methods: dict[str, grpc.RpcMethodHandler] = {}
        self._exits = contextlib.AsyncExitStack()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._methods.get(handler_call_details.method)

    def serve(self, kind: str, handler: Callable[..., Any], name: str = "") -> None:
        self._methods[f"/test.Service/{name or kind}"] = getattr(grpc, f"{kind}_rpc_method_handler")(handler)

    async def __aenter__(self) -> Self:
        await self._exits.enter_async_context(self.sessions)
        await self.server.start()
        self._exits.push_async_callback(self.server.stop, None)
        self.channel = await self._exits.enter_async_context(self.connect())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    def connect(self, **options: Any) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=NO_PROXY, **options)

    def call(
        self, kind: str, *arguments: Any, name: str = "", channel: grpc.aio.Channel | None = None, **options: Any
    ) -> Any:
        """Call a method; `metadata` may be a session's token."""
        method = getattr(channel or self.channel, kind)(f"/test.Service/{name or kind}")
        return method(*(arguments or ([b""] if kind in (UNARY, SERVER) else [])), **options)

    async def log_in(self, user_id: str = "ada") -> tuple[str, tuple[tuple[str, str], ...]]:
        """Give a new session's id, and the metadata that lead to it."""
        session = await self.sessions.load(None)
        await session.log_in(user_id)
        assert session.id is not None and session.cookie_change is not None and session.cookie_change.token
        return session.id, cookie(session.cookie_change.token)

    async def bearer(self, metadata: tuple[tuple[str, str], ...]) -> tuple[str, str]:
        """Give the entry with an access token for a session, by the metadata that lead to it."""
        record = (await self.sessions.load(metadata[0][1].partition("=")[2].encode())).record
        assert record is not None
        return "authorization", f"Bearer {self.tokens.issue(record)[0]}"


def cookie(token: str) -> tuple[tuple[str, str], ...]:
    return (("cookie", f"{COOKIE}={token}"),)


async def status(call: Any) -> tuple[grpc.StatusCode, str]:
    """Give what a call ended with, when it has."""
    async with asyncio.timeout(10):
        return await call.code(), await call.details()


async def responses(kind: str, call: Any, requests: Iterable[bytes] = (b"",)) -> list[bytes]:
    """Give all that a call answers to requests."""
    if kind in (CLIENT, BOTH):
        with contextlib.suppress(asyncio.InvalidStateError):  # it is over; why, its end says
            for request in requests:
                await call.write(request)
            await call.done_writing()
    if kind in (UNARY, CLIENT):
        return [await call]
    return [response async for response in call]
