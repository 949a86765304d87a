"""Serves the page's files from memory: the document revalidated at each visit, the rest kept for good under its digest.

All assets stand under one path that names the digest of them together, so that ES modules find each other by relative
paths and a new release is new everywhere at once. Leaves what the page does to the files in `static`, and the headers
that every answer carries to `envelope`.
"""

import base64
import gzip
import hashlib
import importlib.resources

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from coatcheck.server.ui.credentials import show_credentials
from coatcheck.server.ui.plain import plain_routes

__all__ = ["CONTENT_SECURITY_POLICY", "page_routes"]

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Content Security Policy Level 3: the page's own scripts, styles and requests, and nothing else."""

_REVALIDATE = "no-cache"
_FOR_GOOD = "public, max-age=31536000, immutable"  # RFC 8246
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_DOCUMENT = "index.html"
_ANY_DIGEST = b"/assets/"


class _File(msgspec.Struct, frozen=True):
    body: bytes
    media_type: str
    gzipped: bytes
    etag: str
    """Strong (RFC 9110, section 8.8.3): the same bytes, the same tag, on every worker and every start. Of what is not
    compressed; the other's ends in `-gz`."""


def page_routes() -> list[BaseRoute]:
    """The routes `/` and `/assets/…`, whose answers depend on no session, and those under `/page`, whose answers do."""
    assets = _read()
    digest = _digest("".join(name + assets[name].etag for name in sorted(assets)).encode())[:12]
    document = assets.pop(_DOCUMENT)
    home = _file(_DOCUMENT, document.body.replace(_ANY_DIGEST, _ANY_DIGEST + digest.encode() + b"/"))

    # Coroutines, since Starlette sends plain functions to a thread.
    async def page(request: Request) -> Response:
        return _answer(request, home, _REVALIDATE)

    async def asset(request: Request) -> Response:
        file = assets.get(request.path_params["name"])
        if file is None:
            raise HTTPException(404)
        # While a release is rolled out, another's document may ask here: it gets what there is, and keeps it not.
        current = request.path_params["digest"] == digest
        return _answer(request, file, _FOR_GOOD if current else _REVALIDATE)

    return [
        Route("/", page, name="page", include_in_schema=False),
        Route("/assets/{digest}/{name}", asset, name="asset", include_in_schema=False),
        Route("/page/credentials", show_credentials, name="credentials", include_in_schema=False),
        *plain_routes(CONTENT_SECURITY_POLICY, f"/assets/{digest}"),
    ]


def _read() -> dict[str, _File]:
    static = importlib.resources.files("coatcheck.server.ui").joinpath("static")
    return {
        entry.name: _file(entry.name, entry.read_bytes())
        for entry in static.iterdir()
        if entry.name.rpartition(".")[2] in _TYPES
    }


def _file(name: str, body: bytes) -> _File:
    kind = _TYPES[name.rpartition(".")[2]]
    zipped = gzip.compress(body, 9, mtime=0)
    return _File(body, f"{kind}; charset=utf-8", zipped, f'"{_digest(body)[:22]}"')


def _digest(body: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(body).digest()).decode().rstrip("=")


def _answer(request: Request, file: _File, cache_control: str) -> Response:
    # Nothing secret is in these files, so that their length may be anything.
    coding = ",".join(request.headers.getlist("accept-encoding")).lower().replace(" ", "").split(",")
    zipped = "gzip" in coding
    etag = f'{file.etag[:-1]}-gz"' if zipped else file.etag
    headers = {"content-security-policy": CONTENT_SECURITY_POLICY, "etag": etag, "cache-control": cache_control}
    headers["vary"] = "accept-encoding"
    asked = request.headers.getlist("if-none-match")
    # RFC 9110, section 13.1.2: compared weakly, and `*` means anything that is there.
    tags = {tag.strip().removeprefix("W/") for line in asked for tag in line.split(",")}
    if etag in tags or "*" in tags:
        return Response(status_code=304, headers=headers)
    if zipped:
        headers["content-encoding"] = "gzip"
    return Response(file.gzipped if zipped else file.body, headers=headers, media_type=file.media_type)
