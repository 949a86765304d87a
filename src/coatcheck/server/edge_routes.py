"""Which hosts the edge answers and where their requests go: virtual hosts and routes, as pure functions. Part of `edge`.

Behind trusted proxies a request is taken for a secure one when the nearest of them says that it came to it over TLS, and
as many addresses stand in X-Forwarded-For as there are proxies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from coatcheck.server.connection_facts import FORWARDED_PROTO
from coatcheck.server.edge_limits import UNBUFFERED
from coatcheck.server.security_headers import strict_transport_security

__all__ = ["LOOPBACK_NAMES", "Hosts", "host_names", "plain_hosts", "redirect_hosts", "tls_hosts"]

Json: TypeAlias = dict[str, Any]

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")

_TYPE = "type.googleapis.com/envoy."
# The value is never looked at: over HTTP/2 and HTTP/3 there is no key, but uvicorn wants to see one.
_WEBSOCKET_KEY = "AAAAAAAAAAAAAAAAAAAAAA=="
_SAFE_RETRIES = "connect-failure,refused-stream,reset-before-request"
_HEALTH = "/readyz"
# As strict as telling an address from anything else needs; reading it is Envoy's.
_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}(\.{_OCTET}){{3}}"
_IPV6 = r"[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """What decides about hosts and routes."""

    origins: Sequence[str] = ()
    grpc: bool = False
    trusted_proxies: int = 0
    hsts: int | None = None
    """Strict-Transport-Security of public hosts over TLS, in seconds; None: not sent."""


def tls_hosts(hosts: Hosts) -> list[Json]:
    """Over TLS: loopback's names and the public origins' are served, others misdirected."""
    public = [name for name in host_names(hosts.origins, "https") if name not in LOOPBACK_NAMES]
    found = [_virtual("loopback", LOOPBACK_NAMES, _routes(hosts.grpc))]
    if public:
        found.append(_virtual("public", public, _routes(hosts.grpc, hsts=hosts.hsts)))
    return [*found, _misdirected(hosts)]


def plain_hosts(hosts: Hosts) -> list[Json]:
    """In plain, to whoever comes over loopback: its names are served, public origins with TLS redirected to it."""
    names = [name for name in host_names(hosts.origins, "http") if name not in LOOPBACK_NAMES]
    routes = [*_proxied(hosts, public=False), *_routes(hosts.grpc)]
    served = _virtual("loopback", (*LOOPBACK_NAMES, *names), routes)
    return [served, *_redirects(hosts, except_for=(*LOOPBACK_NAMES, *names)), _misdirected(hosts)]


def redirect_hosts(hosts: Hosts) -> list[Json]:
    """In plain, to everybody else: nothing is served, unless a trusted proxy took it over TLS."""
    return [*_redirects(hosts, except_for=LOOPBACK_NAMES), _misdirected(hosts)]


def host_names(origins: Sequence[str], scheme: str) -> list[str]:
    """The hosts of those origins that have that scheme, in brackets if they are IPv6 addresses."""
    return list(dict.fromkeys(_host(origin) for origin in origins if urlsplit(origin).scheme == scheme))


def _redirects(hosts: Hosts, except_for: Sequence[str]) -> list[Json]:
    """For each public origin with TLS, a host that sends plain requests there (308 keeps method and body)."""
    found: list[Json] = []
    taken = set(except_for)
    for origin in hosts.origins:
        parts = urlsplit(origin)
        name = _host(origin)
        if parts.scheme != "https" or name in taken:
            continue
        taken.add(name)
        redirect: Json = {"https_redirect": True, "response_code": "PERMANENT_REDIRECT"}
        redirect["port_redirect"] = parts.port or 443
        route: Json = {"match": {"prefix": "/"}, "redirect": redirect}
        found.append(_virtual(f"to-{origin}", [name], [*_proxied(hosts, public=True), route]))
    return found


def _misdirected(hosts: Hosts) -> Json:
    """RFC 9110, section 15.5.20: this server is not the one that was asked for."""
    routes: list[Json] = [{"match": {"prefix": "/"}, "direct_response": {"status": 421}}]
    if hosts.trusted_proxies:
        # A load balancer asks each server whether it is well, by address, for it has no name to ask for.
        routes.insert(0, {"match": {"path": _HEALTH}, "route": _action("workers", _SAFE_RETRIES)})
    return _virtual("misdirected", ["*"], routes)


def _proxied(hosts: Hosts, *, public: bool) -> list[Json]:
    """Routes for what came to a trusted proxy over TLS, though to us in plain."""
    if not hosts.trusted_proxies:
        return []
    enough = rf"(.*,)?\s*({_IPV4}|{_IPV6})\s*(,[^,]*){{{hosts.trusted_proxies - 1}}}"
    only = [
        {"name": FORWARDED_PROTO, "string_match": {"exact": "https"}},
        {"name": "x-forwarded-for", "string_match": {"safe_regex": {"regex": enough}}},
    ]
    secure = {
        "header": {"key": FORWARDED_PROTO, "value": "https"},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }
    routes = _routes(hosts.grpc, hsts=hosts.hsts if public else None)
    for route in routes:
        route["match"]["headers"] = [*route["match"].get("headers", []), *only]
        # After all filters, which have removed whatever was said before.
        route["request_headers_to_add"] = [*route.get("request_headers_to_add", []), secure]
    return routes


def _routes(grpc: bool, *, hsts: int | None = None) -> list[Json]:
    routes: list[Json] = [
        {
            "match": {"connect_matcher": {}},
            "direct_response": {"status": 405},
            # There is no end of a body to wait for.
            "typed_per_filter_config": UNBUFFERED,
        }
    ]
    if grpc:
        # By content type, because Envoy's own gRPC matcher passes over gRPC-Web.
        content_type = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
        routes.append(
            {
                "match": {"prefix": "/", "headers": [content_type]},
                "route": _action("grpc", _SAFE_RETRIES),
                "typed_per_filter_config": UNBUFFERED,
            }
        )
    upgrade = [
        {"name": "upgrade", "string_match": {"exact": "websocket", "ignore_case": True}},
        # Both, as Envoy itself asks before it upgrades: who only says `upgrade` must not evade the bound on bodies.
        {"name": "connection", "string_match": {"contains": "upgrade", "ignore_case": True}},
    ]
    key = {"header": {"key": "sec-websocket-key", "value": _WEBSOCKET_KEY}, "append_action": "ADD_IF_ABSENT"}
    routes.append(
        {
            "match": {"prefix": "/", "headers": upgrade},
            "route": _action("workers", _SAFE_RETRIES),
            "request_headers_to_add": [key],
            "typed_per_filter_config": UNBUFFERED,
        }
    )
    # A request that only reads may be sent again even after a worker has seen it.
    reading = {"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD"}}}
    routes.append(
        {"match": {"prefix": "/", "headers": [reading]}, "route": _action("workers", _SAFE_RETRIES + ",reset")}
    )
    routes.append({"match": {"prefix": "/"}, "route": _action("workers", _SAFE_RETRIES)})
    if hsts is not None:
        name, value = strict_transport_security(hsts)
        for route in routes:
            header = {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            route["response_headers_to_add"] = [header]
    return routes


def _virtual(name: str, domains: Sequence[str], routes: list[Json]) -> Json:
    return {"name": name, "domains": list(domains), "routes": routes}


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
