"""Every header that our code believes about a connection is one that the edge removes: found in the source, not listed."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import coatcheck
from coatcheck.server.connection_facts import TRUSTED_HEADERS
from coatcheck.server.edge import Edge, edge_config
from coatcheck.server.forwarded import forwarded

SOURCE = Path(coatcheck.__file__).parent
# What proxies and edges say of a connection, under any of the names that are in use for it.
SAID_OF_CONNECTIONS = re.compile(
    r"x-(coatcheck|forwarded|envoy|real|client|cluster|remote|scheme|ssl|host|proxy|originating|appengine)[a-z-]*"
    r"|forwarded|via|early-data|true-client-ip|cf-[a-z-]+|fastly-[a-z-]+|client-cert[a-z-]*|ssl-[a-z-]+|remote-[a-z-]+"
)
NO_REQUESTS = ("probe", "stores")
"""Parts that never see a request: a client, and what has options of TLS by similar names."""
HARMLESS = {
    "x-coatcheck-worker": "an answer's, never read",
    "x-coatcheck-": "the edge's own pattern for what it removes",
    "x-envoy-": "the same",
    "x-forwarded-method": "read by /v1/verify: can only make it refuse more",
}
EDGES = [
    Edge(
        boot_id="b",
        addresses=addresses,
        http_port=1,
        https_port=2,
        worker_sockets=("/w",),
        admin_socket="/a",
        secret_file="/s",
        address_secret_file="/t",
        public_origins=("https://login.example.com",),
        trusted_proxies=proxies,
    )
    for addresses in (("127.0.0.1",), ("0.0.0.0", "::"))
    for proxies in (0, 2)
]


def texts() -> Iterator[tuple[str, str]]:
    """Each text and bytes literal of the source, in lower case with hyphens, and the file it stands in."""
    for path in SOURCE.rglob("*.py"):
        if path.relative_to(SOURCE).parts[0] in NO_REQUESTS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                value = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
                yield value.lower().replace("_", "-"), path.relative_to(SOURCE).as_posix()


def test_every_header_about_connections_in_the_source_is_removed_by_the_edge() -> None:
    found = {text: path for text, path in texts() if SAID_OF_CONNECTIONS.fullmatch(text) and text not in HARMLESS}
    assert {"x-coatcheck-client", "x-forwarded-for", "x-forwarded-proto", "early-data"} <= set(found), "the scan works"
    assert {text: path for text, path in found.items() if text not in TRUSTED_HEADERS} == {}


def test_what_is_called_harmless_is_still_in_the_source() -> None:
    assert set(HARMLESS) <= {text for text, _ in texts()}


@pytest.mark.parametrize("edge", EDGES)
def test_every_manager_removes_all_of_them_first_of_all(edge: Edge) -> None:
    managers = [
        manager["typed_config"]
        for listener in edge_config(edge)["static_resources"]["listeners"]
        for chain in listener["filter_chains"]
        for manager in chain["filters"]
    ]
    assert len(managers) >= 3
    for manager in managers:
        mutations = manager["http_filters"][0]["typed_config"]["mutations"]["request_mutations"]
        removed = [mutation["remove"] for mutation in mutations if "remove" in mutation]
        assert set(removed) >= set(TRUSTED_HEADERS)
        assert manager["xff_num_trusted_hops"] == edge.trusted_proxies
        for host in manager["route_config"]["virtual_hosts"]:
            for route in host["routes"]:
                # What routes say once more comes after all filters, and only behind proxies.
                said = [each["header"]["key"] for each in route.get("request_headers_to_add", [])]
                asked = [header["name"] for header in route["match"].get("headers", [])]
                if "x-forwarded-proto" in said or "x-forwarded-for" in asked:
                    assert edge.trusted_proxies
                    assert {"x-forwarded-proto", "x-forwarded-for"} <= set(asked)


@pytest.mark.parametrize(
    ("entries", "proxies", "expected"),
    [
        (["203.0.113.9"], 0, None),
        (["203.0.113.9"], 1, "203.0.113.9"),
        (["6.6.6.6, 203.0.113.9"], 1, "203.0.113.9"),
        (["6.6.6.6, 203.0.113.9, 10.0.0.1"], 2, "203.0.113.9"),
        (["6.6.6.6", "203.0.113.9", "10.0.0.1"], 2, "203.0.113.9"),
        (["203.0.113.9"], 2, None),
        ([], 1, None),
        ([""], 1, None),
        (["203.0.113.9,"], 1, None),
        (["garbage"], 1, None),
        (["203.0.113.9, garbage"], 1, None),
        (["garbage, 203.0.113.9"], 1, "203.0.113.9"),
        (["203.0.113.9:443"], 1, None),
        (["unknown"], 1, None),
        (["_hidden"], 1, None),
        (["127.1"], 1, None),
        (["\u0661.1.1.1"], 1, None),
        (["2001:DB8:0::7"], 1, "2001:db8::7"),
        (["[2001:db8::7]"], 1, None),
        (["fe80::1%eth0"], 1, None),
        (["::ffff:203.0.113.9"], 1, "203.0.113.9"),
    ],
)
def test_the_client_is_counted_from_the_right(entries: list[str], proxies: int, expected: str | None) -> None:
    headers = [(b"x-forwarded-for", entry.encode()) for entry in entries]
    found = forwarded([*headers, (b"x-forwarded-proto", b"https")], proxies)
    assert (found and found[0]) == expected
    assert found is None or found[1]


@pytest.mark.parametrize(
    ("protos", "secure"),
    [(["https"], True), (["http"], False), ([], False), (["https", "https"], False), (["https, http"], False), (["HTTPS"], False)],
)  # fmt: skip
def test_only_a_plain_https_is_secure(protos: list[str], secure: bool) -> None:
    headers = [(b"x-forwarded-for", b"203.0.113.9"), *((b"x-forwarded-proto", proto.encode()) for proto in protos)]
    assert forwarded(headers, 1) == ("203.0.113.9", secure)
