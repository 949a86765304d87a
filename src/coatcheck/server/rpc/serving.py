"""One worker's gRPC server: from its socket to its end. Leaves methods to `session_service`, and when it ends to `worker`.

Health checks are gRPC's own (grpc.health.v1), and so is reflection.
"""

from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from coatcheck.server.revocation_feed import RevocationFeed
from coatcheck.server.rpc.admission import RpcInterceptor
from coatcheck.server.rpc.session_service import SERVICE, session_service
from coatcheck.server.services import Services

__all__ = ["RpcServer"]

# These packages come without types.
_health: Any = health
_health_grpc: Any = health_pb2_grpc


class RpcServer:
    """Made with the application; `start` needs the event loop."""

    def __init__(self, services: Services, feed: RevocationFeed) -> None:
        self._services = services
        self._feed = feed
        self._interceptor = RpcInterceptor(services)
        self._health = _health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    async def start(self, address: str) -> int:
        """Serve on an address of grpc's, as `unix:/…`; give the port, where it has one. Raises RuntimeError where it cannot be had."""
        settings = self._services.settings
        limits = settings.limits
        server = grpc.aio.server(
            interceptors=[self._interceptor],
            options=(
                ("grpc.max_receive_message_length", limits.request_body_kb * 1024),
                # What the edge lets through, and not refused at random between the two.
                ("grpc.max_metadata_size", (limits.request_headers_kb + 4) * 1024),
                ("grpc.absolute_max_metadata_size", (limits.request_headers_kb + 8) * 1024),
            ),
        )
        server.add_generic_rpc_handlers([session_service(self._services, self._feed)])
        _health_grpc.add_HealthServicer_to_server(self._health, server)
        for name in ("", SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        if settings.shows_reflection():
            reflection.enable_server_reflection([SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
        port = server.add_insecure_port(address)
        await server.start()
        self._server = server
        return port

    def leave(self) -> None:
        """End every stream with UNAVAILABLE, and each that is opened from now on."""
        self._interceptor.leave()

    async def stop(self, grace: float) -> None:
        """Take no more calls; those under way have so many seconds."""
        server, self._server = self._server, None
        if server is not None:
            self.leave()
            await self._health.enter_graceful_shutdown()
            await server.stop(grace)
