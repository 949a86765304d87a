"""One's own sessions over REST: list them, end one, end all others. Other people's do not exist here."""

from fastapi import APIRouter, Response

from coatcheck.server.problems import ProblemError, documented
from coatcheck.server.rest.access import LoginSession
from coatcheck.server.rest.models import EndedSessions, SessionList, session_view
from coatcheck.server.services import ServicesOf

__all__ = ["router"]

router: APIRouter = APIRouter(tags=["sessions"])


@router.get("/v1/sessions", responses=documented(401, 503))
async def list_sessions(session: LoginSession, services: ServicesOf) -> SessionList:
    """Every live session of the user, oldest first."""
    assert session.user_id is not None
    found = await services.sessions.list_user(session.user_id)
    return SessionList(sessions=[session_view(info, session.id) for info in found])


@router.delete(
    "/v1/sessions/{session_id}", status_code=204, response_class=Response, responses=documented(401, 403, 404, 503)
)
async def end_session(session_id: str, session: LoginSession, services: ServicesOf) -> None:
    """End one of the user's sessions, this one included. 404 for anybody else's."""
    assert session.user_id is not None
    if session_id == session.id:
        await session.log_out()
        return
    mine = await services.sessions.list_user(session.user_id)
    if not any(info.id == session_id for info in mine) or not await services.sessions.end(session_id, "ended by user"):
        raise ProblemError(404, "You have no session with this id.")


@router.delete("/v1/sessions", responses=documented(401, 403, 503))
async def end_other_sessions(session: LoginSession, services: ServicesOf) -> EndedSessions:
    """End every session of the user but this one, logins under way included."""
    assert session.user_id is not None
    ended = await services.sessions.end_user(session.user_id, keep=session.id, reason="ended by user")
    return EndedSessions(ended=len(ended))
