"""What is known about the connection a request came on; the only reader of the headers in which the edge says it.

Promises that nothing here can be said by a client: the edge removes every header of TRUSTED_HEADERS before it sets
its own, and where there is no edge they are dropped, read only as far as trusted proxies wrote them. Counts requests per connection; leaves answering to `rest`.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from time import monotonic
from typing import Any, TypeAlias, cast

import msgspec

from coatcheck.server.connection_table import ConnectionTable
from coatcheck.server.context import WorkerContext
from coatcheck.server.forwarded import forwarded, unmapped

__all__ = [
    "LOCAL_CONNECTION",
    "TRUSTED_HEADERS",
    "ConnectionFacts",
    "ConnectionFactsMiddleware",
    "LocalConnection",
    "connection_of",
    "facts_from_edge",
]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

CONNECTION = "x-coatcheck-connection"
PROTOCOL = "x-coatcheck-protocol"
TLS_VERSION = "x-coatcheck-tls-version"
TLS_CIPHER = "x-coatcheck-tls-cipher"
SERVER_NAME = "x-coatcheck-server-name"
AGE = "x-coatcheck-age-ms"
CLIENT = "x-coatcheck-client"
FORWARDED_PROTO = "x-forwarded-proto"

TRUSTED_HEADERS: tuple[str, ...] = (
    CONNECTION,
    PROTOCOL,
    TLS_VERSION,
    TLS_CIPHER,
    SERVER_NAME,
    AGE,
    CLIENT,
    FORWARDED_PROTO,
    # Not read here, but believed by enough software that a client's own must never get past the edge.
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-client-cert",
    "x-real-ip",
    "forwarded",
    "x-envoy-external-address",
    "x-envoy-internal",
    "early-data",
)
"""Every header that says something about the connection: removed from each request by the edge, and hidden from the application."""

LOCAL_CONNECTION = "coatcheck.local_connection"
"""Key of the ASGI `state` under which a worker without an edge gives each connection its LocalConnection."""

_KEY = "coatcheck.connection"
_TRUSTED = frozenset(name.encode() for name in TRUSTED_HEADERS)
_CONNECTION, _PROTOCOL, _CLIENT = CONNECTION.encode(), PROTOCOL.encode(), CLIENT.encode()
_TLS_VERSION, _TLS_CIPHER = TLS_VERSION.encode(), TLS_CIPHER.encode()
_SERVER_NAME, _AGE, _PROTO = SERVER_NAME.encode(), AGE.encode(), FORWARDED_PROTO.encode()


class LocalConnection(msgspec.Struct, frozen=True):
    """A connection that a worker itself accepted."""

    serial: int
    opened: float
    """By the monotonic clock, in seconds."""


class ConnectionFacts(msgspec.Struct, frozen=True):
    """What is known about one request's connection."""

    protocol: str
    """`HTTP/1.0`, `HTTP/1.1`, `HTTP/2` or `HTTP/3`, as the client spoke it."""
    connection_id: str
    """Names the client's connection, until the server restarts and after; empty for the edge's own health checks."""
    scheme: str
    """`http` or `https`, as the client spoke it."""
    tls_version: str | None
    tls_cipher: str | None
    server_name: str | None
    """The host name that the client asked for in the TLS handshake (SNI): its claim, not a fact."""
    age_ms: int | None
    """Milliseconds from the connection's beginning to this request's."""
    client_host: str
    client_port: int
    """0 where only proxies have seen the client itself."""
    worker_id: int
    table: ConnectionTable
    key: int

    def requests(self) -> int:
        """How many requests this connection has brought so far, this one included, over all workers."""
        return self.table.total(self.key) if self.connection_id else 0


def connection_of(scope: Scope) -> ConnectionFacts:
    """The facts of a request that came through ConnectionFactsMiddleware; KeyError without it."""
    return cast("ConnectionFacts", scope[_KEY])


def facts_from_edge(
    headers: Iterable[tuple[bytes, bytes]], worker: WorkerContext
) -> tuple[ConnectionFacts, list[tuple[bytes, bytes]]]:
    """Read what the edge says of a request's connection; give the other headers too. Only for what came through the edge."""
    said: dict[bytes, bytes] = {}
    others: list[tuple[bytes, bytes]] = []
    for header in headers:
        if header[0] in _TRUSTED:
            said[header[0]] = header[1]
        else:
            others.append(header)
    get = said.get
    host, port = _address(get(_CLIENT, b""))
    connection_id = get(_CONNECTION, b"").decode("latin-1")
    age = get(_AGE, b"")
    facts = ConnectionFacts(
        protocol=get(_PROTOCOL, b"HTTP/1.1").decode("latin-1"),
        connection_id=connection_id,
        scheme="https" if get(_PROTO) == b"https" else "http",
        tls_version=_text(get(_TLS_VERSION)),
        tls_cipher=_text(get(_TLS_CIPHER)),
        server_name=_text(get(_SERVER_NAME)),
        age_ms=int(age) if age.isdigit() else None,
        client_host=host,
        client_port=port,
        worker_id=worker.worker_id,
        table=worker.connections,
        key=ConnectionTable.key(connection_id),
    )
    return facts, others


class ConnectionFactsMiddleware:
    """Plain ASGI, outermost: reads and removes TRUSTED_HEADERS, and sets `client` and `scheme` to the truth."""

    __slots__ = ("_app", "_table", "_worker")

    def __init__(self, app: Application, worker: WorkerContext) -> None:
        self._app = app
        self._worker = worker
        self._table = worker.connections

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # A plain function: one coroutine less on every request.
        if scope["type"] in ("http", "websocket"):
            facts = self._through_edge(scope) if self._worker.edge else self._direct(scope)
            if facts.connection_id:
                self._table.add(facts.key)
            scope[_KEY] = facts
        return self._app(scope, receive, send)

    def _through_edge(self, scope: Scope) -> ConnectionFacts:
        facts, scope["headers"] = facts_from_edge(scope["headers"], self._worker)
        scope["client"] = (facts.client_host, facts.client_port)
        scope["scheme"] = facts.scheme if scope["type"] == "http" else facts.scheme.replace("http", "ws")
        return facts

    def _direct(self, scope: Scope) -> ConnectionFacts:
        said = forwarded(scope["headers"], self._worker.trusted_proxies)
        # Underscored twins too: frameworks that speak CGI's dialect read `x_name` as `x-name`.
        scope["headers"] = [
            header for header in scope["headers"] if header[0].lower().replace(b"_", b"-") not in _TRUSTED
        ]
        host, port = scope.get("client") or ("", 0)
        state: MutableMapping[str, Any] = scope.get("state") or {}
        local = cast("LocalConnection | None", state.pop(LOCAL_CONNECTION, None))
        # Outside our worker (a test's transport) the peer's address is all there is to tell connections apart.
        which = f"{local.serial:x}" if local else f"{host}:{port}"
        connection_id = f"{self._worker.boot_id}-{which}"
        scheme = "https" if scope.get("scheme") in ("https", "wss") else "http"
        if said is not None:
            host, port = said[0], 0
            scheme = "https" if said[1] else scheme
            scope["client"] = (host, port)
            scope["scheme"] = scheme if scope["type"] == "http" else scheme.replace("http", "ws")
        return ConnectionFacts(
            protocol=f"HTTP/{scope.get('http_version', '1.1')}",
            connection_id=connection_id,
            scheme=scheme,
            tls_version=None,
            tls_cipher=None,
            server_name=None,
            age_ms=int((monotonic() - local.opened) * 1000) if local else None,
            client_host=host,
            client_port=port,
            worker_id=self._worker.worker_id,
            table=self._table,
            key=ConnectionTable.key(connection_id),
        )


def _text(value: bytes | None) -> str | None:
    """Envoy writes `-` where it knows nothing."""
    return None if not value or value == b"-" else value.decode("latin-1")


def _address(value: bytes) -> tuple[str, int]:
    host, _, port = value.decode("latin-1").rpartition(":")
    return unmapped(host.strip("[]")), int(port) if port.isdigit() else 0
