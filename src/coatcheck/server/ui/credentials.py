"""Shows whoever is logged in what the page cannot see by itself: the cookie as it was set, and an access token to look at.

The cookie's value, which scripts must not have, is left out; the token is for an audience that nobody is, so that it is
good for nothing but reading. Leaves explaining them to the page.
"""

from typing import cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from coatcheck.server.problems import problem_response
from coatcheck.server.schemes import PLAIN_COOKIE, TLS_COOKIE
from coatcheck.server.services import Services
from coatcheck.session import Session, session_of

__all__ = ["NOBODY", "show_credentials"]

NOBODY = "urn:coatcheck:nobody"
"""The audience of a token that is only to be looked at: no verifier's own."""
_HIDDEN = "value"


async def show_credentials(request: Request) -> Response:
    """Give the session's cookie without its value and, in JSON, what it was set with; and a token for `NOBODY`."""
    services = cast("Services", request.app.state.services)
    session: Session = session_of(request)
    record = session.record
    if record is None or record.user_id is None or session.by_bearer:
        return problem_response(401, "Nobody is logged in by cookie.")
    policy = TLS_COOKIE if request.url.scheme == "https" else PLAIN_COOKIE
    begun = record.created_at if record.authenticated_at is None else record.authenticated_at
    max_age = round(record.expires_at - begun) if record.remember else None
    line = policy.set_cookie(_HIDDEN, max_age=max_age).decode("ascii")
    attributes = [part.partition("=")[::2] for part in line.split("; ")[1:]]
    token, _ = services.access.issue(record, audience=NOBODY)
    cookie = {
        "name": policy.name,
        "header": f"Set-Cookie: {line.replace(f'={_HIDDEN}', '=…', 1)}",
        "attributes": attributes,
        "length": len(request.cookies.get(policy.name, "")),
    }
    return JSONResponse({"cookie": cookie, "access_token": token}, headers={"cache-control": "no-store"})
