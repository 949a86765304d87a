"""What handlers share: the demand for a service's credential, and that no failure of the server is told to a client.

Who a user is, `coatcheck.integrations.grpc` finds out.
"""

import functools
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import grpc
import grpc.aio

from coatcheck.accounts import AccountsNotStarted, AccountsUnavailable, Service, ServiceAccounts
from coatcheck.errors import SessionRefused, StoreUnavailable
from coatcheck.integrations.grpc.answers import Answer
from coatcheck.server.service_credential import CHALLENGE, WANTED, service_credential
from coatcheck.server.services import Services

__all__ = ["calling_service", "guarded", "has_service_credential", "worker_metadata"]

Handler = Callable[[Any, Any], Awaitable[Any]]

_NOT_A_SERVICE = Answer(grpc.StatusCode.UNAUTHENTICATED, WANTED, (("www-authenticate", CHALLENGE),))
_NO_ACCOUNTS = Answer(
    grpc.StatusCode.UNAVAILABLE,
    "The accounts cannot be asked right now. Nothing is lost; try again.",
    (("grpc-retry-pushback-ms", "1000"),),
)
_log = logging.getLogger("coatcheck.request")


def has_service_credential(context: Any) -> bool:
    """Tell whether a call was made with HTTP Basic, and so wants to be a service's."""
    return any(value[:6].lower() == "basic " for value in _authorizations(context))


def worker_metadata(services: Services) -> tuple[tuple[str, str], ...]:
    """Give what a stream begins with: which worker it came to, where only loopback is listened on, as over HTTP."""
    return (("x-coatcheck-worker", str(services.worker.worker_id)),) if services.settings.is_loopback() else ()


async def calling_service(services: Services, context: Any) -> Service:
    """Give the service that calls. Ends the call with UNAUTHENTICATED where the credential is missing or nobody's."""
    given = service_credential(_authorizations(context))
    service = None if given is None else await ServiceAccounts(services.accounts).authenticate(*given)
    if service is None:
        await _NOT_A_SERVICE.give(context)
    return service


def guarded(handler: Handler) -> Handler:
    """Wrap a handler: one that fails is answered INTERNAL, and what happened is in the log only; every call is logged."""

    @functools.wraps(handler)
    async def wrapped(request: Any, context: Any) -> Any:
        begun = perf_counter()
        status: str | None = None
        try:
            response = await handler(request, context)
            status = grpc.StatusCode.OK.name
            return response
        except (grpc.aio.BaseError, StoreUnavailable, SessionRefused):
            raise
        except (AccountsUnavailable, AccountsNotStarted) as error:
            _log.warning("answered UNAVAILABLE: %s", error)
            await _NO_ACCOUNTS.give(context)
        except Exception:
            _log.exception("failed", extra={"rpc": handler.__name__})
            await context.abort(grpc.StatusCode.INTERNAL, "The server failed to answer this call.")
        finally:
            if _log.isEnabledFor(logging.INFO):
                code = context.code()
                seen = {
                    "rpc": handler.__name__,
                    "status": status if code is None else code.name,
                    "ms": round((perf_counter() - begun) * 1000, 2),
                }
                _log.info("rpc", extra=seen)

    return wrapped


def _authorizations(context: Any) -> list[str]:
    return [str(value) for name, value in context.invocation_metadata() if name == "authorization"]
