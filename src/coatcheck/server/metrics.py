"""What the server counts, and how Prometheus reads it: `/metrics` on a loopback port of its own, summed over the workers.

Workers copy their integers into `figures` once a second; nothing on a request's way is more than an addition. The
text format is Prometheus' 0.0.4, which OpenMetrics' collectors read too.
"""

import asyncio
import contextlib
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, NamedTuple

from coatcheck.manager import Sessions
from coatcheck.server.edge_feed import EdgeStatistics
from coatcheck.server.figures import FigureTable
from coatcheck.stores.observed import STEPS

__all__ = ["COLUMNS", "EDGE_STATISTICS", "Publisher", "exposition", "overview_of", "serve_metrics"]


class _Figure(NamedTuple):
    column: str
    name: str
    labels: str
    kind: Literal["counter", "gauge"]
    of_all: Literal["sum", "min", "max"]
    help: str


_REASONS = ("logout", "password changed", "idle", "expired", "too many sessions", "ended by user", "revoked",
            "refresh token reused", "ended", "other")  # fmt: skip
_CAUSES = ("wrong credentials", "cross-site", "invalid token", "invalid request", "session ended", "store unavailable", "too many connections",
           "other")  # fmt: skip
_KINDS = ("websocket", "sse", "stream", "grpc", "other")
_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")

_FIGURES: tuple[_Figure, ...] = (
    *(
        _Figure(f"requests_{each}", "coatcheck_requests_total", f'status="{each}"', "counter", "sum",
                "Requests answered by the workers, by class of status.")
        for each in _CLASSES
    ),
    _Figure("request_seconds", "coatcheck_request_seconds_total", "", "counter", "sum",
            "Time that requests took in the workers, all together."),
    _Figure("logins", "coatcheck_logins_total", "", "counter", "sum", "Sessions that became a user's."),
    _Figure("created", "coatcheck_sessions_created_total", "", "counter", "sum", "Sessions that were stored first."),
    *(
        _Figure(f"ended_{each}", "coatcheck_sessions_ended_total", f'reason="{each}"', "counter", "sum",
                "Sessions that were ended by this server, by reason.")
        for each in _REASONS
    ),
    _Figure("cache_hits", "coatcheck_cache_hits_total", "", "counter", "sum", "Look-ups that needed no store."),
    _Figure("cache_misses", "coatcheck_cache_misses_total", "", "counter", "sum", "Look-ups that asked the store."),
    _Figure("cache_entries", "coatcheck_cache_entries", "", "gauge", "sum", "Records in the near caches."),
    _Figure("cache_bytes", "coatcheck_cache_bytes", "", "gauge", "sum", "About what they take."),
    _Figure("lease", "coatcheck_lease_seconds", "", "gauge", "min",
            "For how long the worker with the least of it may still believe its copies; 0 and below: not at all."),
    _Figure("feed_failing", "coatcheck_feed_failing", "", "gauge", "max", "1 while a worker cannot read the change feed."),
    _Figure("feed_lag", "coatcheck_feed_lag_seconds", "", "gauge", "max",
            "How long ago, for the worker that is furthest behind, the change feed was known to be complete."),
    *(
        _Figure(f"refused_{each}", "coatcheck_refused_total", f'cause="{each}"', "counter", "sum",
                "Requests and handshakes that went no further, by cause.")
        for each in _CAUSES
    ),
    *(
        _Figure(f"live_{each}", "coatcheck_live_connections", f'kind="{each}"', "gauge", "sum",
                "Open WebSockets and streams of sessions, by kind.")
        for each in _KINDS
    ),
    *(
        _Figure(f"store_calls_{step}", "coatcheck_store_calls_total", f'step="{step}"', "counter", "sum",
                "Steps asked of the session store.")
        for step in STEPS
    ),
    *(
        _Figure(f"store_seconds_{step}", "coatcheck_store_seconds_total", f'step="{step}"', "counter", "sum",
                "Time that they took, all together.")
        for step in STEPS
    ),
    *(
        _Figure(f"store_failures_{step}", "coatcheck_store_failures_total", f'step="{step}"', "counter", "sum",
                "Steps of which the store could not be asked.")
        for step in STEPS
    ),
)  # fmt: skip

COLUMNS: tuple[str, ...] = tuple(figure.column for figure in _FIGURES)
"""The names of a row in the workers' table."""


class Publisher:
    """One worker's side: counts requests, and copies what the manager counted into the shared table."""

    def __init__(self, table: FigureTable, sessions: Sessions) -> None:
        self._table = table
        self._sessions = sessions
        # A worker that took another's place goes on counting where that one stopped.
        self._began: dict[str, float] = {
            figure.column: table.get(figure.column) for figure in _FIGURES if figure.kind == "counter"
        }
        self._requests: dict[str, int] = dict.fromkeys(_CLASSES, 0)
        self._seconds = 0.0

    def answered(self, status: int, seconds: float) -> None:
        """Count a request by its answer; 0 is none at all."""
        self._requests[_CLASSES[status // 100 - 1] if 100 <= status < 600 else "5xx"] += 1
        self._seconds += seconds

    def publish(self) -> None:
        """Copy everything."""
        sessions = self._sessions
        counted = sessions.counted
        values: dict[str, float] = {f"requests_{each}": count for each, count in self._requests.items()}
        values |= dict.fromkeys((f"ended_{each}" for each in _REASONS), 0)
        for reason, count in counted.ended.items():
            values[f"ended_{reason if reason in _REASONS else 'other'}"] += count
        values |= dict.fromkeys((f"refused_{each}" for each in _CAUSES), 0)
        for cause, count in counted.refused.items():
            values[f"refused_{cause if cause in _CAUSES else 'other'}"] += count
        for step in STEPS:
            values[f"store_calls_{step}"] = sessions.store.calls[step]
            values[f"store_seconds_{step}"] = sessions.store.seconds[step]
            values[f"store_failures_{step}"] = sessions.store.failures[step]
        values |= {
            "request_seconds": self._seconds,
            "logins": counted.logins,
            "created": counted.created,
            "cache_hits": sessions.cache.hits,
            "cache_misses": sessions.cache.misses,
        }
        for name, value in values.items():
            self._table.set(name, self._began[name] + value)
        lease = sessions.cache.lease_until - sessions.clock.monotonic()
        self._table.set("lease", lease if math.isfinite(lease) else 0.0)
        self._table.set("feed_failing", float(sessions.feed_failing))
        self._table.set("cache_entries", len(sessions.cache))
        self._table.set("cache_bytes", sessions.cache.size)
        self._table.set("feed_lag", max(0.0, sessions.max_staleness - lease) if math.isfinite(lease) else 0.0)
        live = dict.fromkeys(_KINDS, 0)
        for kind, count in sessions.connections.by_kind.items():
            live[kind if kind in _KINDS else "other"] += count
        for kind, count in live.items():
            self._table.set(f"live_{kind}", count)

    async def run(self) -> None:
        """Publish every second, until cancelled."""
        while True:
            self.publish()
            await asyncio.sleep(1.0)


_OF_ALL: Mapping[str, Callable[[list[float]], float]] = {"sum": sum, "min": min, "max": max}

# Envoy's own counters, by listener; what they are called is not ours to keep.
EDGE_STATISTICS = r"^http\.(plain|redirect|tls|quic)\.downstream_(cx|rq)_((http[123])_(total|active)|[1-5]xx|active)$"
_EDGE = re.compile(r"http\.(\w+)\.downstream_(cx|rq)_(.+)")
_VERSIONS = {"http1": "HTTP/1", "http2": "HTTP/2", "http3": "HTTP/3"}


def exposition(table: FigureTable, workers: int, edge: Mapping[str, int] | None) -> str:
    """Give the metrics as Prometheus reads them. `edge` holds Envoy's statistics; None where there is no edge."""
    lines: list[str] = []
    described: set[str] = set()

    def line(name: str, labels: str, kind: str, text: str, value: float) -> None:
        if name not in described:
            described.add(name)
            lines.append(f"# HELP {name} {text}")
            lines.append(f"# TYPE {name} {kind}")
        lines.append(f"{name}{{{labels}}} {value:.17g}" if labels else f"{name} {value:.17g}")

    line("coatcheck_workers", "", "gauge", "Worker processes that were started.", workers)
    for figure in _FIGURES:
        value = _OF_ALL[figure.of_all](table.all(figure.column))
        line(figure.name, figure.labels, figure.kind, figure.help, value)
    for name, labels, kind, text, value in _edge_lines(edge or {}):
        line(name, labels, kind, text, value)
    return "\n".join(lines) + "\n"


def _edge_lines(edge: Mapping[str, int]) -> list[tuple[str, str, str, str, float]]:
    sums: dict[tuple[str, str, str, str], float] = {}
    for key, value in edge.items():
        found = _EDGE.fullmatch(key)
        if found is None:
            continue
        of, what = found[2], found[3]
        noun = "connections" if of == "cx" else "requests"
        version, _, rest = what.partition("_")
        if version in _VERSIONS:
            kind = "counter" if rest == "total" else "gauge"
            name = f"coatcheck_edge_{noun}_{'total' if rest == 'total' else 'active'}"
            label = (name, f'version="{_VERSIONS[version]}"', kind, f"The edge's {noun}, by HTTP version.")
        elif what.endswith("xx"):
            label = ("coatcheck_edge_responses_total", f'status="{what}"', "counter", "The edge's answers, by class.")
        else:
            continue
        sums[label] = sums.get(label, 0.0) + value
    return [(*label, value) for label, value in sorted(sums.items())]


def overview_of(table: FigureTable, edge: EdgeStatistics | None) -> dict[str, Any]:
    """Give what administrators are shown: `counters`, `connections`, `http`, `store` and `nodes`, over all workers."""

    def total(column: str) -> float:
        return sum(table.all(column))

    http: dict[str, dict[str, int]] = {}
    for name, labels, _, _, value in _edge_lines({} if edge is None else edge.counters):
        kind = {
            "coatcheck_edge_connections_total": "connections",
            "coatcheck_edge_requests_total": "requests",
            "coatcheck_edge_connections_active": "open",
        }.get(name)
        if kind is not None:
            version = labels.partition('"')[2].rstrip('"')
            http.setdefault(version, {"connections": 0, "requests": 0, "open": 0})[kind] += int(value)
    leases, lags = table.all("lease"), table.all("feed_lag")
    return {
        "counters": {
            "logins": total("logins"),
            "failed_logins": total("refused_wrong credentials"),
            "sessions_created": total("created"),
            "sessions_ended": sum(total(f"ended_{reason}") for reason in _REASONS),
            "requests": sum(total(f"requests_{each}") for each in _CLASSES),
            "errors": total("requests_5xx"),
            "cache_hits": total("cache_hits"),
            "cache_misses": total("cache_misses"),
        },
        "connections": {kind: int(total(f"live_{kind}")) for kind in _KINDS},
        "http": http,
        "store": {
            step: {
                "calls": int(total(f"store_calls_{step}")),
                "seconds": total(f"store_seconds_{step}"),
                "failures": int(total(f"store_failures_{step}")),
            }
            for step in STEPS
        },
        "nodes": [
            {"worker": number, "lease_left_s": lease, "feed_lag_s": lag}
            for number, (lease, lag) in enumerate(zip(leases, lags, strict=True))
        ],
    }


async def serve_metrics(address: str, port: int, text: Callable[[], Awaitable[str]]) -> asyncio.Server:
    """Answer `GET /metrics` on a port, one request a connection. Raises OSError where the port cannot be had."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5.0):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                status, body = await _respond(head, text)
                writer.write(
                    f"HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"
                    f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    return await asyncio.start_server(answer, address, port, limit=16 * 1024)


async def _respond(head: str, text: Callable[[], Awaitable[str]]) -> tuple[str, bytes]:
    request, _, rest = head.partition("\r\n")
    host = re.search(r"^host:[ \t]*(.*?)(?::\d+)?[ \t]*\r$", rest, re.IGNORECASE | re.MULTILINE)
    # A page of another site must not read this by a name of its own that leads here (DNS rebinding).
    if host is None or host[1].lower() not in ("localhost", "127.0.0.1", "[::1]"):
        return "421 Misdirected Request", b"ask by a loopback name\n"
    if not re.match(r"GET /metrics(\?\S*)? HTTP/1\.[01]$", request):
        return "404 Not Found", b"there is /metrics\n"
    return "200 OK", (await text()).encode()
