"""Tokens over REST: exchange, revoke, get one for another service, and the keys that verify them. Leaves what they are to `coatcheck.tokens`."""

from fastapi import APIRouter, Response

from coatcheck.accounts import ServiceAccounts
from coatcheck.errors import TokenRefused
from coatcheck.server.problems import ProblemError, documented
from coatcheck.server.rest.access import LoginSession, LoginUser
from coatcheck.server.rest.models import (
    AccessToken,
    AccessTokenWanted,
    AnyToken,
    KeySet,
    RefreshToken,
    TicketView,
    Tokens,
)
from coatcheck.server.services import Services, ServicesOf
from coatcheck.tickets import TICKET_SECONDS, Tickets
from coatcheck.tokens import RefreshRefused
from coatcheck.tokens.keys import JWKS_MAX_AGE
from coatcheck.tokens.refresh import GRACE

__all__ = ["router"]

router: APIRouter = APIRouter(tags=["tokens"])


@router.post("/v1/token", responses=documented(400, 401, 403, 413, 422, 503))
async def give_access_token(
    form: AccessTokenWanted, session: LoginSession, user: LoginUser, services: ServicesOf
) -> AccessToken:
    """Give whoever is logged in by cookie an access token for another service, which ends with this session.

    400 with `invalid_target` (RFC 8707) for an audience that the operator has not allowed. 403 with an access token: none
    is given for another.
    """
    if session.by_bearer:
        raise ProblemError(403, "No access token is given for another one: log in with a cookie for that.")
    if not await _allowed(services, form.audience):
        raise ProblemError(400, "Access tokens are not given for this audience.", error="invalid_target")
    assert session.record is not None
    token, lifetime = services.access.issue(session.record, audience=form.audience)
    return AccessToken(access_token=token, expires_in=lifetime)


@router.post("/v1/token/refresh", responses=documented(400, 401, 403, 413, 422, 429, 503))
async def exchange_refresh_token(form: RefreshToken, services: ServicesOf) -> Tokens:
    """Exchange a refresh token for an access token and the next refresh token. Send no access token along.

    Good once; the same exchange asked for again within 10 seconds gives the same refresh token again, until that is used. 400
    with `invalid_grant` (RFC 6749, section 5.2) for one that leads nowhere. One that is used again later has been stolen
    from somebody: its session ends. 429 after too many exchanges in a moment.
    """
    try:
        pair = await services.refresh.exchange(form.refresh_token)
    except RefreshRefused as error:
        if error.error == "slow_down":
            raise ProblemError(
                429,
                "The tokens of this session were exchanged too often in a moment; try again in a while.",
                error=error.error,
                headers={"retry-after": str(int(GRACE))},
            ) from None
        raise ProblemError(
            400, "This refresh token is worth nothing any more: log in again.", error=error.error
        ) from None
    services.activity.record("refreshed", form.refresh_token.partition(".")[0])
    return Tokens(access_token=pair.access_token, expires_in=pair.expires_in, refresh_token=pair.refresh_token)


@router.post(
    "/v1/token/revoke", status_code=200, response_class=Response, responses=documented(400, 401, 403, 413, 422, 503)
)
async def revoke_token(form: AnyToken, services: ServicesOf) -> None:
    """End the session of a refresh token or of an access token (RFC 7009). 200 for what is no token, too: it is worth nothing.

    A refresh token that was exchanged already still ends its session. An access token for another service does not.
    """
    if form.token.count(".") == 2:
        await _end_session_of(form.token, services)
    else:
        await services.refresh.revoke(form.token)


@router.post("/v1/tickets", responses=documented(401, 403, 503))
async def give_ticket(session: LoginSession, services: ServicesOf) -> TicketView:
    """Give a ticket that opens one WebSocket of this session within 30 seconds, where neither cookie nor header can be sent.

    To be offered in the handshake as `new WebSocket(url, ["coatcheck", "coatcheck.ticket." + ticket])`.
    """
    ticket = await Tickets(services.sessions).issue(session)
    return TicketView(ticket=ticket, expires_in=int(TICKET_SECONDS))


@router.get("/.well-known/jwks.json")
async def show_keys(services: ServicesOf, response: Response) -> KeySet:
    """The public keys that verify access tokens, those included that will sign soon. Keep a copy for 5 minutes at most."""
    response.headers["cache-control"] = f"public, max-age={int(JWKS_MAX_AGE)}"
    return KeySet.model_validate(services.access.keys.jwks())


async def _allowed(services: Services, audience: str) -> bool:
    if audience == services.access.audience:
        return False  # a browser that has the cookie needs no token here
    if audience in services.settings.audiences:
        return True
    return any(audience in service.audiences for service in await ServiceAccounts(services.accounts).list())


async def _end_session_of(token: str, services: Services) -> None:
    try:
        claims = services.access.verify(token)
        session = await services.sessions.load_bearer(claims.sid, claims.gen, claims.sub)
    except TokenRefused:
        return
    assert session.record is not None
    await services.sessions.end_record(session.record, "revoked")
