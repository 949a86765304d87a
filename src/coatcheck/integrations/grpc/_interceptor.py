"""SessionInterceptor: every call of a grpc.aio server gets its session, and every stream ends with its own.

Leaves a credential's worth to `credentials`, storing to `_call`, ending streams to `_stream`, and sync handlers to `_threads`.
"""

import contextlib
import inspect
import logging
from asyncio import get_running_loop
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Executor
from typing import Any, TypeVar, cast

import grpc
import grpc.aio

from coatcheck.connections import RESTART
from coatcheck.cookies import CookiePolicy
from coatcheck.credentials import Refusal, Verifier
from coatcheck.errors import SessionRefused, StoreUnavailable, TooManyConnections, UsageError
from coatcheck.integrations.grpc._call import Call, Context
from coatcheck.integrations.grpc._logins import LOGIN
from coatcheck.integrations.grpc._stream import Requests, Stream, StreamContext
from coatcheck.integrations.grpc._threads import call_in_thread, stream_in_thread
from coatcheck.integrations.grpc.admission import Admission, Headers, headers_of
from coatcheck.integrations.grpc.answers import refused
from coatcheck.manager import Sessions
from coatcheck.session import enter, leave

__all__ = ["SessionInterceptor"]

Q = TypeVar("Q")
A = TypeVar("A")

Handler = Callable[[Any, Any], Any]


class SessionInterceptor(grpc.aio.ServerInterceptor):
    """Gives every call its session, as `current_session()`, in async handlers and in sync ones.

        server = grpc.aio.server(interceptors=[SessionInterceptor(sessions, tokens=tokens, require_login=True)])

    - `sessions`: the manager, or a store's URL to make one with defaults
    - `cookie`: the cookie's policy; the default is `__Host-session`
    - `public_origins`: origins whose pages may call (gRPC-Web); a page of another site is PERMISSION_DENIED
    - `tokens`: what verifies access tokens (`coatcheck.tokens.AccessTokens`); without it bearers are not looked at
    - `require_login`: whether nobody may call who is not logged in; `except_for` names methods that anybody may call,
      as `/package.Service/Method` or `/package.Service/*`
    - `thread_pool`: where sync handlers run. Give it what you give `grpc.aio.server` as `migration_thread_pool`

    Whoever is refused gets UNAUTHENTICATED, or UNAVAILABLE where the store cannot be asked: never a guess. Changes are
    stored before the first message leaves and at the end; an exception that the handler lets out discards them, an abort
    does not. A session that gets a cookie has it in the initial metadata, as `set-cookie`, unless a bearer brought the call.

    Everything but a unary call is a live connection, and ends with its session, whatever its handler does: with
    UNAUTHENTICATED. A handler that changes its own session's secret (`log_in`, `regenerate`) ends its own stream.
    """

    def __init__(
        self,
        sessions: Sessions | str,
        *,
        cookie: CookiePolicy | None = None,
        public_origins: Iterable[str] = (),
        tokens: Verifier | None = None,
        require_login: bool = False,
        except_for: Iterable[str] = (),
        thread_pool: Executor | None = None,
    ) -> None:
        self.sessions: Sessions = Sessions(sessions) if isinstance(sessions, str) else sessions
        self._admission = Admission(
            self.sessions, cookie=cookie or CookiePolicy(), public_origins=public_origins, tokens=tokens
        )
        self._require_login = require_login
        self._open_to_all = frozenset(map(_method_name, except_for))
        if self._open_to_all and not require_login:
            raise UsageError("except_for names exceptions from require_login, which is not set")
        self._thread_pool = thread_pool
        self._streams: set[Stream] = set()
        self._leaving = False
        _keep_metadata_out_of_logs()

    def leave(self) -> None:
        """End every stream, of anonymous callers too, and each that is opened from now on: with UNAVAILABLE.

        For a server that is about to stop: `server.stop(grace)` waits for streams, which have no end of their own.
        """
        self._leaving = True
        for stream in list(self._streams):
            stream.end(RESTART)

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Q, A] | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Q, A] | None":
        """Wrap the handler of one call. Called by grpc."""
        method = cast("Any", await continuation(handler_call_details))
        if method is None:
            return None
        name = handler_call_details.method
        codecs = method.request_deserializer, method.response_serializer
        if method.request_streaming and method.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self._streaming(name, method.stream_stream, True), *codecs)
        if method.request_streaming:
            return grpc.stream_unary_rpc_method_handler(self._collecting(name, method.stream_unary), *codecs)
        if method.response_streaming:
            return grpc.unary_stream_rpc_method_handler(self._streaming(name, method.unary_stream, False), *codecs)
        return grpc.unary_unary_rpc_method_handler(self._unary(name, method.unary_unary), *codecs)

    def admission(self, headers: Headers) -> Admission:
        """Give what decides whose call this is. For servers that go by more than one cookie policy."""
        return self._admission

    # ---- the kinds of calls

    def _unary(self, name: str, handler: Handler) -> Any:
        async def unary(request: Any, context: Any) -> Any:
            call = await self._admit(name, context)
            call.session.loop = get_running_loop()
            current = enter(call.session)
            try:
                return await _respond(call, self._answer(handler, request, Context(call)))
            finally:
                leave(current)

        return unary

    def _collecting(self, name: str, handler: Handler) -> Any:
        async def collecting(_: Any, context: Any) -> Any:
            call = await self._admit(name, context)

            def work(context: StreamContext) -> Coroutine[Any, Any, Any]:
                return self._answer(handler, None, context)

            return await self._live(name, call, work)

        return collecting

    def _streaming(self, name: str, handler: Handler, request_streaming: bool) -> Any:
        async def streaming(request: Any, context: Any) -> None:
            call = await self._admit(name, context)

            def work(context: StreamContext) -> Coroutine[Any, Any, None]:
                return self._answers(handler, None if request_streaming else request, context)

            await self._live(name, call, work)

        return streaming

    async def _live(self, name: str, call: Call, work: Callable[[StreamContext], Coroutine[Any, Any, A]]) -> A:
        stream = Stream(self.sessions, call, name)
        self._streams.add(stream)
        call.session.loop = get_running_loop()
        current = enter(call.session)
        try:
            try:
                stream.go_on()
            except TooManyConnections as error:
                await call.fail(error)
            if self._leaving:
                stream.end(RESTART)
            return await stream.run(_respond(call, work(StreamContext(call, stream))))
        finally:
            leave(current)
            self._streams.discard(stream)

    # ---- handlers; a request that is None stands for the client's messages

    async def _answer(self, handler: Handler, request: Any, context: Context) -> Any:
        if not inspect.iscoroutinefunction(handler):
            return await call_in_thread(self._thread_pool, handler, request, context)
        if request is None:
            request = Requests(cast("StreamContext", context))
        return await handler(request, context)

    async def _answers(self, handler: Handler, request: Any, context: StreamContext) -> None:
        if not (inspect.isasyncgenfunction(handler) or inspect.iscoroutinefunction(handler)):
            await stream_in_thread(self._thread_pool, handler, request, context)
            return
        if request is None:
            request = Requests(context)
        if inspect.iscoroutinefunction(handler):
            await handler(request, context)  # it writes by itself
            return
        async with contextlib.aclosing(handler(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    # ---- who calls

    async def _admit(self, name: str, context: Any) -> Call:
        """Give the call and its session, or abort."""
        headers = headers_of(context.invocation_metadata())
        admission = self.admission(headers)
        session = await admission.admit(headers)
        if isinstance(session, Refusal):
            self.sessions.counted.refused[session.cause] += 1
            await refused(session).give(context)
        if self._require_login and not self._is_open(name) and (answer := LOGIN.unmet_by(session)) is not None:
            await answer.give(context)
        protocol = admission.protocol(headers)
        return Call(self.sessions, session, context, cookie=admission.cookie, protocol=protocol)

    def _is_open(self, name: str) -> bool:
        return name in self._open_to_all or name.rpartition("/")[0] + "/*" in self._open_to_all


async def _respond(call: Call, work: Coroutine[Any, Any, A]) -> A:
    """Run a handler, and store what it changed."""
    try:
        response = await work
        await call.finish()
    except (StoreUnavailable, SessionRefused) as error:
        await call.fail(error)
    except BaseException:
        call.session.discard()
        raise
    return response


def _method_name(name: str) -> str:
    parts = name.split("/")
    if len(parts) != 3 or parts[0] or not parts[1] or not parts[2]:
        raise UsageError(f"except_for: {name!r} is no method: write /package.Service/Method or /package.Service/*")
    return name


class _WithoutMetadata(logging.Filter):
    """For each metadata value that is not UTF-8 grpc logs all of it, and that may be a header with our cookie."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg != "Invalid encoding on %s"


_filter = _WithoutMetadata()


def _keep_metadata_out_of_logs() -> None:
    logging.getLogger("grpc._cython.cygrpc").addFilter(_filter)  # twice is as once
