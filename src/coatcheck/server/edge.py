"""Envoy's configuration as a pure function of what the edge must do; Envoy's own documentation explains every name in it.

Promises: every HTTP version on the same origin, facts about the connection that no client can forge, virtual hosts that
answer to known names only, and bounds on what one client may take. Leaves hosts and routes to `edge_routes`, rates and
bodies to `edge_limits`, what the edge itself answers to `edge_replies`, and running Envoy to `supervisor`.
"""

import ipaddress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from coatcheck.server import connection_facts as facts
from coatcheck.server.edge_limits import body_filter, overload_manager, rate_filter
from coatcheck.server.edge_replies import local_replies
from coatcheck.server.edge_routes import Hosts, host_names, plain_hosts, redirect_hosts, tls_hosts
from coatcheck.server.settings import Limits

__all__ = ["ADDRESS_SECRET", "EDGE_SECRET", "Edge", "edge_config", "secret_config"]

Json: TypeAlias = dict[str, Any]

EDGE_SECRET = "leaf"
"""Served to clients that name the host they want."""
ADDRESS_SECRET = "address"
"""Served to clients that name none, or one that is not in the other's certificate."""
_TYPE = "type.googleapis.com/envoy."
_LOOPBACK_RANGES = (("127.0.0.0", 8), ("::1", 128))
_RUNTIME: Json = {
    # What follows a chunk must be its line end: others in the way may not overlook as generously what is not.
    "envoy.reloadable_features.strict_chunk_parsing": True,
    # The longest expression says what stands in X-Forwarded-For behind sixteen proxies.
    "re2.max_program_size.error_level": 1000,
    "re2.max_program_size.warn_level": 1000,
}
_HSTS = 31_536_000
"""A year, which is what the lists built into browsers ask for at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """What the edge must do, and with which files."""

    boot_id: str
    """Stands before Envoy's connection numbers, which begin again at each start."""
    addresses: tuple[str, ...]
    http_port: int
    https_port: int
    worker_sockets: tuple[str, ...]
    admin_socket: str
    secret_file: str
    """A file with `secret_config`; replacing it atomically makes Envoy take up the new certificate."""
    address_secret_file: str
    """Another, with the certificate for clients that name no host. It may be the same certificate."""
    public_origins: tuple[str, ...] = ()
    grpc_sockets: tuple[str, ...] = ()
    """One for each of `worker_sockets`, in the same order; none: no gRPC."""
    limits: Limits = field(default_factory=Limits)
    trusted_proxies: int = 0
    """How many proxies stand before this server, each of which appends to X-Forwarded-For whom it got the request from."""
    threads: int = 1
    """With how many threads Envoy runs."""
    hsts_max_age: int | None = None
    """Seconds in Strict-Transport-Security for public hosts; None: a year, but nothing where only loopback is listened on."""

    def is_loopback(self) -> bool:
        """Whether nobody beyond this machine gets here, unless through proxies."""
        return all(ipaddress.ip_address(address).is_loopback for address in self.addresses)

    def hosts(self) -> Hosts:
        """What decides about hosts and routes."""
        default = None if self.is_loopback() else _HSTS
        return Hosts(
            origins=self.public_origins,
            grpc=bool(self.grpc_sockets),
            trusted_proxies=self.trusted_proxies,
            hsts=default if self.hsts_max_age is None else self.hsts_max_age,
        )


def edge_config(edge: Edge) -> Json:
    """Envoy's bootstrap configuration, to be written as JSON."""
    listeners = [
        listener
        for number, address in enumerate(edge.addresses)
        for listener in (
            _plain_listener(edge, address, number),
            _tls_listener(edge, address, number),
            _quic_listener(edge, address, number),
        )
    ]
    clusters = [_cluster(edge, "workers", edge.worker_sockets)]
    if edge.grpc_sockets:
        clusters.append(_cluster(edge, "grpc", edge.grpc_sockets))
    return {
        "node": {"id": edge.boot_id, "cluster": "coatcheck"},  # asked for by the file subscription
        "admin": {"address": {"pipe": {"path": edge.admin_socket, "mode": 0o600}}},
        "static_resources": {"listeners": listeners, "clusters": clusters},
        "overload_manager": overload_manager(edge.limits),
        "layered_runtime": {"layers": [{"name": "coatcheck", "static_layer": _RUNTIME}]},
    }


def secret_config(name: str, certificate: str, key: str) -> Json:
    """The file that names certificate and key, read again by Envoy whenever it is replaced. Envoy takes one to a file."""
    return {
        "resources": [
            {
                "@type": _TYPE + "extensions.transport_sockets.tls.v3.Secret",
                "name": name,
                "tls_certificate": {
                    "certificate_chain": {"filename": certificate},
                    "private_key": {"filename": key},
                },
            }
        ]
    }


# -- listeners ---------------------------------------------------------------------------------------------------------


def _plain_listener(edge: Edge, address: str, number: int) -> Json:
    served = _manager(edge, "plain", "http", plain_hosts(edge.hosts()))
    if ipaddress.ip_address(address).is_loopback:
        chains = [{"filters": [served]}]
    else:
        # Who comes over loopback is served; everybody else is sent to TLS.
        ranges = [{"address_prefix": prefix, "prefix_len": length} for prefix, length in _LOOPBACK_RANGES]
        redirected = _manager(edge, "redirect", "http", redirect_hosts(edge.hosts()))
        chains = [
            {"filter_chain_match": {"prefix_ranges": ranges}, "filters": [served]},
            {"filters": [redirected]},
        ]
    return {**_tcp_listener(edge, address, edge.http_port, f"plain-{number}"), "filter_chains": chains}


def _tls_listener(edge: Edge, address: str, number: int) -> Json:
    transport = {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": _TYPE + "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            **_tls_context(edge, ["h2", "http/1.1"]),
        },
    }
    chain = {
        "transport_socket": transport,
        # How long the handshake may take.
        "transport_socket_connect_timeout": _seconds(edge.limits.request_headers_timeout),
        "filters": [_manager(edge, "tls", "https", tls_hosts(edge.hosts()))],
    }
    return {
        **_tcp_listener(edge, address, edge.https_port, f"tls-{number}"),
        "filter_chains": [chain],
        "listener_filters": [
            {
                "name": "envoy.filters.listener.tls_inspector",
                "typed_config": {"@type": _TYPE + "extensions.filters.listener.tls_inspector.v3.TlsInspector"},
            }
        ],
    }


def _quic_listener(edge: Edge, address: str, number: int) -> Json:
    transport = {
        "name": "envoy.transport_sockets.quic",
        "typed_config": {
            "@type": _TYPE + "extensions.transport_sockets.quic.v3.QuicDownstreamTransport",
            "downstream_tls_context": _tls_context(edge, ["h3"]),
            # A request in early data can be replayed by whoever recorded it (RFC 8470).
            "enable_early_data": False,
        },
    }
    filters = [_manager(edge, "quic", "https", tls_hosts(edge.hosts()))]
    return {
        "name": f"quic-{number}",
        "address": _address(address, edge.https_port, "UDP"),
        "enable_reuse_port": _reuse_port(edge),
        "udp_listener_config": {
            "quic_options": {
                "quic_protocol_options": _quic_options(edge.limits),
                "idle_timeout": _seconds(edge.limits.keepalive_timeout),
            },
            "downstream_socket_config": {"prefer_gro": True},
        },
        "filter_chains": [{"transport_socket": transport, "filters": filters}],
    }


def _reuse_port(edge: Edge) -> bool:
    # Each of several threads has a socket of its own on the port. Where there is one, a second server cannot share it
    # unseen, and so take half of the packets; else `check_ports` alone stands before that.
    return edge.threads > 1


def _tcp_listener(edge: Edge, address: str, port: int, name: str) -> Json:
    return {
        "name": name,
        "address": _address(address, port, "TCP"),
        "enable_reuse_port": _reuse_port(edge),
        "per_connection_buffer_limit_bytes": edge.limits.buffer_kb * 1024,
        "tcp_backlog_size": 1024,
        # A client that vanished without a word is found within about two minutes.
        "tcp_keepalive": {"keepalive_probes": 4, "keepalive_time": 60, "keepalive_interval": 15},
        "listener_filters_timeout": _seconds(edge.limits.request_headers_timeout),
    }


def _tls_context(edge: Edge, protocols: list[str]) -> Json:
    # Envoy takes the certificate that has the name in SNI, and the first of all where there is none.
    secrets = ((ADDRESS_SECRET, edge.address_secret_file), (EDGE_SECRET, edge.secret_file))
    return {
        "common_tls_context": {
            "alpn_protocols": protocols,
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificate_sds_secret_configs": [
                {
                    "name": name,
                    "sds_config": {"path_config_source": {"path": path}, "resource_api_version": "V3"},
                }
                for name, path in secrets
            ],
        }
    }


# -- the HTTP connection manager ---------------------------------------------------------------------------------------


def _manager(edge: Edge, name: str, scheme: str, hosts: list[Json]) -> Json:
    limits = edge.limits
    quic = name == "quic"
    filters = [_mutation(edge, scheme)]
    # A sixth of what a request costs here, so it is spared where nobody is counted.
    if limits.requests_per_second and (edge.trusted_proxies or not edge.is_loopback()):
        filters.append(rate_filter(limits))
    filters.append(body_filter(limits))
    if edge.grpc_sockets:
        filters.append(_filter("grpc_web", "extensions.filters.http.grpc_web.v3.GrpcWeb"))
    # Without `suppress_envoy_headers` workers and clients would be told of Envoy's time-outs and retries.
    filters.append(_filter("router", "extensions.filters.http.router.v3.Router", suppress_envoy_headers=True))
    routes: Json = {"name": name, "ignore_port_in_host_matching": True, "virtual_hosts": hosts}
    if scheme == "https":
        alt_svc = f'h3=":{edge.https_port}"; ma=86400'
        routes["response_headers_to_add"] = [_set("alt-svc", alt_svc)]
    config: Json = {
        "@type": _TYPE + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "HTTP3" if quic else "AUTO",
        "use_remote_address": True,
        "xff_num_trusted_hops": edge.trusted_proxies,
        "skip_xff_append": True,
        # Nobody is internal, loopback included: an internal client may steer Envoy by headers.
        "internal_address_config": {"unix_sockets": False},
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        "normalize_path": True,
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "common_http_protocol_options": {
            "idle_timeout": _seconds(limits.keepalive_timeout),
            "headers_with_underscores_action": "REJECT_REQUEST",
            "max_headers_count": limits.request_headers_count,
        },
        "max_request_headers_kb": limits.request_headers_kb,
        "request_headers_timeout": _seconds(limits.request_headers_timeout),
        # Ends with the request's last byte or the response's first, so it spares what is open for hours: WebSockets, event
        # streams, subscriptions. Streams in both directions must begin to answer in time.
        "request_timeout": _seconds(limits.request_timeout),
        "stream_idle_timeout": "0s",
        # For clients who ask and then do not read.
        "stream_flush_timeout": _seconds(limits.request_timeout),
        # Both delay the closing of an idle connection; clients wait for the second after a WebSocket's close.
        "drain_timeout": "0.1s",
        "delayed_close_timeout": "0.05s",
        "http_protocol_options": {
            "accept_http_10": True,
            "default_host_for_http_10": _default_host(edge),
        },
        "http2_protocol_options": {
            "max_concurrent_streams": limits.concurrent_streams,
            "initial_stream_window_size": 64 * 1024,
            "initial_connection_window_size": 1024 * 1024,
            "allow_connect": True,
            "connection_keepalive": {"interval": "30s", "timeout": "10s"},
        },
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": routes,
        "local_reply_config": local_replies(),
        "http_filters": filters,
    }
    if quic:
        config["http3_protocol_options"] = {
            "allow_extended_connect": True,
            "quic_protocol_options": _quic_options(limits),
        }
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": config}


def _mutation(edge: Edge, scheme: str) -> Json:
    """Removes what a client may have said about the connection, then says it. First of all filters.

    Removing comes first because Envoy leaves a client's value standing where its own is empty.
    """
    said = {
        facts.CONNECTION: f"{edge.boot_id}-%CONNECTION_ID%",
        facts.PROTOCOL: "%PROTOCOL%",
        facts.CLIENT: "%DOWNSTREAM_REMOTE_ADDRESS%",
        facts.AGE: "%COMMON_DURATION(DS_CX_BEG:DS_RX_BEG:ms)%",
        facts.FORWARDED_PROTO: scheme,
        "x-forwarded-for": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    }
    if scheme == "https":
        said[facts.TLS_VERSION] = "%DOWNSTREAM_TLS_VERSION%"
        said[facts.TLS_CIPHER] = "%DOWNSTREAM_TLS_CIPHER%"
        said[facts.SERVER_NAME] = "%REQUESTED_SERVER_NAME%"
    mutations: list[Json] = [{"remove": name} for name in facts.TRUSTED_HEADERS]
    mutations += [{"remove_on_match": {"key_matcher": {"prefix": prefix}}} for prefix in ("x-coatcheck-", "x-envoy-")]
    mutations += [{"append": _set(name, value)} for name, value in said.items()]
    return _filter(
        "header_mutation",
        "extensions.filters.http.header_mutation.v3.HeaderMutation",
        mutations={"request_mutations": mutations},
    )


def _quic_options(limits: Limits) -> Json:
    return {
        "max_concurrent_streams": limits.concurrent_streams,
        "initial_stream_window_size": 64 * 1024,
        "initial_connection_window_size": 1024 * 1024,
        "idle_network_timeout": "60s",
        "connection_keepalive": {"initial_interval": "15s", "max_interval": "20s"},
    }


def _default_host(edge: Edge) -> str:
    """For HTTP/1.0 requests, which need not name a host."""
    loopback = any(ipaddress.ip_address(address).is_loopback for address in edge.addresses)
    names = host_names(edge.public_origins, "https")
    return "localhost" if loopback or not names else names[0]


# -- clusters ----------------------------------------------------------------------------------------------------------


def _cluster(edge: Edge, name: str, sockets: tuple[str, ...]) -> Json:
    grpc = name == "grpc"
    endpoints: list[Json] = []
    for socket, http_socket in zip(sockets, edge.worker_sockets, strict=True):
        endpoint: Json = {"address": {"pipe": {"path": socket}}}
        if grpc:
            endpoint["health_check_config"] = {"address": {"pipe": {"path": http_socket}}}
        endpoints.append({"endpoint": endpoint})
    protocol: Json = {"http2_protocol_options": {}} if grpc else {"http_protocol_options": {}}
    options = {
        "@type": _TYPE + "extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": protocol,
        # Shorter than the worker's own, so that no request is sent into a connection just being closed.
        "common_http_protocol_options": {"idle_timeout": "60s"},
    }
    most = edge.limits.connections
    thresholds = {
        # Each WebSocket holds a connection to its worker; what bounds them is the listeners' limit.
        "max_connections": most,
        "max_pending_requests": most,
        "max_requests": most * 4,
        "max_retries": 1024,
    }
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        # When no worker is healthy, try them all rather than none. What a health check finds counts at once: merged
        # updates would come a second later.
        "common_lb_config": {"healthy_panic_threshold": {"value": 1}, "update_merge_window": "0s"},
        "per_connection_buffer_limit_bytes": edge.limits.buffer_kb * 1024,
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "circuit_breakers": {"thresholds": [thresholds]},
        "health_checks": [
            {
                "timeout": "1s",
                # Faster than the wait of a worker that is leaving, which answers 503 meanwhile.
                "interval": "0.5s",
                "no_traffic_interval": "0.5s",
                "unhealthy_threshold": 3,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/healthz", "codec_client_type": "HTTP1"},
            }
        ],
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 2,
            "enforcing_consecutive_local_origin_failure": 100,
            # Errors that an application answers are no reason to send its requests elsewhere.
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "enforcing_success_rate": 0,
            "interval": "1s",
            "base_ejection_time": "1s",
            "max_ejection_time": "5s",
            "max_ejection_percent": 50,
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }


# -- spelling ----------------------------------------------------------------------------------------------------------


def _filter(name: str, kind: str, **config: Any) -> Json:
    return {"name": f"envoy.filters.http.{name}", "typed_config": {"@type": _TYPE + kind, **config}}


def _set(key: str, value: str) -> Json:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _address(address: str, port: int, protocol: str) -> Json:
    return {"socket_address": {"address": address, "port_value": port, "protocol": protocol}}


def _seconds(value: float) -> str:
    return f"{value:g}s"
