"""What to change where a finding says that something is amiss, in the words of each server's configuration. Pure data."""

from typing import NamedTuple

__all__ = ["Mend", "mends_for", "software_of"]


class Mend(NamedTuple):
    """What to change in one piece of software; `where` is empty where it is the application's."""

    where: str
    what: str


_KNOWN = (
    ("openresty", "nginx"),
    ("nginx", "nginx"),
    ("envoy", "Envoy"),
    ("uvicorn", "uvicorn"),
    ("hypercorn", "Hypercorn"),
    ("granian", "Granian"),
    ("gunicorn", "Gunicorn"),
    ("apache", "Apache"),
    ("caddy", "Caddy"),
    ("express", "Node"),
    ("node", "Node"),
)

_MENDS: dict[str, tuple[Mend, ...]] = {
    "keep-alive-refused": (
        Mend("nginx", "keepalive_timeout 75s; and no 0 in it"),
        Mend("Envoy", "no max_requests_per_connection: 1 in common_http_protocol_options; no connection: close added"),
        Mend("uvicorn", "--timeout-keep-alive 75"),
        Mend("Hypercorn", "keep_alive_timeout = 75; keep_alive_max_requests well above 1"),
        Mend("Granian", "leave out --no-http1-keep-alive"),
        Mend("Gunicorn", "another worker class than sync, which closes after each response; --keep-alive 75"),
        Mend("Node", "server.keepAliveTimeout = 75_000, and no connection: close"),
        Mend("Apache", "KeepAlive On"),
    ),
    "few-requests-per-connection": (
        Mend("nginx", "keepalive_requests 1000; (the default since 1.19.10)"),
        Mend("Envoy", "common_http_protocol_options: {max_requests_per_connection: …} higher, or none"),
        Mend("Hypercorn", "keep_alive_max_requests = 1000"),
        Mend("Node", "server.maxRequestsPerSocket = 0"),
        Mend("Apache", "MaxKeepAliveRequests 1000"),
    ),
    "short-idle": (
        Mend("nginx", "keepalive_timeout 75s;"),
        Mend("Envoy", "common_http_protocol_options: {idle_timeout: 75s}; quic_options.idle_timeout for HTTP/3"),
        Mend("uvicorn", "--timeout-keep-alive 75 (the default is 5)"),
        Mend("Hypercorn", "keep_alive_timeout = 75 (the default is 5)"),
        Mend("Gunicorn", "--keep-alive 75 (the default is 2)"),
        Mend("Node", "server.keepAliveTimeout = 75_000 (the default is 5000)"),
        Mend("Apache", "KeepAliveTimeout 75"),
        Mend("Caddy", "servers { timeouts { idle 75s } }"),
    ),
    "no-h2": (
        Mend("nginx", "listen 443 ssl; http2 on; (before 1.25.1: listen 443 ssl http2;)"),
        Mend("Envoy", "codec_type: AUTO, and alpn_protocols: [h2, http/1.1]"),
        Mend(
            "uvicorn", "it speaks HTTP/1.1 only: put Envoy, nginx or Caddy in front, or serve with Hypercorn or Granian"
        ),
        Mend("Hypercorn", 'alpn_protocols = ["h2", "http/1.1"] (the default)'),
        Mend("Granian", "--http auto (the default)"),
        Mend("Gunicorn", "it speaks HTTP/1.1 only: put Envoy, nginx or Caddy in front"),
        Mend("Node", "http2.createSecureServer({allowHTTP1: true, …})"),
        Mend("Apache", "Protocols h2 http/1.1"),
    ),
    "h3-dead": (
        Mend("", "let UDP through to the port, in firewall and load balancer; or stop announcing it: alt-svc: clear"),
        Mend("nginx", "listen 443 quic reuseport; beside listen 443 ssl;"),
        Mend("Envoy", "a listener with protocol: UDP and a QuicDownstreamTransport on that port"),
        Mend("Hypercorn", "quic_bind = '0.0.0.0:443'"),
    ),
    "h3-unannounced": (
        Mend("nginx", """add_header Alt-Svc 'h3=":443"; ma=86400' always;"""),
        Mend("Envoy", """response_headers_to_add: alt-svc: h3=":443"; ma=86400"""),
        Mend("", "or an HTTPS record in the DNS with alpn=h3 (RFC 9460), which this program does not look up"),
    ),
    "few-streams": (
        Mend("nginx", "http2_max_concurrent_streams 128;"),
        Mend("Envoy", "http2_protocol_options: {max_concurrent_streams: 100}; the same in quic_protocol_options"),
        Mend("Hypercorn", "h2_max_concurrent_streams = 100"),
        Mend("Granian", "--http2-max-concurrent-streams 200"),
        Mend("Node", "settings: {maxConcurrentStreams: 100}"),
        Mend("Apache", "H2MaxSessionStreams 100"),
    ),
    "no-resumption": (
        Mend(
            "nginx",
            "ssl_session_cache shared:SSL:10m; with several machines also ssl_session_ticket_key, the same on all",
        ),
        Mend("Envoy", "session_ticket_keys, the same on all machines"),
        Mend("Node", "ticketKeys, the same in all processes"),
        Mend("Apache", "SSLSessionTicketKeyFile, the same on all machines"),
    ),
    "cookie": (
        Mend("", "Set-Cookie: __Host-session=…; Path=/; Secure; HttpOnly; SameSite=Lax"),
        Mend("Starlette", 'SessionMiddleware(…, https_only=True, same_site="lax")'),
        Mend("Django", "SESSION_COOKIE_SECURE = True"),
        Mend("Flask", "SESSION_COOKIE_SECURE = True, SESSION_COOKIE_SAMESITE = 'Lax'"),
        Mend("express-session", "cookie: {secure: true, sameSite: 'lax'}"),
        Mend("PHP", "session.cookie_secure = 1, session.cookie_httponly = 1, session.cookie_samesite = Lax"),
    ),
    "made-up-adopted": (
        Mend("", "issue every id yourself: an unknown one gets a new one, and each login replaces it"),
        Mend("PHP", "session.use_strict_mode = 1"),
    ),
    "cacheable": (
        Mend(
            "", "Cache-Control: no-store, or at least private, with every response that sets a cookie or depends on one"
        ),
    ),
    "tls-old": (
        Mend("nginx", "ssl_protocols TLSv1.2 TLSv1.3;"),
        Mend("Envoy", "tls_params: {tls_maximum_protocol_version: TLSv1_3}"),
    ),
}


def software_of(server: str | None) -> str | None:
    """Which software a Server header names; None if it names none that is known here."""
    said = (server or "").lower()
    return next((name for word, name in _KNOWN if word in said), None)


def mends_for(code: str, software: str | None) -> tuple[Mend, ...]:
    """What to change; for the software that was recognised, if there is something for it."""
    every = _MENDS.get(code, ())
    own = tuple(mend for mend in every if mend.where in ("", software))
    return own if any(mend.where == software for mend in own) else every
