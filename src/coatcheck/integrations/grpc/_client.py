"""Channels whose calls carry an access token, renewed once for however many calls wait. Leaves the exchange to `TokenAuth`.

A call that is answered UNAUTHENTICATED is made once more with a new token, a stream only before its first message. What a
stream has sent by then is kept for that, up to a bound.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from coatcheck.errors import UsageError
from coatcheck.integrations.grpc._attempts import Attempts, Details
from coatcheck.integrations.grpc._endings import Ending
from coatcheck.integrations.grpc._replay import Replay
from coatcheck.integrations.grpc._token_streams import TokenStreamStream, TokenStreamUnary, TokenUnaryStream

if TYPE_CHECKING:
    from coatcheck.integrations.httpx import TokenAuth

__all__ = ["token_channel"]


def token_channel(
    target: str,
    auth: "TokenAuth",
    *,
    credentials: grpc.ChannelCredentials | None = None,
    insecure: bool = False,
    options: Sequence[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
) -> grpc.aio.Channel:
    """Give a channel of grpc.aio whose calls carry `auth`'s access token, as `authorization`.

        auth = TokenAuth("https://id.example/v1/token/refresh", refresh_token=stored, on_tokens=store)
        channel = token_channel("orders.example:443", auth)

    - `auth`: a `coatcheck.integrations.httpx.TokenAuth`, the one that httpx clients use or one of its own
    - `credentials`: the channel's; default: TLS that trusts the system's CAs
    - `insecure`: whether tokens may travel in plain text, as on loopback. Then there must be no `credentials`
    - `interceptors`: further ones, which see the call before the token is in it

    However many calls wait, one exchange of the refresh token serves them all. A call that is answered UNAUTHENTICATED is
    made once more, unless the answer says that another token would not help; so is a stream of which no message has come
    yet. Calls that bring `authorization` themselves are left alone. Calls raise SessionOver when the session is over, and
    RefreshFailed when no token could be had for another reason; both are AioRpcErrors as well, UNAUTHENTICATED and
    UNAVAILABLE.
    """
    if insecure and credentials is not None:
        raise UsageError("token_channel has credentials and insecure=True: leave one of them out")
    ours = (*interceptors, _Unary(auth), _Server(auth), _Client(auth), _Both(auth))
    if insecure:
        return grpc.aio.insecure_channel(target, options, compression, ours)
    return grpc.aio.secure_channel(target, credentials or grpc.ssl_channel_credentials(), options, compression, ours)


class _Interceptor:
    """grpc takes one object for each kind of call."""

    def __init__(self, auth: "TokenAuth") -> None:
        self._auth = auth


class _Unary(_Interceptor, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Details, request: Any) -> Any:
        attempts = Attempts(self._auth, client_call_details)
        call = await continuation(await attempts.first(), request)
        try:
            if not await attempts.refused(Ending(call)):
                return call
        except asyncio.CancelledError:
            call.cancel()
            raise
        return await continuation(await attempts.second(), request)


class _Server(_Interceptor, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Details, request: Any) -> Any:
        def begin(details: Details) -> Awaitable[Any]:
            return continuation(details, request)

        attempts = Attempts(self._auth, client_call_details)
        return TokenUnaryStream(attempts, begin, await begin(await attempts.first()))


class _Client(_Interceptor, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Any, client_call_details: Details, request_iterator: Any
    ) -> Any:
        def begin(details: Details) -> Awaitable[Any]:
            return continuation(details, requests.attempt())

        requests, attempts = Replay(request_iterator), Attempts(self._auth, client_call_details)
        return TokenStreamUnary(attempts, begin, await begin(await attempts.first()), requests)


class _Both(_Interceptor, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Any, client_call_details: Details, request_iterator: Any
    ) -> Any:
        def begin(details: Details) -> Awaitable[Any]:
            return continuation(details, requests.attempt())

        requests, attempts = Replay(request_iterator), Attempts(self._auth, client_call_details)
        return TokenStreamStream(attempts, begin, await begin(await attempts.first()), requests)
