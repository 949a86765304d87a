"""The session as Flask knows it: with `permanent`, `modified`, flashed messages, and verbs that run on the sessions' thread.

Leaves what they do to `session.Session`, and when it is stored to `_flask_interface`.
"""

from abc import ABCMeta
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar, cast

from flask.sessions import SessionMixin
from markupsafe import Markup

from coatcheck.integrations._sessions_thread import thread_of
from coatcheck.manager import Sessions
from coatcheck.session import Session, SyncVerbs
from coatcheck.values import Key

__all__ = ["FlaskSession"]

T = TypeVar("T")

_FLASHES = "_flashes"


class FlaskSession(Session):
    """What `flask.session` stands for: a `coatcheck.Session` with the attributes that Flask's own has.

    Use the verbs as `session.sync.log_in(user_id)` in a view, and as `await session.log_in(user_id)` in an async one.
    """

    # Nothing of its own: so a Session becomes one by a change of class, and a warm request copies nothing.
    __slots__ = ()

    @classmethod
    def of(cls, session: Session) -> "FlaskSession":
        """Make a session a FlaskSession, the same object."""
        session.__class__ = cls
        return cast("FlaskSession", session)

    # ---- what Flask asks

    @property
    def permanent(self) -> bool:
        """Whether the cookie outlives the browser's session; setting it is `remember`. Costs nothing where it is so already."""
        self.mark_accessed()
        if self._remember is not None:
            return self._remember
        return self.record is not None and self.record.remember

    @permanent.setter
    def permanent(self, value: bool) -> None:
        if self.permanent is not bool(value):
            self.remember(bool(value))

    @property
    def new(self) -> bool:
        """Whether nothing is stored of this visitor yet."""
        return self.is_new

    @property
    def modified(self) -> bool:
        """Whether there is something to store. Setting it does nothing: what is changed in place is noticed."""
        return self.needs_commit()

    @modified.setter
    def modified(self, value: bool) -> None:
        pass

    @property
    def accessed(self) -> bool:
        """Whether anybody looked at it: then the response depends on the cookie, and says so (`Vary`)."""
        return self.used

    @accessed.setter
    def accessed(self, value: bool) -> None:
        if value:
            self.mark_accessed()

    # Flashed messages are tuples, and may be Markup. Neither could be stored as it is, and both must come back.

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        return _shown(value) if key == _FLASHES else value

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, _stored(value) if key == _FLASHES else value)

    # ---- verbs

    @property
    def sync(self) -> SyncVerbs:
        """The verbs for code that is not in a coroutine: each waits until it is done."""
        return _Verbs(self)

    async def log_in(
        self,
        user_id: str,
        *,
        epoch: int | None = None,
        remember: bool | None = None,
        about: Mapping[str, str] | None = None,
    ) -> None:
        """See `Session.log_in`."""
        await self._reach(super().log_in(user_id, epoch=epoch, remember=remember, about=about))

    async def log_out(self) -> None:
        """See `Session.log_out`."""
        await self._reach(super().log_out())

    async def end(self, reason: str = "ended") -> None:
        """See `Session.end`."""
        await self._reach(super().end(reason))

    async def regenerate(self) -> None:
        """See `Session.regenerate`."""
        await self._reach(super().regenerate())

    async def save(self) -> None:
        """See `Session.save`."""
        await self._reach(super().save())

    async def reload(self) -> None:
        """See `Session.reload`."""
        await self._reach(super().reload())

    async def modify(self, key: "str | Key[T]", function: Callable[[Any], Any]) -> Any:
        """See `Session.modify`."""
        return await self._reach(super().modify(key, function))

    async def _reach(self, verb: Coroutine[Any, Any, T]) -> T:
        # An async view runs on a loop that ends with it; the store's connections belong to another.
        return await thread_of(cast("Sessions", self._keeper)).reach(verb)


# Not a base: its instances have a __dict__, and so a Session could not become one.
ABCMeta.register(cast("ABCMeta", SessionMixin), FlaskSession)


class _Verbs(SyncVerbs):
    """`session.sync` on the sessions' thread."""

    __slots__ = ()

    def _run(self, verb: Coroutine[Any, Any, T]) -> T:
        return thread_of(cast("Sessions", self._session._keeper)).run(verb)  # pyright: ignore[reportPrivateUsage]


def _stored(flashes: Any) -> Any:
    if not isinstance(flashes, list):
        return flashes
    return [
        [str(category), str(message.__html__()), True]
        if hasattr(message, "__html__")
        else [str(category), str(message)]
        for category, message, *_ in cast("list[Any]", flashes)
    ]


def _shown(flashes: Any) -> Any:
    if not isinstance(flashes, list):
        return flashes
    # What becomes Markup here was Markup when it was flashed.
    return [
        (category, Markup(message) if markup else message)  # noqa: S704
        for category, message, *markup in cast("list[Any]", flashes)
    ]
