"""From an HTTP request to a GraphQL request, and which media type the answer has (GraphQL over HTTP). Pure.

Raises ProblemError for what is malformed; leaves the document in it to the schema.
"""

from typing import Any, NamedTuple, cast
from urllib.parse import parse_qsl

import msgspec

from coatcheck.server.problems import ProblemError

__all__ = ["EVENT_STREAM", "GRAPHQL", "JSON", "Accepted", "GraphQLRequest", "accepted", "of_body", "of_query_string"]

GRAPHQL = "application/graphql-response+json"
JSON = "application/json"
EVENT_STREAM = "text/event-stream"

_PARAMETERS = ("query", "variables", "operationName", "extensions")


class GraphQLRequest(NamedTuple):
    """What is to be executed. Extensions are taken and mean nothing here."""

    query: str
    variables: dict[str, Any] | None
    operation_name: str | None


class Accepted(NamedTuple):
    """Which media types the client takes: one for a single result, if any, and whether a stream of them."""

    single: str | None
    stream: bool

    @property
    def strict(self) -> bool:
        """Whether the status tells if the request could be executed at all; with the older type it cannot."""
        return self.single == GRAPHQL


def of_body(content_type: str | None, body: bytes) -> GraphQLRequest:
    """Read a POST. 415 for anything but JSON in UTF-8, 400 where it is malformed."""
    kind, parameters = _media_type(content_type or "")
    if kind != JSON or parameters.get("charset", "utf-8") not in ("utf-8", "utf8"):
        raise ProblemError(415, "Send a JSON object in UTF-8, with Content-Type: application/json.")
    try:
        given = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        raise ProblemError(400, "The body cannot be read as JSON.") from None
    if isinstance(given, list):
        raise ProblemError(400, "One request at a time: batches are not taken here.")
    if not isinstance(given, dict):
        raise _malformed("body", "a JSON object")
    return _request(cast("dict[str, Any]", given))


def of_query_string(query_string: bytes) -> GraphQLRequest:
    """Read a GET: the parameters of a POST in the query, variables and extensions as JSON in themselves."""
    given: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise ProblemError(400, "The query of the address cannot be read.") from None
    for name, value in pairs:
        if name not in _PARAMETERS:
            continue
        if name in given:
            raise ProblemError(400, f"There can be only one {name}.")
        given[name] = value
    for name in ("variables", "extensions"):
        if name in given:
            try:
                given[name] = msgspec.json.decode(given[name]) if given[name] else None
            except (ValueError, RecursionError):
                raise _malformed(name, "a JSON object") from None
    return _request({**given, "operationName": given.get("operationName") or None})


def accepted(accept: str | None) -> Accepted:
    """Read an Accept header (RFC 9110, section 12.5.1); without one it is JSON. What is listed first wins among equals."""
    if accept is None:
        return Accepted(JSON, stream=False)
    weights: dict[str, tuple[float, int, int]] = {}
    for number, part in enumerate(accept.split(",")[:50]):
        kind, parameters = _media_type(part)
        weight = _weight(parameters.pop("q", "1"))
        if parameters.get("charset", "utf-8") not in ("utf-8", "utf8"):
            continue
        for offered, precision in _covered(kind):
            known = weights.get(offered)
            if known is None or precision > known[1]:
                weights[offered] = (weight, precision, -number)
    single = max((JSON, GRAPHQL), key=lambda kind: _rank(weights.get(kind)))
    return Accepted(
        single if _rank(weights.get(single))[0] > 0 else None, stream=_rank(weights.get(EVENT_STREAM))[0] > 0
    )


def _rank(weight: tuple[float, int, int] | None) -> tuple[float, int]:
    return (0.0, 0) if weight is None else (weight[0], weight[2])


def _covered(kind: str) -> list[tuple[str, int]]:
    """Which of our media types a range covers, and how precisely."""
    if kind in (JSON, GRAPHQL, EVENT_STREAM):
        return [(kind, 2)]
    # Whoever takes anything means an ordinary answer; a stream must be asked for by name.
    return [(JSON, 1 if kind == "application/*" else 0)] if kind in ("application/*", "*/*") else []


def _weight(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text)))
    except ValueError:
        return 0.0


def _media_type(text: str) -> tuple[str, dict[str, str]]:
    kind, *parts = text.split(";")
    parameters = (part.partition("=") for part in parts)
    return kind.strip().lower(), {
        name.strip().lower(): value.strip().strip('"').lower() for name, _, value in parameters
    }


def _request(given: dict[str, Any]) -> GraphQLRequest:
    query, variables, operation_name = given.get("query"), given.get("variables"), given.get("operationName")
    if not isinstance(query, str) or not query.strip():
        raise _malformed("query", "a GraphQL document")
    if variables is not None and not isinstance(variables, dict):
        raise _malformed("variables", "a JSON object")
    if operation_name is not None and not isinstance(operation_name, str):
        raise _malformed("operationName", "a name")
    if given.get("extensions") is not None and not isinstance(given["extensions"], dict):
        raise _malformed("extensions", "a JSON object")
    return GraphQLRequest(query, cast("dict[str, Any] | None", variables), operation_name)


def _malformed(what: str, expected: str) -> ProblemError:
    return ProblemError(400, f"The {what} must be {expected}.")
