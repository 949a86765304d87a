"""Passkeys, recovery codes and the account's history over REST. Leaves what they are worth to `actions` and `accounts`."""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from starlette.requests import Request

from coatcheck.accounts.passkeys import Passkey
from coatcheck.accounts.security_log import Happened
from coatcheck.integrations.fastapi import require_login
from coatcheck.server.actions import logins, security
from coatcheck.server.actions.access import user_of
from coatcheck.server.printable import printable
from coatcheck.server.problems import documented
from coatcheck.server.rest.access import CurrentSession, LoginSession, LoginUser
from coatcheck.server.rest.models import LoggedIn, TokenLogin, login_view, moment
from coatcheck.server.services import ServicesOf
from coatcheck.session import Session

__all__ = ["RECENT", "History", "HistoryView", "history", "history_view", "router"]

RECENT = 300.0
"""Seconds within which the user must have proved who they are for what changes how one logs in (RFC 9470)."""
FreshSession = Annotated[Session, Depends(require_login(fresh_within=RECENT))]

router: APIRouter = APIRouter(tags=["security"])

Credential = Annotated[
    dict[str, Any],
    Field(description="As `PublicKeyCredential.toJSON()` gives it (Web Authentication Level 3, section 5.1.8)."),
]
_SECRET = Annotated[SecretStr, Field(strict=True)]


class _Input(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class PasskeyMade(_Input):
    """What an authenticator made for `/v1/passkeys/options`."""

    name: str = Field(default="", description="What to call it; `Passkey` if left out.", examples=["Ada's phone"])
    credential: Credential


class PasskeyName(_Input):
    """What a passkey is to be called."""

    name: str = Field(examples=["Ada's phone"])


class PasskeyLogin(_Input):
    """What an authenticator answered to `/v1/login/passkey/options`."""

    credential: Credential
    remember: bool = Field(default=False, description="Whether the cookie outlives the browser's session.")
    mode: Literal["cookie", "token"] = Field(default="cookie", description="As for `/v1/login`.")


class PasskeyAgain(_Input):
    """What an authenticator answered to `/v1/reauthenticate/passkey/options`."""

    credential: Credential


class CodeLogin(_Input):
    """A username and one of its recovery codes."""

    username: str = Field(examples=["ada"])
    code: _SECRET = Field(description="With or without its dashes.")
    remember: bool = Field(default=False, description="Whether the cookie outlives the browser's session.")
    mode: Literal["cookie", "token"] = Field(default="cookie", description="As for `/v1/login`.")


class CreationOptions(BaseModel):
    """For `PublicKeyCredential.parseCreationOptionsFromJSON` (Web Authentication Level 3, section 5.1.9)."""

    rp: dict[str, Any]
    user: dict[str, Any]
    challenge: str = Field(description="Good once, for five minutes, in this session.")
    pubKeyCredParams: list[dict[str, Any]]  # noqa: N815 - the standard's name, as are those below
    timeout: int = Field(description="Milliseconds.")
    excludeCredentials: list[dict[str, Any]] = []  # noqa: N815
    authenticatorSelection: dict[str, Any]  # noqa: N815
    attestation: str


class RequestOptions(BaseModel):
    """For `PublicKeyCredential.parseRequestOptionsFromJSON` (Web Authentication Level 3, section 5.1.10)."""

    challenge: str = Field(description="Good once, for five minutes.")
    timeout: int = Field(description="Milliseconds.")
    rpId: str  # noqa: N815
    allowCredentials: list[dict[str, Any]] = []  # noqa: N815
    userVerification: str  # noqa: N815


class PasskeyView(BaseModel):
    """One passkey. Its id gives nobody access."""

    id: str
    name: str
    created_at: datetime
    last_used_at: datetime | None
    transports: list[str] = Field(description="How the authenticator is reached.", examples=[["internal"]])
    backed_up: bool = Field(description="Whether it outlives the device, being kept elsewhere as well.")


class PasskeyList(BaseModel):
    """One's passkeys, oldest first."""

    passkeys: list[PasskeyView]


class SecurityView(BaseModel):
    """How one can log in, and what one is here."""

    admin: bool = Field(description="Whether one administers this server.")
    passkeys: int
    recovery_codes_left: int


class NewCodes(BaseModel):
    """Recovery codes, shown this once."""

    codes: list[str]


class HistoryView(BaseModel):
    """One thing that happened."""

    id: str = Field(description="Its place in the list.")
    kind: str = Field(examples=["created"])
    at: datetime
    session: str | None
    by: str | None = Field(description="The administrator who did it, if one did.")
    detail: dict[str, str] = Field(description="Short texts; escape them.")


class History(BaseModel):
    """What happened, newest first."""

    events: list[HistoryView]
    next: str | None = Field(description="For `before`, to go on; null at the end.")


@router.get("/v1/me/security", responses=documented(401, 503))
async def show_security(user: LoginUser, services: ServicesOf) -> SecurityView:
    """How the user can log in."""
    mine = await services.passkeys.list(user.id)
    return SecurityView(
        admin=user.is_admin, passkeys=len(mine), recovery_codes_left=await services.recovery.left(user.id)
    )


@router.get("/v1/activity", responses=documented(400, 401, 422, 503))
async def show_activity(
    session: LoginSession,
    services: ServicesOf,
    before: Annotated[str | None, Query(max_length=100, description="Go on from this place.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> History:
    """What happened to the user's account and sessions in the last 90 days, newest first."""
    assert session.user_id is not None
    found = await security.activity_of(services, session.user_id, before=before, limit=limit)
    return history(found, limit)


@router.get("/v1/passkeys", responses=documented(401, 503))
async def list_passkeys(session: LoginSession, services: ServicesOf) -> PasskeyList:
    """The user's passkeys, oldest first."""
    assert session.user_id is not None
    return PasskeyList(passkeys=[_passkey(each) for each in await services.passkeys.list(session.user_id)])


@router.post("/v1/passkeys/options", responses=documented(401, 403, 422, 503))
async def begin_adding_passkey(session: FreshSession, services: ServicesOf) -> CreationOptions:
    """What `navigator.credentials.create` is to be told. Needs a login within five minutes."""
    user = await user_of(session, services)
    assert session.id is not None
    return CreationOptions(**await services.passkeys.begin_adding(user, session.id))


@router.post("/v1/passkeys", status_code=201, responses=documented(400, 401, 403, 413, 422, 503))
async def add_passkey(form: PasskeyMade, request: Request, session: FreshSession, services: ServicesOf) -> PasskeyView:
    """Keep what the authenticator made. Needs a login within five minutes."""
    made = await security.add_passkey(services, request, session, name=form.name, credential=form.credential)
    return _passkey(made)


@router.patch("/v1/passkeys/{passkey_id}", responses=documented(400, 401, 403, 404, 413, 422, 503))
async def rename_passkey(
    passkey_id: str, form: PasskeyName, session: LoginSession, services: ServicesOf
) -> PasskeyView:
    """Call one of the user's passkeys something. 404 for anybody else's."""
    return _passkey(await security.rename_passkey(services, session, passkey_id, form.name))


@router.delete(
    "/v1/passkeys/{passkey_id}", status_code=204, response_class=Response, responses=documented(401, 403, 404, 503)
)
async def remove_passkey(passkey_id: str, request: Request, session: FreshSession, services: ServicesOf) -> None:
    """Forget one of the user's passkeys. Needs a login within five minutes. 404 for anybody else's."""
    await security.remove_passkey(services, request, session, passkey_id)


@router.post("/v1/login/passkey/options", responses=documented(401, 403, 503))
async def begin_passkey_login(session: CurrentSession, services: ServicesOf) -> RequestOptions:
    """What `navigator.credentials.get` is to be told by whoever wants to log in."""
    return RequestOptions(**await services.passkeys.begin_login())


@router.post("/v1/login/passkey", responses=documented(400, 401, 403, 413, 422, 429, 503))
async def log_in_by_passkey(
    form: PasskeyLogin, request: Request, response: Response, session: CurrentSession, services: ServicesOf
) -> LoggedIn | TokenLogin:
    """Log in by a passkey; otherwise as `/v1/login`. 401 tells nobody what was wrong."""
    entered = await logins.log_in_by_passkey(
        services,
        request,
        response,
        session,
        credential=form.credential,
        remember=form.remember,
        by_token=form.mode == "token",
    )
    return login_view(entered)


@router.post("/v1/login/recovery", responses=documented(400, 401, 403, 413, 422, 429, 503))
async def log_in_by_code(
    form: CodeLogin, request: Request, response: Response, session: CurrentSession, services: ServicesOf
) -> LoggedIn | TokenLogin:
    """Log in by a recovery code, which is spent by it; otherwise as `/v1/login`."""
    entered = await logins.log_in_by_code(
        services,
        request,
        response,
        session,
        username=form.username,
        code=form.code.get_secret_value(),
        remember=form.remember,
        by_token=form.mode == "token",
    )
    return login_view(entered)


@router.post("/v1/reauthenticate/passkey/options", responses=documented(401, 403, 422, 503))
async def begin_again(session: LoginSession, services: ServicesOf) -> RequestOptions:
    """What `navigator.credentials.get` is to be told by a user who is to prove again who they are."""
    user = await user_of(session, services)
    assert session.id is not None
    return RequestOptions(**await services.passkeys.begin_again(user, session.id))


@router.post("/v1/reauthenticate/passkey", responses=documented(400, 401, 403, 413, 422, 429, 503))
async def reauthenticate_by_passkey(
    form: PasskeyAgain, request: Request, session: LoginSession, services: ServicesOf
) -> LoggedIn | TokenLogin:
    """Prove again who one is, by a passkey; otherwise as `/v1/reauthenticate`."""
    return login_view(await logins.reauthenticate_by_passkey(services, request, session, credential=form.credential))


@router.post("/v1/recovery-codes", responses=documented(401, 403, 503))
async def make_recovery_codes(request: Request, session: FreshSession, services: ServicesOf) -> NewCodes:
    """New recovery codes, shown this once, in place of the ones before. Needs a login within five minutes."""
    return NewCodes(codes=await security.make_codes(services, request, session))


def history(found: list[Happened], limit: int) -> History:
    """Show what happened, and where to go on."""
    return History(events=[history_view(each) for each in found], next=found[-1].id if len(found) == limit else None)


def history_view(happened: Happened) -> HistoryView:
    """Show one thing that happened."""
    return HistoryView(
        id=happened.id,
        kind=happened.kind,
        at=moment(happened.at),
        session=happened.session_id,
        by=None if happened.by is None else printable(happened.by),
        detail={name: printable(text) for name, text in happened.detail.items() if name != "session"},
    )


def _passkey(passkey: Passkey) -> PasskeyView:
    return PasskeyView(
        id=passkey.id,
        name=passkey.name,
        created_at=moment(passkey.created_at),
        last_used_at=None if passkey.last_used_at is None else moment(passkey.last_used_at),
        transports=list(passkey.transports),
        backed_up=passkey.backed_up,
    )
