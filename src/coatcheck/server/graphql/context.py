"""What resolvers find in `info.context`: the worker's services, the request, and its session."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import strawberry
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from coatcheck.server.services import Services
from coatcheck.session import Session, session_of

__all__ = ["Context", "Info"]


@dataclass(slots=True)
class Context:
    """One HTTP request, or one WebSocket."""

    services: Services
    request: HTTPConnection
    response: Response
    """Whose headers the answer to an HTTP request has as well."""
    connection_params: Any = None
    """The payload of `connection_init`, over a WebSocket."""

    @property
    def session(self) -> Session:
        """The session; over a WebSocket that of its handshake, or the one that `connection_init` has led to."""
        return session_of(self.request)

    @property
    def http_request(self) -> Request:
        """The request of an operation that comes by HTTP alone, as mutations do."""
        assert isinstance(self.request, Request)
        return self.request


Info: TypeAlias = strawberry.Info[Context, None]
