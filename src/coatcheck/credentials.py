"""The one place where what a request carries becomes its session, nobody's, or a refusal. Leaves a token's worth to the manager.

That is the session cookie or a bearer token (RFC 6750), and the decision whether another site caused the request. An
explicit bearer wins over a cookie, and needs no such decision: no browser sends one by itself. `Credentials` looks at
what a request carries and `Authenticator` at what that is worth, for every transport.

A page can give a WebSocket handshake no header but the subprotocols it offers. There it may put a bearer or a ticket:

    new WebSocket(url, ["coatcheck", "coatcheck.ticket." + ticket])

Such a credential is removed from the scope before anybody else sees it. Since scripts of any site can send it, the
origin is looked at all the same.
"""

import logging
from collections.abc import Iterable, MutableMapping
from typing import Any, NamedTuple, Protocol

from coatcheck.cookies import CookiePolicy, find_cookie
from coatcheck.errors import StoreUnavailable, TokenRefused
from coatcheck.ids import TOKEN_LENGTH
from coatcheck.manager import Sessions
from coatcheck.origin import SAFE_METHODS, is_cross_site, is_foreign_origin, normalise_origins
from coatcheck.session import Session
from coatcheck.tickets import Ticket, Tickets

__all__ = ["BAD_TOKEN", "SUBPROTOCOL", "Authenticator", "Claims", "Credentials", "Refusal", "Verifier", "unavailable"]

SUBPROTOCOL = "coatcheck"
"""The subprotocol that clients offer beside a credential, and that is selected where the application selects none."""
_BEARER = "coatcheck.bearer."
_TICKET = "coatcheck.ticket."

_log = logging.getLogger("coatcheck.credentials")


class Refusal(NamedTuple):
    """Why a request goes no further: an HTTP status (RFC 9110), and a sentence for whoever reads the answer.

    `challenge` is what a 401 says in WWW-Authenticate (RFC 6750, section 3), `retry_after` a 503 in Retry-After, in
    seconds. `cause` is for counting.
    """

    status: int
    detail: str
    challenge: str = "Bearer"
    retry_after: int | None = None
    cause: str = "invalid token"


class Claims(Protocol):
    """What of an access token's claims leads to its session."""

    @property
    def sid(self) -> str: ...

    @property
    def sub(self) -> str: ...

    @property
    def gen(self) -> int: ...


class Verifier(Protocol):
    """What knows access tokens (`coatcheck.tokens.AccessTokens`)."""

    def verify(self, token: str) -> Claims:
        """Give the claims. Raises TokenRefused."""
        ...


_CROSS_SITE = Refusal(
    403,
    "This request was caused by a page of another site. If that page is yours, add its origin to public_origins.",
    cause="cross-site",
)
_INVALID_REQUEST = 'Bearer error="invalid_request"'
_TWO_CREDENTIALS = Refusal(
    401, "A request carries one Authorization header.", _INVALID_REQUEST, cause="invalid request"
)
_TWO_OFFERED = Refusal(401, "A handshake carries one bearer or ticket.", _INVALID_REQUEST, cause="invalid request")

BAD_TOKEN = Refusal(401, "The access token is not valid, or its session has ended.", 'Bearer error="invalid_token"')
"""What every access token gets that leads nowhere, whatever the reason."""


def unavailable(error: StoreUnavailable) -> Refusal:
    """Give the refusal for a store that cannot be asked, and log why."""
    _log.warning("answered 503: %s", error)
    detail = "The session store cannot be asked right now. Nothing is lost; try again."
    return Refusal(503, detail, retry_after=error.retry_after, cause="store unavailable")


class Credentials:
    """Reads a request's cookie by one policy, and refuses what other sites cause.

    `public_origins` are the origins, as `https://app.example`, whose pages may send unsafe requests and open
    WebSockets. Browsers tell same-origin requests apart by themselves (`Sec-Fetch-Site`) over https and on localhost;
    elsewhere, and for every WebSocket, the origin must be listed. With `bearer` false an Authorization header is the
    application's own business.
    """

    def __init__(self, policy: CookiePolicy, public_origins: Iterable[str] = (), *, bearer: bool = False) -> None:
        self._bearer: bool = bearer
        self.policy: CookiePolicy = policy
        self.public_origins: frozenset[bytes] = normalise_origins(public_origins)
        self._name = policy.name.encode("ascii")
        self._needle = self._name + b"="
        self._alone = len(self._needle) + TOKEN_LENGTH

    def examine(self, scope: MutableMapping[str, Any]) -> bytes | str | Ticket | Refusal | None:
        """Give what an ASGI scope (`http` or `websocket`) carries.

        That is a session token (bytes), a bearer token (str) or ticket not looked at yet, nothing, or a refusal. What a
        handshake's subprotocols hold of ours is taken out of the scope; `coatcheck.echo` in it then says that ours was offered.
        """
        if scope["type"] != "http":
            return self._examine_handshake(scope)
        headers = scope["headers"]
        if self._bearer:
            bearer = _bearer_of(headers)
            if bearer is not None:
                return bearer
        cookie: bytes | None = None
        if scope["method"] in SAFE_METHODS:
            for name, value in headers:
                if name == b"cookie":
                    cookie = value if cookie is None else cookie + b"; " + value
        else:
            cookie, origin, site = _said_by_browsers(headers)
            if is_cross_site(site, origin, self.public_origins):
                return _CROSS_SITE
        if cookie is None:
            return None
        if len(cookie) == self._alone and cookie.startswith(self._needle):
            return cookie[-TOKEN_LENGTH:]  # as `token` would give it, without the call
        return self.token(cookie)

    def _examine_handshake(self, scope: MutableMapping[str, Any]) -> bytes | str | Ticket | Refusal | None:
        offered = _take_offered(scope)
        if self._bearer:
            bearer = _bearer_of(scope["headers"])
            if bearer is not None:
                return bearer if offered is None else _TWO_OFFERED
        cookie, origin, _ = _said_by_browsers(scope["headers"])
        # Browsers send no Sec-Fetch-Site here, and only they send Origin.
        if is_foreign_origin(origin, self.public_origins):
            return _CROSS_SITE
        if offered is not None:
            return BAD_TOKEN if isinstance(offered, str) and not self._bearer else offered
        return None if cookie is None else self.token(cookie)

    def token(self, cookie: bytes) -> bytes | None:
        """Give the token in a Cookie header; None where there is none of ours, or more than one."""
        needle = self._needle
        start = cookie.find(needle)
        if start < 0:
            return None
        begin = start + len(needle)
        end = begin + TOKEN_LENGTH
        # What browsers send is found here; all else is taken apart properly. A value in which another cookie begins is
        # no token, and so is worth nothing where its worth is judged.
        if (start == 0 or cookie.startswith(b"; ", start - 2)) and (
            end == len(cookie) or (cookie.startswith(b";", end) and cookie.find(needle, end) < 0)
        ):
            return cookie[begin:end]
        return find_cookie(cookie, self._name)


def _said_by_browsers(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes | None, bytes | None, bytes | None]:
    """Give Cookie, Origin and Sec-Fetch-Site. Two origins agree with nothing, and two sites say the worst."""
    cookie = origin = site = None
    for name, value in headers:
        if name == b"cookie":
            cookie = value if cookie is None else cookie + b"; " + value
        elif name == b"origin":
            origin = value if origin is None else b"null"
        elif name == b"sec-fetch-site":
            site = value if site is None else b"cross-site"
    return cookie, origin, site


def _bearer_of(headers: Iterable[tuple[bytes, bytes]]) -> str | Refusal | None:
    """Give the bearer token in the Authorization header; None where there is no such header, or another scheme's."""
    found: bytes | None = None
    for name, value in headers:
        if name == b"authorization":
            if found is not None:
                return _TWO_CREDENTIALS
            found = value
    if found is None or not (found.startswith(b"Bearer ") or found[:7].lower() == b"bearer "):
        return None
    return found[7:].strip(b" ").decode("latin-1")


def _take_offered(scope: MutableMapping[str, Any]) -> str | Ticket | Refusal | None:
    """Take what is ours out of a handshake's subprotocols, and give the credential among it."""
    needle = SUBPROTOCOL.encode("ascii")
    if not any(name == b"sec-websocket-protocol" and needle in value for name, value in scope["headers"]):
        return None
    kept: list[tuple[bytes, bytes]] = []
    found: list[str | Ticket] = []
    for name, value in scope["headers"]:
        if name != b"sec-websocket-protocol":
            kept.append((name, value))
            continue
        others: list[str] = []
        for offer in (part.strip() for part in value.decode("latin-1").split(",")):
            if offer.startswith(_BEARER):
                found.append(offer.removeprefix(_BEARER))
            elif offer.startswith(_TICKET):
                found.append(Ticket(offer.removeprefix(_TICKET).encode("latin-1")))
            elif offer == SUBPROTOCOL:
                scope["coatcheck.echo"] = True
            else:
                others.append(offer)
        if others:
            kept.append((name, ", ".join(others).encode("latin-1")))
    scope["headers"] = kept
    ours = (SUBPROTOCOL, _BEARER, _TICKET)
    scope["subprotocols"] = [
        offer for offer in scope.get("subprotocols") or () if offer != ours[0] and not offer.startswith(ours[1:])
    ]
    return _TWO_OFFERED if len(found) > 1 else found[0] if found else None


class Authenticator:
    """Gives the session that a credential leads to. `tokens` verifies access tokens; None: there are none."""

    def __init__(self, sessions: Sessions, tokens: Verifier | None = None) -> None:
        self._sessions = sessions
        self._tokens = tokens
        self._tickets = Tickets(sessions)

    def cached(self, credential: bytes | str | Ticket) -> Session | None:
        """Give the session from this node's copies, or None: then `load` must ask. Never waits."""
        if not isinstance(credential, str):
            return self._sessions.load_cached(credential) if isinstance(credential, bytes) else None
        assert self._tokens is not None
        try:
            claims = self._tokens.verify(credential)
        except TokenRefused:
            return None
        return self._sessions.load_bearer_cached(claims.sid, claims.gen, claims.sub)

    async def load(self, credential: bytes | str | Ticket | None) -> Session | Refusal:
        """Give the session, an anonymous one where a cookie leads nowhere, or why the request goes no further.

        A session token is bytes, a bearer str, as `Credentials.examine` gives them. A bearer never falls back to a cookie.
        """
        try:
            if isinstance(credential, Ticket):
                return await self._tickets.take(credential)
            if not isinstance(credential, str):
                return await self._sessions.load(credential)
            assert self._tokens is not None
            claims = self._tokens.verify(credential)
            return await self._sessions.load_bearer(claims.sid, claims.gen, claims.sub)
        except TokenRefused as error:
            _log.info("answered 401: %s", error)
            return BAD_TOKEN
        except StoreUnavailable as error:
            return unavailable(error)
