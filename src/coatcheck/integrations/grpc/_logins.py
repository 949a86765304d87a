"""`require_login` and `require_fresh` for single methods of a servicer. Leaves whole servers to `SessionInterceptor`."""

import asyncio
import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

from coatcheck.credentials import Refusal
from coatcheck.integrations._login_demand import LoginDemand
from coatcheck.integrations.grpc.answers import Answer, refused
from coatcheck.session import Session, current_session

__all__ = ["LOGIN", "Demand", "require_fresh", "require_login"]

H = TypeVar("H", bound=Callable[..., Any])


def require_login(*, fresh_within: float | None = None) -> Callable[[H], H]:
    """Demand a logged-in user for one method: the call ends with UNAUTHENTICATED before the method runs.

        class Orders(OrdersServicer):
            @require_login(fresh_within=300)
            async def Cancel(self, request, context): ...

    For async and sync methods of every kind. With `fresh_within` the user must have proved who they are within that many
    seconds. Without a SessionInterceptor the method raises UsageError, and so lets nobody in. Raises UsageError for a
    `fresh_within` that is not positive.
    """
    return _decorator(Demand(fresh_within))


def require_fresh(*, fresh_within: float | None = None) -> Callable[[H], H]:
    """Demand a logged-in user as the store has it at this moment, past every copy: for the method that must ask.

    `require_login` believes this node's copy, which on another node's logout may be as old as `max_staleness` while the
    feed fails. This costs one read of the store for each call, and is UNAVAILABLE where it cannot be asked.
    """
    return _decorator(Demand(fresh_within, from_store=True))


class Demand:
    """What is demanded of a call's session, and what a call is answered that does not meet it."""

    def __init__(self, fresh_within: float | None = None, *, from_store: bool = False) -> None:
        self._demand = LoginDemand(fresh_within)
        self._from_store = from_store

    def unmet_by(self, session: Session) -> Answer | None:
        """Tell why a session will not do; None where it will."""
        return _answer(self._demand.unmet_by(session))

    async def unmet(self) -> Answer | None:
        """Tell why the current session will not do. Raises StoreUnavailable where the store must be asked."""
        session = current_session()
        if self._from_store:
            return _answer(await self._demand.unmet_in_store(session))
        return self.unmet_by(session)

    def unmet_in_thread(self) -> Answer | None:
        """The same, for sync methods."""
        session = current_session()
        if self._from_store:
            assert session.loop is not None
            asked = asyncio.run_coroutine_threadsafe(self._demand.unmet_in_store(session), session.loop)
            return _answer(asked.result())
        return self.unmet_by(session)


LOGIN = Demand()


def _answer(refusal: Refusal | None) -> Answer | None:
    if refusal is None:
        return None
    if (
        refusal.challenge == "Bearer"
    ):  # with nothing to say of an error: there was no credential (RFC 6750, section 3.1)
        refusal = refusal._replace(detail="Nobody is logged in.")
    return refused(refusal)


def _decorator(demand: Demand) -> Callable[[H], H]:
    def decorate(handler: H) -> H:
        # grpc tells the kinds apart by what a function is, so each gets a wrapper of its own kind.
        if inspect.isasyncgenfunction(handler):
            wrapped = _async_generator(handler, demand)
        elif inspect.iscoroutinefunction(handler):
            wrapped = _coroutine(handler, demand)
        elif inspect.isgeneratorfunction(handler):
            wrapped = _generator(handler, demand)
        else:
            wrapped = _function(handler, demand)
        return cast("H", functools.update_wrapper(wrapped, handler))

    return decorate


Handler = Callable[..., Any]

# A method is called with self, request and context, a plain function with the last two.


def _async_generator(handler: Handler, demand: Demand) -> Handler:
    async def wrapped(*arguments: Any) -> Any:
        if (answer := await demand.unmet()) is not None:
            await answer.give(arguments[-1])
        async with contextlib.aclosing(handler(*arguments)) as responses:
            async for response in responses:
                yield response

    return wrapped


def _coroutine(handler: Handler, demand: Demand) -> Handler:
    async def wrapped(*arguments: Any) -> Any:
        if (answer := await demand.unmet()) is not None:
            await answer.give(arguments[-1])
        return await handler(*arguments)

    return wrapped


def _generator(handler: Handler, demand: Demand) -> Handler:
    def wrapped(*arguments: Any) -> Any:
        if (answer := demand.unmet_in_thread()) is not None:
            answer.give_from_thread(arguments[-1])
        yield from handler(*arguments)

    return wrapped


def _function(handler: Handler, demand: Demand) -> Handler:
    def wrapped(*arguments: Any) -> Any:
        if (answer := demand.unmet_in_thread()) is not None:
            answer.give_from_thread(arguments[-1])
        return handler(*arguments)

    return wrapped
