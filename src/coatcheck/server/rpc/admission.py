"""Whose a call is, by the scheme over which it came, as the edge says: the rules of `schemes`, for gRPC.

Only for what comes through the edge: whoever can reach the worker's socket can say anything.
"""

from coatcheck.cookies import CookiePolicy
from coatcheck.credentials import Refusal
from coatcheck.integrations.grpc import SessionInterceptor
from coatcheck.integrations.grpc.admission import Admission, Headers
from coatcheck.server.connection_facts import PROTOCOL, facts_from_edge
from coatcheck.server.problems import BAD_BEARER
from coatcheck.server.schemes import OTHER_SCHEME, PLAIN_COOKIE, TLS_COOKIE, is_of_scheme
from coatcheck.server.services import Services
from coatcheck.session import Session

__all__ = ["RpcInterceptor"]

_PROTOCOL = PROTOCOL.encode()


class RpcInterceptor(SessionInterceptor):
    """SessionInterceptor with the cookie of the call's scheme. Counts calls under the client's connection."""

    def __init__(self, services: Services) -> None:
        super().__init__(services.sessions)
        self._worker = services.worker
        self._tls = _SchemeAdmission(services, TLS_COOKIE, "https")
        self._plain = _SchemeAdmission(services, PLAIN_COOKIE, "http")

    def admission(self, headers: Headers) -> Admission:
        """Give what decides whose call this is."""
        facts, _ = facts_from_edge(headers, self._worker)
        if facts.connection_id:
            self._worker.connections.add(facts.key)
        return self._tls if facts.scheme == "https" else self._plain


class _SchemeAdmission(Admission):
    def __init__(self, services: Services, cookie: CookiePolicy, scheme: str) -> None:
        origins = services.settings.effective_public_origins()
        super().__init__(services.sessions, cookie=cookie, public_origins=origins, tokens=services.access)
        self._sessions_of_scheme = services.sessions
        self._scheme = scheme

    def protocol(self, headers: Headers) -> str:
        """Give what the client spoke to the edge."""
        said = next((value for name, value in headers if name == _PROTOCOL), b"")
        return said.decode("latin-1") or super().protocol(headers)

    async def admit(self, headers: Headers) -> Session | Refusal:
        """Give the session if it was begun over the call's scheme, an anonymous one where nobody's, or why the call goes no further."""
        session = await super().admit(headers)
        if isinstance(session, Refusal) or is_of_scheme(session, self._scheme):
            return session
        if session.by_bearer:
            return Refusal(401, OTHER_SCHEME, BAD_BEARER)
        return Session(self._sessions_of_scheme)
