"""Which hosts the edge answers and where their requests go: virtual hosts and routes, as pure functions. Part of `edge`."""

from collections.abc import Sequence
from typing import Any, TypeAlias
from urllib.parse import urlsplit

__all__ = ["host_names", "plain_hosts", "redirect_hosts", "tls_hosts"]

Json: TypeAlias = dict[str, Any]

_TYPE = "type.googleapis.com/envoy."
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
# The value is never looked at: over HTTP/2 and HTTP/3 there is no key, but uvicorn wants to see one.
_WEBSOCKET_KEY = "AAAAAAAAAAAAAAAAAAAAAA=="
_SAFE_RETRIES = "connect-failure,refused-stream,reset-before-request"


def tls_hosts(origins: Sequence[str], *, grpc: bool) -> list[Json]:
    """Over TLS: loopback's names and the public origins' are served, others misdirected."""
    return _served_hosts(host_names(origins, "https"), [], grpc)


def plain_hosts(origins: Sequence[str], *, grpc: bool) -> list[Json]:
    """In plain, to whoever comes over loopback: its names are served, public origins with TLS redirected to it."""
    names = host_names(origins, "http")
    return _served_hosts(names, _redirects(origins, except_for=names), grpc)


def redirect_hosts(origins: Sequence[str]) -> list[Json]:
    """In plain, to everybody else: nothing is served."""
    return [*_redirects(origins, except_for=[]), _misdirected()]


def host_names(origins: Sequence[str], scheme: str) -> list[str]:
    """The hosts of those origins that have that scheme, in brackets if they are IPv6 addresses."""
    return [_host(origin) for origin in origins if urlsplit(origin).scheme == scheme]


def _served_hosts(names: list[str], others: list[Json], grpc: bool) -> list[Json]:
    domains = list(dict.fromkeys((*_LOOPBACK_NAMES, *names)))
    return [{"name": "served", "domains": domains, "routes": _routes(grpc)}, *others, _misdirected()]


def _redirects(origins: Sequence[str], except_for: list[str]) -> list[Json]:
    """For each public origin with TLS, a host that sends plain requests there (308 keeps method and body)."""
    hosts: list[Json] = []
    taken = {*_LOOPBACK_NAMES, *except_for}
    for origin in origins:
        parts = urlsplit(origin)
        name = _host(origin)
        if parts.scheme != "https" or name in taken:
            continue
        taken.add(name)
        redirect: Json = {"https_redirect": True, "response_code": "PERMANENT_REDIRECT"}
        redirect["port_redirect"] = parts.port or 443
        route = {"match": {"prefix": "/"}, "redirect": redirect}
        hosts.append({"name": f"to-{origin}", "domains": [name], "routes": [route]})
    return hosts


def _misdirected() -> Json:
    """RFC 9110, section 15.5.20: this server is not the one that was asked for."""
    body = {"inline_string": "This server does not answer to that host name.\n"}
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 421, "body": body}}
    return {"name": "misdirected", "domains": ["*"], "routes": [route]}


def _routes(grpc: bool) -> list[Json]:
    routes: list[Json] = []
    if grpc:
        # By content type, because Envoy's own gRPC matcher passes over gRPC-Web.
        content_type = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
        routes.append({"match": {"prefix": "/", "headers": [content_type]}, "route": _action("grpc", _SAFE_RETRIES)})
    upgrade = {"name": "upgrade", "string_match": {"exact": "websocket", "ignore_case": True}}
    key = {"header": {"key": "sec-websocket-key", "value": _WEBSOCKET_KEY}, "append_action": "ADD_IF_ABSENT"}
    routes.append(
        {
            "match": {"prefix": "/", "headers": [upgrade]},
            "route": _action("workers", _SAFE_RETRIES),
            "request_headers_to_add": [key],
        }
    )
    # A request that only reads may be sent again even after a worker has seen it.
    reading = {"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD"}}}
    routes.append(
        {"match": {"prefix": "/", "headers": [reading]}, "route": _action("workers", _SAFE_RETRIES + ",reset")}
    )
    routes.append({"match": {"prefix": "/"}, "route": _action("workers", _SAFE_RETRIES)})
    return routes


def _action(cluster: str, retry_on: str) -> Json:
    previous_hosts = {
        "name": "envoy.retry_host_predicates.previous_hosts",
        "typed_config": {"@type": _TYPE + "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
    }
    return {
        "cluster": cluster,
        "timeout": "0s",
        "retry_policy": {
            "retry_on": retry_on,
            "num_retries": 3,
            "retry_host_predicate": [previous_hosts],
            "host_selection_retry_max_attempts": 20,
        },
    }


def _host(origin: str) -> str:
    name = urlsplit(origin).hostname or ""
    return f"[{name}]" if ":" in name else name
