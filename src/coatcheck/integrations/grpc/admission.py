"""Whose call it is, by its metadata: the one place where gRPC's words become those of `credentials`."""

from collections.abc import Iterable
from typing import Any

from coatcheck.cookies import CookiePolicy
from coatcheck.credentials import Authenticator, Credentials, Refusal, Verifier
from coatcheck.manager import Sessions
from coatcheck.session import Session

__all__ = ["Admission", "Headers", "headers_of"]

Headers = list[tuple[bytes, bytes]]


def headers_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> Headers:
    """Give metadata as ASGI has headers. A browser's cookies may come in crumbs, one entry each (RFC 9113, section 8.2.3)."""
    return [
        (name.encode("ascii", "replace"), value if isinstance(value, bytes) else value.encode("utf-8"))
        for name, value in metadata or ()
    ]


class Admission:
    """Finds the session of a call by one cookie policy. Every call counts as one that may change something."""

    def __init__(
        self,
        sessions: Sessions,
        *,
        cookie: CookiePolicy,
        public_origins: Iterable[str] = (),
        tokens: Verifier | None = None,
    ) -> None:
        self.cookie: CookiePolicy = cookie
        self._sessions = sessions
        self._credentials = Credentials(cookie, public_origins, bearer=tokens is not None)
        self._authenticator = Authenticator(sessions, tokens)

    def protocol(self, headers: Headers) -> str:
        """Give what carries the call. As far as gRPC itself knows that is HTTP/2."""
        return "HTTP/2"

    async def admit(self, headers: Headers) -> Session | Refusal:
        """Give the session, an anonymous one where nobody's, or why the call goes no further."""
        scope: dict[str, Any] = {"type": "http", "method": "POST", "headers": headers}
        credential = self._credentials.examine(scope)
        if credential is None:
            return Session(self._sessions)
        if isinstance(credential, Refusal):
            return credential
        session = self._authenticator.cached(credential)
        return await self._authenticator.load(credential) if session is None else session
