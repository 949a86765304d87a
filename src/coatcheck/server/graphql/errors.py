"""What a client is told of an error: a sentence, and `code` and `status` as REST would have answered. The rest stays in the log.

Promises that no message repeats what the request carried but for names, and that nothing unexpected is told at all.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from graphql import GraphQLError, GraphQLSyntaxError
from strawberry.schema.exceptions import CannotGetOperationTypeError

from coatcheck.server.graphql.limits import NO_OPERATION
from coatcheck.server.problems import FAILURE, ProblemError, problem_of

__all__ = ["CODES", "document_of", "tell"]

_log = logging.getLogger("coatcheck.server")

CODES: Mapping[int, str] = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    406: "NOT_ACCEPTABLE",
    409: "CONFLICT",
    415: "UNSUPPORTED_MEDIA_TYPE",
    422: "BAD_USER_INPUT",
    429: "TOO_MANY_REQUESTS",
    500: "INTERNAL_SERVER_ERROR",
    503: "SERVICE_UNAVAILABLE",
}
_STATUSES = {code: status for status, code in CODES.items()}
_UNREADABLE = "GRAPHQL_PARSE_FAILED"
_INVALID = "GRAPHQL_VALIDATION_FAILED"
_MOST_MESSAGE = 200
# Where graphql-core's messages repeat what stands in the document or was sent in a variable, and what is left of them.
_VALUES = (
    (re.compile(r"(cannot represent [\w -]*?value): .*", re.DOTALL), r"\1"),
    (re.compile(r"Value .* does not exist in", re.DOTALL), "This value does not exist in"),
    (re.compile(r"(, but encountered error |[,;.]? [Ff]ound:? ).*", re.DOTALL), ""),
)
_TOKENS = (
    (re.compile(r"(, found |, did you mean |: ).*", re.DOTALL), ""),
    (re.compile(r"\b(String|BlockString|Int|Float|Name|Comment) '.*", re.DOTALL), r"\1"),
)


def tell(error: GraphQLError, *, by_bearer: bool = False, suggestions: bool = True) -> None:
    """Put an error into the words that a client is to see, in place. One that nobody expected is logged.

    `by_bearer`: an access token brought the request. `suggestions`: it may be told what somebody may have meant.
    """
    if not suggestions:
        error.message = error.message.partition(" Did you mean ")[0]
    cause = error.original_error
    if isinstance(cause, GraphQLError) and cause.extensions and "code" in cause.extensions:
        _set(error, error.message, cause.extensions)  # a permission's own
    elif isinstance(error, GraphQLSyntaxError):
        _set(error, _syntax(error.message), {"code": _UNREADABLE, "status": 400})
    elif isinstance(cause, CannotGetOperationTypeError):
        _set(error, NO_OPERATION, {"code": _INVALID, "status": 400})
    elif (cause is None or isinstance(cause, GraphQLError)) and _is_the_clients(error):
        _set(error, _without(_VALUES, error.message), {"code": _INVALID, "status": 400, **(error.extensions or {})})
    else:
        problem = None if cause is None else problem_of(cause, by_bearer=by_bearer)
        if problem is None:
            # Not the error itself: it shows the document around it, in which there may be a password.
            _log.error("a GraphQL field failed: %s", str(error.path)[:_MOST_MESSAGE], exc_info=cause)
            problem = ProblemError(500, FAILURE)
        _set(error, problem.detail, _extensions(problem))


def _is_the_clients(error: GraphQLError) -> bool:
    """Tell whether graphql-core found fault with the document or its variables, and not with what a field has given."""
    return error.path is None or error.message.startswith("Argument ")


def document_of(problem: ProblemError) -> dict[str, Any]:
    """Give the answer to a request that never was executed."""
    return {"errors": [{"message": problem.detail, "extensions": _extensions(problem)}]}


def _extensions(problem: ProblemError) -> dict[str, Any]:
    code = CODES.get(problem.status) or HTTPStatus(problem.status).name
    found: dict[str, Any] = {"code": code, "status": problem.status}
    if "retry-after" in problem.headers:
        found["retryAfter"] = int(problem.headers["retry-after"])
    if problem.errors:
        found["errors"] = [invalid.model_dump() for invalid in problem.errors]
    return found


def _set(error: GraphQLError, message: str, extensions: Mapping[str, Any]) -> None:
    error.message = message[:_MOST_MESSAGE]
    status = _STATUSES.get(str(extensions.get("code")))
    error.extensions = dict(extensions) if status is None else {"status": status, **extensions}


def _syntax(message: str) -> str:
    """Say what was expected; what was found instead may be anything."""
    return f"Syntax error: {_without(_TOKENS, message.removeprefix('Syntax Error: '))}"


def _without(parts: Sequence[tuple[re.Pattern[str], str]], message: str) -> str:
    for pattern, rest in parts:
        message = pattern.sub(rest, message)
    return f"{message.rstrip('. ')}."
