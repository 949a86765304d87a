"""Composes requests, sends them, and notes how the server reacts: cookies, caching, the session. Leaves connections to others."""

from importlib.metadata import version as installed

import msgspec

from coatcheck.probe.caching import Caching, judge_caching
from coatcheck.probe.dial import AnyConnection
from coatcheck.probe.exchange import Headers, Request, Response
from coatcheck.probe.http1 import Http1Connection
from coatcheck.probe.http2 import Http2Connection
from coatcheck.probe.jar import CookieJar
from coatcheck.probe.options import Options, Version
from coatcheck.probe.sessions import Credential, Reaction, made_up_like
from coatcheck.probe.target import Target

__all__ = ["SECOND_LOOPBACK", "Asker", "version_of"]

_AGENT = f"coatcheck-probe/{installed('coatcheck')}"
SECOND_LOOPBACK = "127.0.0.2"
"""On Linux every 127.x.y.z is this machine: another address of ours, for servers on loopback."""


class Asker:
    """Asks for one URL, with the cookies that came so far."""

    def __init__(self, options: Options, target: Target) -> None:
        self.target: Target = target
        self.jar: CookieJar = CookieJar(options.cookies)
        self.reactions: list[Reaction] = []
        self.caching: Caching | None = None
        self._method = "HEAD" if options.head else "GET"
        self._headers: Headers = tuple((name.lower(), value) for name, value in options.headers)

    def go_to(self, target: Target) -> None:
        """Ask for another URL from now on. What was meant for one host is not told another, nor a way without TLS."""
        same = target.host.lower() == self.target.host.lower() and (target.tls or not self.target.tls)
        if not same:
            self._headers, self.jar = (), CookieJar(())
        self.target, self.reactions, self.caching = target, [], None

    def request(self, extra: Headers = (), path: str | None = None) -> Request:
        """A request with the user's header fields and ours, and `extra` behind them."""
        named = {name for name, _ in self._headers}
        ours = (("user-agent", _AGENT), ("accept", "*/*"))
        standard = tuple(pair for pair in ours if pair[0] not in named)
        target = self.target if path is None else _with_path(self.target, path)
        return Request(self._method, target, (*standard, *self._headers, *extra))

    async def ask(self, connection: AnyConnection, credential: Credential = "ours", extra: Headers = ()) -> Response:
        """Send a request with our cookies, without, or with made-up values in their place. Raises Failure."""
        cookies: Headers = ()
        sent: tuple[tuple[str, str], ...] = ()
        if credential == "ours":
            cookies, sent = self.jar.header(), self.jar.session_values()
        elif credential == "made up":
            sent = tuple((name, made_up_like(value)) for name, value in self.jar.session_values())
            cookies = self.jar.header(sent)
        response = await connection.exchange(self.request((*cookies, *extra)))
        version = version_of(connection)
        given = self.jar.take(response, version, keep=credential == "ours")
        self.reactions.append(
            Reaction(
                version=version,
                # Before there was a cookie, ours was none.
                credential=credential if sent else "none",
                connection=connection.record.number,
                other_address=connection.record.moved_to_address or connection.record.local.startswith(SECOND_LOOPBACK),
                status=response.status,
                location=response.value("location"),
                digest=response.digest,
                set_values=given,
                sent_values=sent,
            )
        )
        # The response that sets a cookie is the one that no cache may keep.
        if self.caching is None or (response.values("set-cookie") and not self.caching.sets_cookie):
            authorized = any(name == "authorization" for name, _ in self._headers)
            self.caching = judge_caching(response, authorized=authorized)
        return response


def version_of(connection: AnyConnection) -> Version:
    """Which version the connection carries."""
    if isinstance(connection, Http1Connection):
        return connection.version
    return "h2" if isinstance(connection, Http2Connection) else "h3"


def _with_path(target: Target, path: str) -> Target:
    return msgspec.structs.replace(target, path=path)
