"""The session as a handler sees it: its values, who it belongs to, and the verbs. Leaves storing and policy to its keeper.

Mapping changes wait for the response; verbs are written when awaited. What a request may still do once its session has
ended or its secret has changed elsewhere: read on, and get its answer. What it writes is dropped.
"""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from coatcheck.clock import Clock
from coatcheck.errors import LoginRefused, SessionEnded, StoreUnavailable, UsageError
from coatcheck.ids import make_token
from coatcheck.record import Changes, Identity, SessionRecord
from coatcheck.values import Key, SessionValues, decode_value, encode_value

__all__ = ["CookieChange", "Keeper", "Session", "SyncVerbs", "current_session", "session_of"]

T = TypeVar("T")

_NO_VALUES: Mapping[str, bytes] = MappingProxyType({})
_NO_TEXT: Mapping[str, str] = MappingProxyType({})
_MODIFY_ATTEMPTS = 100

_current: contextvars.ContextVar["Session"] = contextvars.ContextVar("coatcheck_session")


class CookieChange(NamedTuple):
    """What the response must tell the client: a new token with its Max-Age in seconds, or None to forget the cookie."""

    token: str | None
    max_age: int | None = None


class Keeper(Protocol):
    """What a session needs of its manager. Every method that writes has written when it returns."""

    @property
    def clock(self) -> Clock: ...

    @property
    def lifetime(self) -> float:
        """Seconds from login to the absolute end."""
        ...

    def new_id(self) -> str: ...

    def new_secret(self) -> tuple[str, bytes]:
        """A secret and its hash."""
        ...

    async def epoch(self, user_id: str) -> int: ...

    async def create(self, record: SessionRecord) -> None: ...

    async def apply(
        self, record: SessionRecord, changes: Changes, *, expect_version: int | None = None
    ) -> SessionRecord | None:
        """Merge changes if the session lives and its secret is still the record's; else None."""
        ...

    async def end_record(self, record: SessionRecord, reason: str) -> bool:
        """End the session if it lives and its secret is still the record's; tell whether it did."""
        ...

    async def fresh(self, session_id: str) -> SessionRecord | None:
        """Ask the store itself. None where the session has ended or expired."""
        ...

    async def logged_in(self, record: SessionRecord) -> None:
        """Called after every login."""
        ...


class Session(SessionValues):
    """A mutable mapping that knows who it is. Made by `Sessions`; handlers get it from `session_of(request)`.

    Reading it makes the response depend on the cookie; a session that did not change is not written.
    """

    __slots__ = (
        "_keeper",
        "_over",
        "_remember",
        "_silent",
        "_token",
        "by_bearer",
        "cookie_change",
        "loop",
        "record",
    )

    def __init__(
        self, keeper: Keeper, record: SessionRecord | None = None, token: bytes | None = None, *, silent: bool = False
    ) -> None:
        # SessionValues.__init__ written out: every request makes a session, and the call would be a third of that.
        self._raw = _NO_VALUES if record is None else record.values
        self._held = self._deleted = self._typed = self._lent = self._base = None
        self.used: bool = False
        self._keeper = keeper
        self.record: SessionRecord | None = record
        """The record as this request last saw it; None for a visitor of whom nothing is stored."""
        self._token = token
        self.by_bearer: bool = False
        """Whether an access token brought the request: then no cookie is ever set or deleted in its response."""
        self._silent = silent  # a replaced or ended token: nothing is made for it, and its cookie is left alone
        self._over = False
        self.cookie_change: CookieChange | None = None
        """What the response must tell the client, or None for nothing."""
        self._remember: bool | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop that the request runs on, once it does."""

    # ---- who

    @property
    def id(self) -> str | None:
        """The public id; None for a visitor of whom nothing is stored."""
        self.used = True
        return None if self.record is None else self.record.id

    @property
    def user_id(self) -> str | None:
        """Whose session it is; None before login."""
        self.used = True
        return None if self.record is None else self.record.user_id

    @property
    def is_authenticated(self) -> bool:
        """Whether somebody is logged in."""
        self.used = True
        return self.record is not None and self.record.user_id is not None

    @property
    def is_new(self) -> bool:
        """Whether nothing is stored of this visitor yet."""
        self.used = True
        return self.record is None

    @property
    def created_at(self) -> float | None:
        """Seconds since 1970; None before anything is stored."""
        self.used = True
        return None if self.record is None else self.record.created_at

    @property
    def authenticated_at(self) -> float | None:
        """When the user last proved who they are, in seconds since 1970."""
        self.used = True
        return None if self.record is None else self.record.authenticated_at

    @property
    def last_seen_at(self) -> float | None:
        """When this node or the store last heard of the session, before this request; seconds since 1970."""
        self.used = True
        return None if self.record is None else self.record.last_seen_at

    @property
    def expires_at(self) -> float | None:
        """When the session ends whatever happens, in seconds since 1970."""
        self.used = True
        return None if self.record is None else self.record.expires_at

    @property
    def about(self) -> Mapping[str, str]:
        """What was seen of the client at login (user agent, address, …)."""
        self.used = True
        return _NO_TEXT if self.record is None else self.record.about

    @property
    def generation(self) -> int:
        """How often the secret was replaced, counted from 1; 0 before anything is stored."""
        return 0 if self.record is None else self.record.generation

    def is_fresh(self, within: float) -> bool:
        """Tell whether the user proved who they are within the last `within` seconds."""
        at = self.authenticated_at
        return at is not None and self._keeper.clock.time() - at <= within

    def mark_accessed(self) -> None:
        """Say that the response depends on the session (Starlette calls this)."""
        self.used = True

    @property
    def sync(self) -> "SyncVerbs":
        """The verbs for code that runs in a thread pool: each blocks its thread until it is done."""
        return SyncVerbs(self)

    # ---- verbs

    async def log_in(
        self,
        user_id: str,
        *,
        epoch: int | None = None,
        remember: bool | None = None,
        about: Mapping[str, str] | None = None,
    ) -> None:
        """Make this the session of a user, under a new secret; the old one is dead in the same step.

        Read `epoch` (`await sessions.epoch(user_id)`) before you check the password and pass it: then a "log out
        everywhere" that ran meanwhile wins, and LoginRefused is raised. What an anonymous visitor stored is kept;
        another user's data is not. `remember` lets the cookie outlive the browser. The lifetime starts again.
        """
        self.used = True
        if not user_id:
            raise UsageError("log_in needs the id of a user: an empty one belongs to nobody")
        if epoch is None:
            epoch = await self._keeper.epoch(user_id)
        record = None if self._over else self.record
        now = self._keeper.clock.time()
        secret, secret_hash = self._keeper.new_secret()
        if record is None and (self._over or self._silent):
            # A silenced request holds values that were written without authority: they are not carried into the login.
            self.rebase(_NO_VALUES)
        values = self.all_encoded() if record is None else {}
        if record is not None:
            switching = record.user_id is not None and record.user_id != user_id
            changed, deleted = ({}, frozenset[str]()) if switching else self.difference()
            merged = await self._keeper.apply(
                record,
                Changes(
                    set=changed,
                    delete=deleted,
                    remember=self._remember if remember is None else remember,
                    identity=Identity(
                        secret_hash=secret_hash,
                        at=now,
                        user_id=user_id,
                        epoch=epoch,
                        authenticated_at=now,
                        expires_at=now + self._keeper.lifetime,
                        about={**({} if switching else record.about), **(about or {})},
                        clear_values=switching,
                    ),
                ),
            )
            if merged is not None:
                if switching:
                    self.rebase(_NO_VALUES)
                self._adopt(merged, secret, changed, deleted)
                await self._keeper.logged_in(merged)
                return
            # The session that the request came with is over, or not the request's any more: it is left alone.
            self.rebase(_NO_VALUES)
        created = SessionRecord(
            id=self._keeper.new_id(),
            secret_hash=secret_hash,
            created_at=now,
            expires_at=now + self._keeper.lifetime,
            last_seen_at=now,
            user_id=user_id,
            epoch=epoch,
            authenticated_at=now,
            remember=bool(self._remember if remember is None else remember),
            values=values,
            about=dict(about or {}),
        )
        await self._keeper.create(created)
        self._adopt(created, secret, values, frozenset())
        await self._keeper.logged_in(created)

    async def log_out(self) -> None:
        """End the session. What is stored afterwards goes into a new, anonymous one. Harmless where nobody is logged in."""
        await self._end("logout")
        self._over = False

    async def end(self, reason: str = "ended") -> None:
        """End the session for good: nothing that this request stores is kept."""
        await self._end(reason)

    async def regenerate(self) -> None:
        """Exchange the secret, as at each change of privilege. Pending changes are stored with it. Raises SessionEnded."""
        record = self._live("regenerate")
        secret, secret_hash = self._keeper.new_secret()
        changed, deleted = self.difference()
        current = record
        while True:
            identity = Identity(
                secret_hash=secret_hash,
                at=self._keeper.clock.time(),
                user_id=current.user_id,
                epoch=current.epoch,
                authenticated_at=current.authenticated_at,
                expires_at=current.expires_at,
                about=current.about,
            )
            try:
                merged = await self._keeper.apply(
                    current, Changes(set=changed, delete=deleted, identity=identity, remember=self._remember)
                )
                break
            except LoginRefused:
                # The user's other sessions were ended, and this one was kept under a new epoch; or it was not.
                found = await self._keeper.fresh(record.id)
                if found is None or found.generation != record.generation:
                    raise self._lost() from None
                current = found
        if merged is None:
            raise self._lost()
        self._adopt(merged, secret, changed, deleted)

    async def save(self) -> None:
        """Store pending changes now. Raises SessionEnded where the session is over or has moved on."""
        if self._over:
            raise self._lost()
        await self._store()
        if self._over:
            raise self._lost()

    async def reload(self) -> None:
        """Read the session exactly as the store has it; pending changes are dropped. Raises SessionEnded."""
        record = self._live("reload")
        found = await self._keeper.fresh(record.id)
        if found is None or found.generation != record.generation:
            raise self._lost()
        self.record = found
        self.rebase(found.values)

    async def modify(self, key: "str | Key[T]", function: Callable[[Any], Any]) -> Any:
        """Replace one value by a function of itself, with nobody in between; give the new value.

        `function` gets the value as this request has changed it, or the Key's default, or None; it may be called several
        times and must not keep or await anything. Other pending changes stay pending. Raises SessionEnded.
        """
        typed = key if isinstance(key, Key) else None
        name = key.name if isinstance(key, Key) else key
        if self._over:
            raise self._lost()
        if self.record is None:
            await self._store(even_if_empty=True)
        record = self._live("modify")
        changed, mine = self.pending(name)
        current: SessionRecord | None = record
        for _ in range(_MODIFY_ATTEMPTS):
            if current is None or current.generation != record.generation:
                break
            stored = current.values.get(name)
            data = mine if changed else stored
            if data is not None:
                old = decode_value(data) if typed is None else typed.parse(decode_value(data))
            else:
                old = None if typed is None else typed.fallback()
            new = function(old)
            encoded = encode_value(name, new if typed is None else typed.plain(new))
            if encoded == stored:
                merged: SessionRecord | None = await self._keeper.fresh(record.id)
                # Nothing to write; but what was read must still be so.
                if merged is not None and merged.version != current.version:
                    current = merged
                    continue
            else:
                merged = await self._keeper.apply(record, Changes(set={name: encoded}), expect_version=current.version)
            if merged is not None:
                self.record = merged
                self.take(name, new, merged.values)
                return new
            current = await self._keeper.fresh(record.id)
        else:
            raise StoreUnavailable(
                f"session[{name!r}] was changed by others {_MODIFY_ATTEMPTS} times in a row: try again"
            )
        raise self._lost()

    def remember(self, keep: bool = True) -> None:
        """Let the cookie outlive the browser's session, or not. Max-Age is what is left of the absolute lifetime."""
        self.used = True
        self._remember = keep

    # ---- what the middleware asks

    def needs_commit(self) -> bool:
        """Tell whether there is something to store. Raises TypeError for a value that cannot be."""
        if not (self._held or self._deleted or self._lent) and self._remember is None:  # touched(), without the call
            return False
        if self._over:
            return False
        changed, deleted = self.difference()
        return bool(changed or deleted) or self._remember is not None

    async def commit(self, *, cookie: bool = True) -> bool:
        """Store pending changes at the end of a request; tell whether all of it found its place.

        Changes to a session that is over or has moved on are dropped: that is no error. With `cookie` false the
        response has left already and can carry no new cookie: then no new session is made.
        """
        if self._over or (self.record is None and (self._silent or not cookie)):
            return not self.touched()
        await self._store()
        return True

    def discard(self) -> None:
        """Drop pending changes."""
        self.rebase(self._raw)
        self._remember = None

    # ---- inside

    async def _store(self, *, even_if_empty: bool = False) -> None:
        record = self.record
        if record is None:
            if self._silent:
                raise self._lost()
            values = self.all_encoded()
            if values or even_if_empty:
                await self._create(values)
            return
        changed, deleted = self.difference()
        remember = None if self._remember is None or self._remember == record.remember else self._remember
        if not changed and not deleted and remember is None:
            self._remember = None
            return
        merged = await self._keeper.apply(record, Changes(set=changed, delete=deleted, remember=remember))
        if merged is None:
            self._over = True
            self.cookie_change = None
            return
        self.record = merged
        self._remember = None
        self.settle(merged.values, changed, deleted)
        if remember is not None and self._token is not None:
            self._set_cookie(merged, self._token.decode("ascii"))

    async def _create(self, values: Mapping[str, bytes]) -> None:
        now = self._keeper.clock.time()
        secret, secret_hash = self._keeper.new_secret()
        created = SessionRecord(
            id=self._keeper.new_id(),
            secret_hash=secret_hash,
            created_at=now,
            expires_at=now + self._keeper.lifetime,
            last_seen_at=now,
            remember=bool(self._remember),
            values=values,
        )
        await self._keeper.create(created)
        self.record = created
        self._remember = None
        self._silent = False
        self.settle(values, values, frozenset())
        self._set_cookie(created, make_token(created.id, secret))

    def _adopt(self, record: SessionRecord, secret: str, written: Mapping[str, bytes], deleted: frozenset[str]) -> None:
        self.record = record
        self._over = False
        self._silent = False
        self._remember = None
        self.settle(record.values, written, deleted)
        self._set_cookie(record, make_token(record.id, secret))

    def _set_cookie(self, record: SessionRecord, token: str) -> None:
        self._token = token.encode("ascii")
        left = max(0, int(record.expires_at - self._keeper.clock.time()))
        self.cookie_change = CookieChange(token, left if record.remember else None)

    async def _end(self, reason: str) -> None:
        self.used = True
        record = self.record
        self.rebase(_NO_VALUES)
        self._remember = None
        self._over = True
        if record is None:
            return
        mine = await self._keeper.end_record(record, reason)
        self.record = None
        self._token = None
        # Whoever ended it otherwise has told the client, or another request has got a new secret: no word from here.
        self.cookie_change = CookieChange(None) if mine else None
        self._silent = not mine

    def _live(self, verb: str) -> SessionRecord:
        self.used = True
        if self._over:
            raise self._lost()
        if self.record is None:
            raise UsageError(
                f"nothing is stored of this visitor yet, so there is nothing to {verb}: store something first"
            )
        return self.record

    def _lost(self) -> SessionEnded:
        self._over = True
        if self.record is not None:
            self.cookie_change = None  # of a session that this request has not ended itself, the client hears nothing
        return SessionEnded("the session has ended, or its secret has changed, since this request read it")


class SyncVerbs:
    """`session.sync`: the verbs of a session for threads. Each raises what the verb raises.

    On the event loop's own thread they would wait for themselves, so there they raise UsageError.
    """

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def _run(self, verb: Coroutine[Any, Any, T]) -> T:
        loop = self._session.loop
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if loop is None or here is not None:
            verb.close()
            if here is not None:
                raise UsageError(
                    "session.sync is for threads: in a coroutine await the verb itself, as session.log_in(…)"
                )
            raise UsageError("session.sync works in requests that came through SessionMiddleware")
        return asyncio.run_coroutine_threadsafe(verb, loop).result()

    def log_in(
        self,
        user_id: str,
        *,
        epoch: int | None = None,
        remember: bool | None = None,
        about: Mapping[str, str] | None = None,
    ) -> None:
        """See `Session.log_in`."""
        self._run(self._session.log_in(user_id, epoch=epoch, remember=remember, about=about))

    def log_out(self) -> None:
        """See `Session.log_out`."""
        self._run(self._session.log_out())

    def end(self, reason: str = "ended") -> None:
        """See `Session.end`."""
        self._run(self._session.end(reason))

    def regenerate(self) -> None:
        """See `Session.regenerate`."""
        self._run(self._session.regenerate())

    def save(self) -> None:
        """See `Session.save`."""
        self._run(self._session.save())

    def reload(self) -> None:
        """See `Session.reload`."""
        self._run(self._session.reload())

    def modify(self, key: "str | Key[Any]", function: Callable[[Any], Any]) -> Any:
        """See `Session.modify`."""
        return self._run(self._session.modify(key, function))


def current_session() -> Session:
    """Give the session of the request that this code runs for, in coroutines and in thread pools.

    Raises UsageError outside of a request, or where SessionMiddleware is missing.
    """
    session = _current.get(None)
    if session is None:
        raise UsageError("there is no current session: SessionMiddleware has not seen this call")
    return session


def session_of(request: object) -> Session:
    """Give the session of a request: a Starlette, FastAPI or Litestar request or WebSocket, or an ASGI scope.

    Raises UsageError where SessionMiddleware has not seen the request.
    """
    scope = cast("object", request if isinstance(request, MutableMapping) else getattr(request, "scope", None))
    session = cast("MutableMapping[str, object]", scope).get("session") if isinstance(scope, MutableMapping) else None
    if not isinstance(session, Session):
        raise UsageError("this request has no Coatcheck session: add SessionMiddleware to the application")
    return session


enter: Callable[[Session], "contextvars.Token[Session]"] = _current.set
"""Make a session the current one; `leave` undoes it. For middleware and interceptors, which set `loop` where there is one."""

leave: Callable[["contextvars.Token[Session]"], None] = _current.reset
