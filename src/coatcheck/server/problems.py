"""Every refusal as a problem document (RFC 9457), with the headers that belong to it. Leaves what is refused to the routes.

Promises that no answer repeats what a request carried: of an input that does not fit, only the field and the reason.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, cast

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from coatcheck.accounts import (
    AccountRefused,
    AccountsUnavailable,
    HashQueueFull,
    LastAdmin,
    NameRefused,
    PasswordRefused,
    Throttled,
    UsernameRefused,
    UsernameTaken,
)
from coatcheck.errors import SessionRefused, StoreUnavailable
from coatcheck.session import session_of

__all__ = [
    "BAD_BEARER",
    "FAILURE",
    "MEDIA_TYPE",
    "InvalidField",
    "Problem",
    "ProblemError",
    "documented",
    "install",
    "problem_of",
    "problem_response",
]

MEDIA_TYPE = "application/problem+json"
BAD_BEARER = 'Bearer error="invalid_token"'
"""The challenge where an access token was sent that is not to be believed (RFC 6750, section 3.1)."""
FAILURE = "The server failed to answer this request. What happened is in its log."
"""All that a client is told of an error that nobody expected."""

Handler = Callable[[Request, Exception], Awaitable[Response]]

_FIELD_NAME = re.compile(r"[A-Za-z_]{1,40}")
_MOST_FIELDS = 20
_FIELDS: Mapping[type[AccountRefused], str] = {
    UsernameRefused: "username",
    UsernameTaken: "username",
    NameRefused: "name",
    PasswordRefused: "password",
}


class InvalidField(BaseModel):
    """One field of the request that does not fit."""

    field: str = Field(description="The field's name, or `body` for the whole.", examples=["password"])
    detail: str = Field(examples=["Field required"])


class Problem(BaseModel):
    """What went wrong, as RFC 9457 writes it. Its type is `about:blank`: the status says which kind it is."""

    title: str = Field(description="The status in words.", examples=["Unauthorized"])
    status: int = Field(examples=[401])
    detail: str | None = Field(default=None, description="A sentence that can be shown to a person.")
    error: str | None = Field(
        default=None, description="Of tokens: the code of RFC 6749, section 5.2.", examples=["invalid_grant"]
    )
    errors: list[InvalidField] | None = Field(default=None, description="With 422: which fields do not fit.")


class ProblemError(Exception):
    """Raised by a route to answer with a problem; `detail` is a sentence that may be shown to anybody.

    `error` is a code for programs, where an RFC has one.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        error: str | None = None,
        errors: Sequence[InvalidField] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers: Mapping[str, str] = headers or {}
        self.error = error
        self.errors = errors


def problem_response(
    status: int,
    detail: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    error: str | None = None,
    errors: Sequence[InvalidField] = (),
) -> Response:
    """Give the answer. A 401 without a challenge of its own gets `Bearer` (RFC 6750, section 3)."""
    problem = Problem(title=_title(status), status=status, detail=detail, error=error, errors=list(errors) or None)
    answer = JSONResponse(problem.model_dump(exclude_none=True), status, headers=headers, media_type=MEDIA_TYPE)
    if status == 401:
        answer.headers.setdefault("www-authenticate", "Bearer")
    return answer


def problem_of(error: BaseException, *, by_bearer: bool) -> ProblemError | None:
    """Give what a client is told of an error that was raised on purpose; None for one that nobody expected.

    `by_bearer`: an access token brought the request.
    """
    match error:
        case ProblemError():
            return error
        case AccountRefused():
            status = 409 if isinstance(error, UsernameTaken) else 422
            invalid = InvalidField(field=_FIELDS.get(type(error), "body"), detail=str(error))
            return ProblemError(status, str(error), errors=[invalid])
        case SessionRefused():
            challenge = {"www-authenticate": BAD_BEARER if by_bearer else "Bearer"}
            return ProblemError(401, f"{str(error)[:1].upper()}{str(error)[1:]}.", headers=challenge)
        case LastAdmin():
            return ProblemError(409, str(error))
        case Throttled():
            return ProblemError(429, str(error), headers={"retry-after": str(error.retry_after)})
        case StoreUnavailable() | AccountsUnavailable() | HashQueueFull():
            return ProblemError(503, _UNAVAILABLE[type(error)], headers={"retry-after": str(error.retry_after)})
        case _:
            return None


def install(app: FastAPI, routers: Sequence[APIRouter] = ()) -> None:
    """Have every error of the application and of the framework answered as a problem.

    Of `routers` a 405 names every method that an address knows, where the framework names those of one route of it.
    """
    app.state.routes_of_routers = [
        route for router in routers for route in router.routes if isinstance(route, Route) and route.methods
    ]
    handlers: dict[type[Exception], Handler] = {
        HTTPException: _http_exception,
        RequestValidationError: _validation,
        Exception: _failure,
        **dict.fromkeys(_RAISED, _problem),
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: these statuses are answered with a problem."""
    return {status: {"model": Problem, "description": _title(status)} for status in statuses}


def _title(status: int) -> str:
    # Python 3.13 took over RFC 9110's names for these two.
    return {413: "Content Too Large", 422: "Unprocessable Content"}.get(status) or HTTPStatus(status).phrase


_RAISED: tuple[type[Exception], ...] = (
    ProblemError,
    AccountRefused,
    SessionRefused,
    StoreUnavailable,
    AccountsUnavailable,
    HashQueueFull,
    LastAdmin,
    Throttled,
)
"""What `problem_of` has words for."""
_UNAVAILABLE: Mapping[type[Exception], str] = {
    StoreUnavailable: "The sessions cannot be asked right now. Nothing is lost; try again.",
    AccountsUnavailable: "The accounts cannot be asked right now. Nothing is lost; try again.",
    HashQueueFull: "Too many passwords are being checked at the moment; try again in a second.",
}


async def _problem(request: Request, error: Exception) -> Response:
    problem = problem_of(error, by_bearer=isinstance(error, SessionRefused) and session_of(request).by_bearer)
    assert problem is not None
    return problem_response(
        problem.status, problem.detail, headers=problem.headers, error=problem.error, errors=problem.errors
    )


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # What a route or dependency has to say is better than what the framework says.
    own = error.detail not in (HTTPStatus(error.status_code).phrase, _UNREADABLE)
    detail = error.detail if own else _DETAILS.get(error.status_code)
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == 405 and (methods := _methods_at(request)):
        headers["allow"] = ", ".join(sorted(methods))  # RFC 9110, section 15.5.6
    return problem_response(error.status_code, detail, headers=headers)


def _methods_at(request: Request) -> set[str]:
    routes = cast("Sequence[Route]", request.app.state.routes_of_routers)
    path = request.scope["path"]
    return {method for route in routes if route.path_regex.match(path) for method in route.methods or ()}


_UNREADABLE = "There was an error parsing the body"
_DETAILS = {
    400: "The body cannot be read as JSON.",
    401: "Nobody is logged in.",
    404: "There is nothing at this address.",
    405: "This address does not know that method; Allow names those it knows.",
}


async def _validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Each error also has `input` and `ctx`: what the client sent, passwords included. They stay here.
    found = cast("Sequence[Mapping[str, Any]]", error.errors())[:_MOST_FIELDS]
    errors = [InvalidField(field=_field(item["loc"]), detail=_reason(item)) for item in found]
    return problem_response(422, "The request does not have the form that is expected here.", errors=errors)


def _field(location: Sequence[object]) -> str:
    # A name that we do not know may be anything, a password among it: it is shown only if it looks like a name.
    last = location[-1] if len(location) > 1 else "body"
    return last if isinstance(last, str) and _FIELD_NAME.fullmatch(last) else "body"


def _reason(item: Mapping[str, Any]) -> str:
    kind = str(item["type"])
    return {
        "json_invalid": "This is not JSON.",
        "model_attributes_type": "Send a JSON object, with Content-Type: application/json.",
        "extra_forbidden": "There is no such field here.",
        "missing": "This field is required.",
        "string_unicode": "This is not Unicode text.",
    }.get(kind, str(item["msg"]))


async def _failure(_: Request, error: Exception) -> Response:
    return problem_response(500, FAILURE)
