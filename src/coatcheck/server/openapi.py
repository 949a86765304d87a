"""The OpenAPI document as it is served, and `/docs`: a plain page that lists the routes. No external resource."""

import base64
import functools
import hashlib
import json
from collections.abc import Mapping
from html import escape
from typing import Any, cast

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from coatcheck.integrations.fastapi import describe_sessions
from coatcheck.server.problems import MEDIA_TYPE
from coatcheck.server.rest import verify

__all__ = ["install"]

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "code{font:15px ui-monospace,monospace}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;vertical-align:top;padding:.5rem .75rem .5rem 0;border-top:1px solid #8884}"
    "td:first-child{white-space:nowrap}p{margin:0 0 .25rem}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode("ascii")
_PROBLEM: Mapping[str, Any] = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def install(app: FastAPI, *, docs: bool) -> None:
    """Serve `/openapi.json`, and `/docs` where it is wanted. Call it after all other routes are in."""
    describe_sessions(app, bearer=True)

    @functools.cache
    def documents() -> tuple[bytes, bytes]:
        # When first asked for: it takes 0.1 s, which no worker's start should wait for.
        document = _complete(app.openapi())
        return json.dumps(document, ensure_ascii=False).encode(), _page(document).encode()

    async def openapi(request: Request) -> Response:
        return Response(documents()[0], media_type="application/json")

    async def listing(request: Request) -> Response:
        headers = {"content-security-policy": _POLICY}
        return Response(documents()[1], media_type="text/html; charset=utf-8", headers=headers)

    app.add_route("/openapi.json", openapi, include_in_schema=False)
    if docs:
        app.add_route("/docs", listing, include_in_schema=False)


def _complete(document: dict[str, Any]) -> dict[str, Any]:
    """Problems under their own media type, and the route that FastAPI does not know of."""
    paths = cast("dict[str, dict[str, Any]]", document["paths"])
    schemas = cast("dict[str, Any]", document["components"]["schemas"])
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for operations in paths.values():
        for operation in operations.values():
            responses = cast("dict[str, dict[str, Any]]", operation["responses"])
            # FastAPI's own words for what no text in a path can cause here; what a body can cause says Problem.
            if "HTTPValidationError" in json.dumps(responses.get("422", {})):
                del responses["422"]
            # Whatever is asked for, the edge looks at the request first.
            responses.setdefault("400", {"description": "The request is not as HTTP wants it", "content": _PROBLEM})
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path" and parameter["name"].endswith("_id"):
                    parameter["schema"] |= {"pattern": "^[A-Za-z0-9_-]+$", "maxLength": 64}
            for status, response in responses.items():
                if status >= "400" and "application/json" in response.get("content", {}):
                    response["content"] = {MEDIA_TYPE: response["content"]["application/json"]}
    paths[verify.PATH] = verify.OPENAPI
    # No token is given for a token.
    paths["/v1/token"]["post"]["security"] = [{"session": []}]
    return document


def _page(document: Mapping[str, Any]) -> str:
    info = document["info"]
    rows = [
        f"<tr><td><code>{escape(method.upper())} {escape(path)}</code><td>{_description(operation)}"
        f"<td>{_needs(operation)}<td>{escape(', '.join(operation['responses']))}"
        for path, operations in cast("dict[str, dict[str, Any]]", document["paths"]).items()
        for method, operation in operations.items()
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style>'
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])}</p>"
        '<p>The exact types are in <a href="/openapi.json">/openapi.json</a>.</p>'
        f"<table><tr><th>Route<th>What it does<th>Needs<th>Answers{''.join(rows)}</table>"
    )


def _needs(operation: Mapping[str, Any]) -> str:
    """Which credential: the names of the schemes, but for the session, which people know as a login."""
    names = [name for demand in operation.get("security", ()) for name in demand]
    return escape(" or ".join("login" if name == "session" else name for name in names))


def _description(operation: Mapping[str, Any]) -> str:
    text = str(operation.get("description") or operation.get("summary", ""))
    return "".join(f"<p>{escape(part)}</p>" for part in text.split("\n\n"))
