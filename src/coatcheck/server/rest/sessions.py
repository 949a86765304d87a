"""One's own sessions over REST: list them, name one, end one, end all others. Other people's do not exist here."""

from fastapi import APIRouter, Response

from coatcheck.server.actions import sessions
from coatcheck.server.commands import Commands
from coatcheck.server.problems import documented
from coatcheck.server.rest.access import LoginSession
from coatcheck.server.rest.models import EndedSessions, SessionList, SessionName, SessionView, session_view
from coatcheck.server.services import ServicesOf

__all__ = ["router"]

router: APIRouter = APIRouter(tags=["sessions"])


@router.get("/v1/sessions", responses=documented(401, 503))
async def list_sessions(session: LoginSession, services: ServicesOf) -> SessionList:
    """Every live session of the user, oldest first."""
    listed = await Commands(services).list(session)
    live = services.live.of(info.id for info in listed.sessions)
    return SessionList(sessions=[session_view(info, session.id, live.get(info.id)) for info in listed.sessions])


@router.patch("/v1/sessions/{session_id}", responses=documented(400, 401, 403, 404, 413, 422, 503))
async def rename_session(
    session_id: str, form: SessionName, session: LoginSession, services: ServicesOf
) -> SessionView:
    """Call the device of one of the user's sessions something. 404 for anybody else's."""
    return session_view(await sessions.rename_session(services, session, session_id, form.name), session.id)


@router.delete(
    "/v1/sessions/{session_id}", status_code=204, response_class=Response, responses=documented(401, 403, 404, 503)
)
async def end_session(session_id: str, session: LoginSession, services: ServicesOf) -> None:
    """End one of the user's sessions, this one included. 404 for anybody else's."""
    await sessions.end_session(services, session, session_id)


@router.delete("/v1/sessions", responses=documented(401, 403, 503))
async def end_other_sessions(session: LoginSession, services: ServicesOf) -> EndedSessions:
    """End every session of the user but this one, logins under way included."""
    return EndedSessions(ended=await Commands(services).end_others(session))
