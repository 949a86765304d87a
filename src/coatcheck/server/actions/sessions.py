"""One's own sessions by request and answer: end one, name one. Other people's do not exist here. Leaves doing it to `commands`."""

from coatcheck.manager import SessionInfo
from coatcheck.server.commands import Commands
from coatcheck.server.problems import ProblemError
from coatcheck.server.services import Services
from coatcheck.session import Session

__all__ = ["end_session", "rename_session"]


async def end_session(services: Services, session: Session, session_id: str) -> None:
    """End one of the user's sessions, the one that asks included. Raises ProblemError with 404 for anybody else's."""
    if session_id == session.id:
        await session.log_out()  # so that the answer deletes its cookie
    elif not await Commands(services).end(session, session_id):
        raise _none()


async def rename_session(services: Services, session: Session, session_id: str, name: str) -> SessionInfo:
    """Call the device of one of the user's sessions something. Raises ProblemError with 404, and NameRefused."""
    renamed = await Commands(services).rename(session, session_id, name)
    if renamed is None:
        raise _none()
    return renamed


def _none() -> ProblemError:
    return ProblemError(404, "You have no session with this id.")
