"""One's own sessions: list them, end one, end all others. Other people's do not exist here."""

from coatcheck.manager import SessionInfo
from coatcheck.server.problems import ProblemError
from coatcheck.server.services import Services
from coatcheck.session import Session

__all__ = ["end_own_session", "end_own_sessions", "own_sessions"]

_REASON = "ended by user"


async def own_sessions(services: Services, session: Session) -> list[SessionInfo]:
    """Give every live session of the user who is logged in, oldest first."""
    assert session.user_id is not None
    return await services.sessions.list_user(session.user_id)


async def end_own_session(services: Services, session: Session, session_id: str) -> None:
    """End one of the user's sessions, this one included. Raises ProblemError with 404 for anybody else's."""
    if session_id == session.id:
        await session.log_out()
        return
    mine = await own_sessions(services, session)
    if not any(info.id == session_id for info in mine) or not await services.sessions.end(session_id, _REASON):
        raise ProblemError(404, "You have no session with this id.")


async def end_own_sessions(services: Services, session: Session) -> int:
    """End every session of the user but this one, logins under way included; give their number."""
    assert session.user_id is not None
    return len(await services.sessions.end_user(session.user_id, keep=session.id, reason=_REASON))
