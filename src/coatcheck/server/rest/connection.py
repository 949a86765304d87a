"""What is known of the connection that brought a request; nobody needs to be logged in to ask."""

from fastapi import APIRouter
from starlette.requests import Request

from coatcheck.server.connection_facts import connection_of
from coatcheck.server.rest.models import ConnectionView, TLSView

__all__ = ["router"]

router: APIRouter = APIRouter(tags=["connection"])


@router.get("/v1/connection")
async def show_connection(request: Request) -> ConnectionView:
    """Protocol, TLS, age, and how many requests this connection has brought."""
    facts = connection_of(request.scope)
    tls = None
    if facts.tls_version is not None:
        tls = TLSView(version=facts.tls_version, cipher=facts.tls_cipher, server_name=facts.server_name)
    return ConnectionView(
        protocol=facts.protocol,
        connection_id=facts.connection_id,
        requests=facts.requests(),
        scheme="https" if facts.scheme == "https" else "http",
        tls=tls,
        age_ms=facts.age_ms,
        client_address=facts.client_host,
        client_port=facts.client_port,
        worker=facts.worker_id,
    )
