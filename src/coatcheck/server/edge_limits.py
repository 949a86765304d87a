"""What bounds a client's share of the edge, as Envoy is told it: rates, bodies, memory, connections. Part of `edge`.

Promises that every limit here comes from `settings.Limits`. Leaves limits that belong to a connection's protocol
(headers, streams, windows, time-outs) to `edge`, and what a refused client reads to `edge_replies`.
"""

from typing import Any, TypeAlias

from coatcheck.server.refusals import RETRY_AFTER
from coatcheck.server.settings import Limits

__all__ = ["UNBUFFERED", "body_filter", "overload_manager", "rate_filter"]

Json: TypeAlias = dict[str, Any]

_TYPE = "type.googleapis.com/envoy."
_BUFFER = "envoy.filters.http.buffer"
_MOST_CLIENTS = 20_000
"""Addresses whose requests are counted; of more, those silent longest are forgotten and begin anew."""
_UNLIMITED: Json = {"max_tokens": 0xFFFF_FFFF, "tokens_per_fill": 0xFFFF_FFFF, "fill_interval": "1s"}

UNBUFFERED: Json = {_BUFFER: {"@type": _TYPE + "extensions.filters.http.buffer.v3.BufferPerRoute", "disabled": True}}
"""For routes whose requests have no end: their bodies pass on as they come, and what reads them must bound them."""


def rate_filter(limits: Limits) -> Json:
    """A token bucket for each client's address, an IPv6 address standing for its /64; 429 when it is empty.

    Loopback is spared: whoever comes from there is this machine itself, or a proxy that speaks for everybody.
    """
    bucket: Json = {
        "max_tokens": limits.requests_burst,
        "tokens_per_fill": limits.requests_per_second,
        "fill_interval": "1s",
    }
    descriptors = [
        {"entries": [{"key": "masked_remote_address", "value": network}], "token_bucket": _UNLIMITED}
        for network in ("127.0.0.1/32", "::/64")
    ]
    descriptors.append({"entries": [{"key": "masked_remote_address"}], "token_bucket": bucket})
    always: Json = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}, "runtime_key": "coatcheck.rate"}
    action = {"masked_remote_address": {"v4_prefix_mask_len": 32, "v6_prefix_mask_len": 64}}
    retry_after = {"header": {"key": "retry-after", "value": RETRY_AFTER}}
    return {
        "name": "envoy.filters.http.local_ratelimit",
        "typed_config": {
            "@type": _TYPE + "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "rate",
            "token_bucket": _UNLIMITED,
            "filter_enabled": always,
            "filter_enforced": always,
            "response_headers_to_add": [retry_after],
            "rate_limits": [{"actions": [action]}],
            "descriptors": descriptors,
            "max_dynamic_descriptors": _MOST_CLIENTS,
            "always_consume_default_token_bucket": False,
        },
    }


def body_filter(limits: Limits) -> Json:
    """Holds a request back until all of its body is there, so that a slow client costs no worker; 413 when it is too long."""
    return {
        "name": _BUFFER,
        "typed_config": {
            "@type": _TYPE + "extensions.filters.http.buffer.v3.Buffer",
            "max_request_bytes": limits.request_body_kb * 1024,
        },
    }


def overload_manager(limits: Limits) -> Json:
    """What the edge gives up, and in which order, when its memory fills; and how many connections it takes."""
    heap = "envoy.resource_monitors.fixed_heap"
    connections = "envoy.resource_monitors.global_downstream_max_connections"
    shed = {
        "envoy.overload_actions.shrink_heap": 0.85,
        "envoy.overload_actions.disable_http_keepalive": 0.9,
        "envoy.overload_actions.stop_accepting_connections": 0.95,
        "envoy.overload_actions.stop_accepting_requests": 0.98,
    }
    return {
        # A flood over a fast network adds some hundred MiB a second, and until the next look nothing is shed.
        "refresh_interval": "0.05s",
        "resource_monitors": [
            {
                "name": heap,
                "typed_config": {
                    "@type": _TYPE + "extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": limits.edge_heap_mb * 1024 * 1024,
                },
            },
            {
                "name": connections,
                "typed_config": {
                    "@type": _TYPE
                    + "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": limits.connections,
                },
            },
        ],
        "actions": [
            {"name": name, "triggers": [{"name": heap, "threshold": {"value": value}}]} for name, value in shed.items()
        ],
    }
