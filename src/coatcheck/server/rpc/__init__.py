"""The gRPC API, `coatcheck.v1.SessionService`, with health checks and reflection. Leaves when it is served to `worker`."""

from coatcheck.server.rpc.serving import RpcServer

__all__ = ["RpcServer"]
