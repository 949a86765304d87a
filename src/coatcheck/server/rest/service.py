"""What a service may ask about itself, and the demand for a service's credential that its routes share.

The credential travels by HTTP Basic (RFC 7617; decision record 8) and makes nobody a user: no route that wants a login
looks at it. Leaves whose credential it is to `accounts`.
"""

from typing import Annotated, cast

from fastapi import APIRouter, Depends
from fastapi.openapi.models import HTTPBase
from fastapi.openapi.models import SecurityBase as SecurityScheme
from fastapi.security.base import SecurityBase
from starlette.requests import Request

from coatcheck.accounts import Service, ServiceAccounts
from coatcheck.server.problems import ProblemError, documented
from coatcheck.server.rest.models import ServiceView
from coatcheck.server.service_credential import CHALLENGE, WANTED, service_credential
from coatcheck.server.services import Services

__all__ = ["CallingService", "RequireService", "require_service", "router"]

router: APIRouter = APIRouter(tags=["services"])


class RequireService(SecurityBase):
    """What `require_service` gives: a dependency whose value is the service that asks. OpenAPI shows it as HTTP Basic."""

    def __init__(self) -> None:
        self.scheme_name: str = "service"
        self.model: SecurityScheme = HTTPBase(
            scheme="basic", description="The id and the secret that `coatcheck services add` has shown."
        )

    async def __call__(self, request: Request) -> Service:
        """Give the service; answer 401 with a challenge for Basic where the credential is missing or nobody's."""
        given = service_credential(request.headers.getlist("authorization"))
        if given is not None:
            services = cast("Services", request.app.state.services)
            service = await ServiceAccounts(services.accounts).authenticate(*given)
            if service is not None:
                return service
        raise ProblemError(401, WANTED, headers={"www-authenticate": CHALLENGE})


def require_service() -> RequireService:
    """Demand a service's credential, as `Depends(require_service())`. A user's login does not count here."""
    return RequireService()


CallingService = Annotated[Service, Depends(require_service())]
"""The service whose credential the request carries; 401 without one."""


@router.get("/v1/service", responses=documented(401, 503))
async def show_service(service: CallingService) -> ServiceView:
    """Which service this is: for trying a credential."""
    return ServiceView(id=service.id, name=service.name, audiences=list(service.audiences))
