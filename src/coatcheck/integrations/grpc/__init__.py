"""gRPC: sessions for grpc.aio servers, and access tokens for its clients.

server = grpc.aio.server(interceptors=[SessionInterceptor(sessions)])
"""

from importlib import import_module

from coatcheck.errors import MissingDependency

try:
    import_module("grpc.aio")
except ImportError as _error:
    raise MissingDependency("grpcio", "grpc", "coatcheck.integrations.grpc") from _error

from coatcheck.integrations.grpc._client import token_channel
from coatcheck.integrations.grpc._interceptor import SessionInterceptor
from coatcheck.integrations.grpc._logins import require_fresh, require_login

__all__ = ["SessionInterceptor", "require_fresh", "require_login", "token_channel"]
