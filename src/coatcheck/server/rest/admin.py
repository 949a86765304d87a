"""Administration over REST: for administrators only, what changes something after a recent login only, and written down.

Leaves what is done to `actions.administration`. Others get 403, whatever they ask for.
"""

from datetime import datetime
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import HTTPConnection

from coatcheck.accounts import User, UsernameRefused
from coatcheck.integrations.fastapi import require_login
from coatcheck.server.actions import administration, security
from coatcheck.server.metrics import overview_of
from coatcheck.server.problems import ProblemError, documented
from coatcheck.server.rest.access import LoginSession, LoginUser
from coatcheck.server.rest.models import EndedSessions, SessionView, moment, session_view
from coatcheck.server.rest.security import RECENT, History, HistoryView, history, history_view
from coatcheck.server.services import Services, ServicesOf

__all__ = ["router"]

router: APIRouter = APIRouter(tags=["administration"])
_recent = require_login(fresh_within=RECENT)


async def _admin(user: LoginUser) -> User:
    if not user.is_admin:
        raise ProblemError(403, "This is for administrators.")
    return user


async def _fresh_admin(connection: HTTPConnection, user: Annotated[User, Depends(_admin)]) -> User:
    await _recent(connection)
    return user


Admin = Annotated[User, Depends(_admin)]
FreshAdmin = Annotated[User, Depends(_fresh_admin)]


class UserView(BaseModel):
    """One account, as administrators see it."""

    id: str
    username: str
    name: str
    admin: bool
    disabled: bool
    created_at: datetime
    sessions: int = Field(description="How many live sessions the user has.")


class UserList(BaseModel):
    """Accounts in the order of their usernames."""

    users: list[UserView]
    next: str | None = Field(description="For `after`, to go on; null at the end.")


class UserDetails(UserView):
    """One account with what belongs to it."""

    live: list[SessionView] = Field(description="The live sessions, oldest first.")
    events: list[HistoryView] = Field(description="What happened last, newest first.")


class UserChange(BaseModel):
    """What is to be different about an account."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
    disabled: bool | None = Field(default=None, description="Disabling ends the user's sessions.")
    admin: bool | None = Field(default=None, description="Whether the user administers this server.")


class HourView(BaseModel):
    """The logins of one hour, over all nodes."""

    hour: datetime = Field(description="Its begin.")
    logins: int
    failures: int = Field(description="Wrong passwords, passkeys and recovery codes, of users and of nobody.")


class CountedUsers(BaseModel):
    """How many accounts there are."""

    total: int
    disabled: int


class VersionView(BaseModel):
    """What the edge counted of one version of HTTP, since it was started."""

    connections: int
    requests: int
    open: int = Field(description="Connections that are open.")


class StepView(BaseModel):
    """What was asked of the session store, since the server was started."""

    calls: int
    seconds: float
    failures: int


class NodeView(BaseModel):
    """How far one worker can trust its copies of sessions. Negative: it asks the store each time."""

    worker: int
    lease_left_s: float
    feed_lag_s: float


class Overview(BaseModel):
    """How the server is, over all its workers. Counters run since it was started; the difference of two is a rate."""

    at: datetime
    users: CountedUsers
    counters: dict[str, float] = Field(
        description="`logins`, `failed_logins`, `sessions_created`, `sessions_ended`, `requests`, `errors`, `cache_hits`, "
        "`cache_misses`."
    )
    connections: dict[str, int] = Field(description="Open WebSockets and streams of sessions, by kind.")
    http: dict[str, VersionView] = Field(description="By version; empty where there is no edge.")
    store: dict[str, StepView] = Field(description="By step.")
    nodes: list[NodeView]
    hours: list[HourView] = Field(description="Of the last 24 hours, those with anything to count, oldest first.")


class KeyView(BaseModel):
    """One key that access tokens are signed with."""

    kid: str
    algorithm: str
    state: str = Field(examples=["signing"])
    signs_from: datetime
    signs_until: datetime | None
    verifies_until: datetime | None


class KeyList(BaseModel):
    """The keys, oldest first."""

    keys: list[KeyView]


@router.get("/v1/admin/overview", responses=documented(401, 403, 503))
async def show_overview(admin: Admin, services: ServicesOf) -> Overview:
    """How the server is."""
    now = services.sessions.clock.time()
    total, disabled = await services.accounts.count()
    figures = overview_of(services.worker.figures, services.worker.edge_statistics())
    return Overview(
        at=moment(now),
        users=CountedUsers(total=total, disabled=disabled),
        hours=[
            HourView(hour=moment(each.hour * 3600.0), logins=each.logins, failures=each.failures)
            for each in await services.logins.since(now - 86_400)
        ],
        **figures,
    )


@router.get("/v1/admin/users", responses=documented(401, 403, 422, 503))
async def list_users(
    admin: Admin,
    services: ServicesOf,
    query: Annotated[str, Query(max_length=200, description="Part of a username or name.")] = "",
    after: Annotated[str | None, Query(max_length=200, description="Go on from this username.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> UserList:
    """Look for users."""
    try:
        found = await services.accounts.search(query, after=after, limit=limit)
    except UsernameRefused:
        raise ProblemError(422, "There is no such username to go on from.") from None
    views = [await _view(services, user) for user in found]
    return UserList(users=views, next=found[-1].username if len(found) == limit else None)


@router.get("/v1/admin/users/{user_id}", responses=documented(401, 403, 404, 503))
async def show_user_details(user_id: str, admin: Admin, session: LoginSession, services: ServicesOf) -> UserDetails:
    """One user, with sessions and history."""
    user = await administration.user_with(services, user_id)
    live = await services.sessions.list_user(user.id)
    opened = services.live.of(each.id for each in live)
    events = await security.activity_of(services, user.id, before=None, limit=50)
    return UserDetails(
        **_plain(user, len(live)),
        live=[session_view(each, session.id, opened.get(each.id)) for each in live],
        events=[history_view(each) for each in events],
    )


@router.patch("/v1/admin/users/{user_id}", responses=documented(400, 401, 403, 404, 409, 413, 422, 503))
async def change_user(user_id: str, form: UserChange, admin: FreshAdmin, services: ServicesOf) -> UserView:
    """Disable or enable an account, make it an administrator's or no longer one. Needs a login within five minutes.

    409 for what administrators cannot do to themselves, and for the last administrator.
    """
    changed = await administration.change_user(services, admin, user_id, disabled=form.disabled, is_admin=form.admin)
    return await _view(services, changed)


@router.delete("/v1/admin/users/{user_id}/sessions", responses=documented(401, 403, 404, 503))
async def end_users_sessions(
    user_id: str, admin: FreshAdmin, session: LoginSession, services: ServicesOf
) -> EndedSessions:
    """End all sessions of a user; of one's own all but this one. Needs a login within five minutes."""
    return EndedSessions(ended=await administration.end_users(services, admin, session, user_id))


@router.delete(
    "/v1/admin/sessions/{session_id}",
    status_code=204,
    response_class=Response,
    responses=documented(401, 403, 404, 503),
)
async def end_anybodys_session(session_id: str, admin: FreshAdmin, services: ServicesOf) -> None:
    """End anybody's session. Needs a login within five minutes."""
    await administration.end_one(services, admin, session_id)


@router.delete("/v1/admin/sessions", responses=documented(401, 403, 503))
async def end_all_sessions(admin: FreshAdmin, session: LoginSession, services: ServicesOf) -> EndedSessions:
    """End the sessions of everybody but this one, user by user. Needs a login within five minutes."""
    return EndedSessions(ended=await administration.end_everybodys(services, admin, session))


@router.get("/v1/admin/keys", responses=documented(401, 403, 503))
async def list_keys(admin: Admin, services: ServicesOf) -> KeyList:
    """The keys that access tokens are signed with. Public parts only."""
    return _keys(services)


@router.post("/v1/admin/keys/rotate", responses=documented(401, 403, 503))
async def rotate_keys(admin: FreshAdmin, services: ServicesOf) -> KeyList:
    """Announce a new key, which signs once everybody must have seen it. Needs a login within five minutes."""
    await administration.rotate_keys(services, admin)
    return _keys(services)


@router.get("/v1/admin/log", responses=documented(400, 401, 403, 422, 503))
async def show_log(
    admin: Admin,
    services: ServicesOf,
    before: Annotated[str | None, Query(max_length=100, description="Go on from this place.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> History:
    """What administrators did, newest first."""
    try:
        return history(await services.security.of_admins(before=before, limit=limit), limit)
    except ValueError:
        raise ProblemError(400, "There is no such place to go on from.") from None


def _plain(user: User, sessions: int) -> dict[str, Any]:
    return {
        "id": user.id,
        "username": user.username,
        "name": user.name,
        "admin": user.is_admin,
        "disabled": user.disabled,
        "created_at": moment(user.created_at),
        "sessions": sessions,
    }


async def _view(services: Services, user: User) -> UserView:
    return UserView(**_plain(user, len(await services.sessions.list_user(user.id))))


def _keys(services: Services) -> KeyList:
    return KeyList(
        keys=[
            KeyView(
                kid=key.kid,
                algorithm=key.alg,
                state=state.value,
                signs_from=moment(key.signs_from),
                signs_until=None if key.retires_at is None else moment(key.retires_at),
                verifies_until=None if key.gone_at is None else moment(key.gone_at),
            )
            for key, state in services.access.keys.list()
        ]
    )
