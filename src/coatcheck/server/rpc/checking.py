"""`Check`: a service asks whose the credential is that came with a request to it, and whether it is still good.

The same rules as at Coatcheck's own addresses: which cookie counts over which scheme, what another site caused, and that an
access token is good for its audience only, here one of the service's own. Leaves who may ask to `callers`.
"""

from typing import Any

import grpc

from coatcheck.accounts import Service
from coatcheck.credentials import Authenticator, Credentials, Refusal
from coatcheck.errors import TokenRefused
from coatcheck.integrations.grpc.answers import Answer, refused
from coatcheck.server.rpc._generated import sessions_pb2 as pb
from coatcheck.server.rpc.callers import calling_service
from coatcheck.server.rpc.messages import identity, refusal
from coatcheck.server.schemes import PLAIN_COOKIE, TLS_COOKIE, is_of_scheme
from coatcheck.server.services import Services
from coatcheck.session import Session
from coatcheck.tokens import AccessClaims

__all__ = ["Checking"]

_NOTHING = Answer(
    grpc.StatusCode.INVALID_ARGUMENT, "There is no credential to be checked: give a cookie or an access token."
)
_BAD_MAX_AGE = Answer(grpc.StatusCode.INVALID_ARGUMENT, "max_age is a positive time.")


class Checking:
    """Answers the method."""

    def __init__(self, services: Services) -> None:
        origins = services.settings.effective_public_origins()
        self._services = services
        self._tls = Credentials(TLS_COOKIE, origins)
        self._plain = Credentials(PLAIN_COOKIE, origins)
        self._authenticator = Authenticator(services.sessions)

    async def check(self, request: pb.CheckRequest, context: Any) -> pb.CheckResponse:
        """See the method's comment in sessions.proto."""
        service = await calling_service(self._services, context)
        max_age = request.max_age.ToNanoseconds() / 1e9 if request.HasField("max_age") else None
        if max_age is not None and not max_age > 0:
            await _BAD_MAX_AGE.give(context)
        match request.WhichOneof("credential"):
            case "cookie":
                session = await self._by_cookie(request)
            case "access_token":
                session = await self._by_token(request, service)
            case _:
                await _NOTHING.give(context)
        if isinstance(session, Refusal):
            await refused(session).give(context)
        if isinstance(session, pb.CheckResponse):
            return session
        record = session.record
        if record is None or record.user_id is None:
            return refusal(pb.Refusal.REASON_NOBODY, "Nobody is logged in.")
        if max_age is not None and not session.is_fresh(max_age):
            return refusal(pb.Refusal.REASON_LOGIN_TOO_OLD, "This needs a more recent login.")
        return identity(record)

    async def _by_cookie(self, request: pb.CheckRequest) -> Session | Refusal | pb.CheckResponse:
        headers = [(b"cookie", request.cookie.encode("utf-8"))]
        if request.HasField("origin"):
            headers.append((b"origin", request.origin.encode("utf-8")))
        if request.HasField("sec_fetch_site"):
            headers.append((b"sec-fetch-site", request.sec_fetch_site.encode("utf-8")))
        credentials = self._plain if request.plain_http else self._tls
        # Unknown methods, and other spellings of known ones, count as those that change something.
        scope: dict[str, Any] = {"type": "http", "method": request.method or "POST", "headers": headers}
        credential = credentials.examine(scope)
        if isinstance(credential, Refusal):
            return refusal(pb.Refusal.REASON_OTHER_SITE, credential.detail)
        sessions = self._services.sessions
        session = None if credential is None else self._authenticator.cached(credential)
        if session is None:
            found = await self._authenticator.load(credential)
            if isinstance(found, Refusal):
                return found
            session = found
        return session if is_of_scheme(session, _scheme(request)) else Session(sessions)

    async def _by_token(self, request: pb.CheckRequest, service: Service) -> Session | pb.CheckResponse:
        sessions = self._services.sessions
        try:
            claims = self._verified(request.access_token, service)
            session = sessions.load_bearer_cached(claims.sid, claims.gen, claims.sub)
            if session is None:
                session = await sessions.load_bearer(claims.sid, claims.gen, claims.sub)
            if not is_of_scheme(session, _scheme(request)):
                raise TokenRefused("it was issued over the other scheme")
        except TokenRefused:
            detail = "The access token is not valid for this service, or its session has ended."
            return refusal(pb.Refusal.REASON_INVALID_TOKEN, detail)
        return session

    def _verified(self, token: str, service: Service) -> AccessClaims:
        """Raises TokenRefused where it is for none of the service's audiences: one for another must let nobody in here."""
        error = TokenRefused("the service has no audience")
        for audience in service.audiences:
            try:
                return self._services.access.verify(token, audience=audience)
            except TokenRefused as refused:
                error = refused
        raise error


def _scheme(request: pb.CheckRequest) -> str:
    return "http" if request.plain_http else "https"
