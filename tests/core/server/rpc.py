"""A house's gRPC server on loopback, and clients that say what the edge would say of them."""

import base64
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import httpx

from coatcheck.accounts import ServiceAccounts
from coatcheck.server.revocation_feed import RevocationFeed
from coatcheck.server.rpc import RpcServer
from coatcheck.server.rpc._generated import sessions_pb2 as pb
from tests.core.server.house import COOKIE, PLAIN_COOKIE, House, bearer, token_of

SERVICE = pb.DESCRIPTOR.services_by_name["SessionService"]
AUDIENCE = "https://orders.example.com"
NO_PROXY = (("grpc.enable_http_proxy", 0),)

Metadata = list[tuple[str, str]]


class Client:
    """Calls a house's methods: `client("List", metadata)` gives the call. Messages are those of sessions.proto.

    A conversation that is given a request has that one only. It goes out with the call: where a call is refused while
    it is being written to, grpcio's client now and then forgets the status ("Internal error from Core").
    """

    def __init__(self, channel: grpc.aio.Channel, *, scheme: str = "https") -> None:
        self.channel = channel
        self._edge = [
            ("x-forwarded-proto", scheme),
            ("x-coatcheck-connection", "abc-1"),
            ("x-coatcheck-protocol", "HTTP/2"),
            ("x-coatcheck-client", "192.0.2.7:50000"),
        ]

    def __call__(self, method: str, metadata: Metadata = (), request: Any = None, **options: Any) -> Any:  # type: ignore[assignment]
        found = SERVICE.methods_by_name[method]
        takes, gives = getattr(pb, found.input_type.name), getattr(pb, found.output_type.name)
        kind = {"Watch": "unary_stream", "Converse": "stream_stream"}.get(method, "unary_unary")
        if kind == "stream_stream" and request is not None:
            kind = "unary_stream"
        name = f"/{SERVICE.full_name}/{method}"
        call = getattr(self.channel, kind)(name, takes.SerializeToString, gives.FromString)
        arguments = [] if kind == "stream_stream" else [takes() if request is None else request]
        return call(*arguments, metadata=[*self._edge, *metadata], timeout=20, **options)


@contextlib.asynccontextmanager
async def serving(house: House, *options: tuple[str, int]) -> AsyncIterator[grpc.aio.Channel]:
    """Serve gRPC, as a worker does behind its edge. `options` are the channel's."""
    feed = RevocationFeed(house.sessions, token_lifetime=house.access.keys.token_lifetime)
    server = RpcServer(house.services, feed)
    house.worker.rpc = server
    house.worker.on_leave.append(feed.leave)
    port = await server.start("127.0.0.1:0")
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[*NO_PROXY, *options]) as channel:
            yield channel
    finally:
        await server.stop(0)


def by_cookie(client: httpx.AsyncClient, *, plain: bool = False) -> Metadata:
    """What a logged-in browser would send."""
    return [("cookie", f"{PLAIN_COOKIE if plain else COOKIE}={token_of(client)}")]


def by_token(token: str) -> Metadata:
    return [*bearer(token).items()]


async def by_service(house: House, *audiences: str) -> Metadata:
    """What a service sends that was just added."""
    service, secret = await ServiceAccounts(house.accounts).add("orders", list(audiences or (AUDIENCE,)))
    return [("authorization", "Basic " + base64.b64encode(f"{service.id}:{secret}".encode()).decode())]


async def code(call: Any) -> grpc.StatusCode:
    """Give what a call ends with; a stream's first message will do for OK."""
    if hasattr(call, "read"):
        try:
            if await call.read() is not grpc.aio.EOF:
                call.cancel()
                return grpc.StatusCode.OK
        except grpc.aio.AioRpcError as error:
            return error.code()
    found: grpc.StatusCode = await call.code()
    return found
