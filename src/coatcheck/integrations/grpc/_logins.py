"""`require_login` for single methods of a servicer. Leaves whole servers to `SessionInterceptor(require_login=True)`."""

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

from coatcheck.errors import UsageError
from coatcheck.integrations.grpc.answers import Answer, log_in_again, log_in_first
from coatcheck.session import Session, current_session

__all__ = ["demand", "require_login"]

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
    if fresh_within is not None and not fresh_within > 0:
        raise UsageError(f"fresh_within={fresh_within!r} must be a positive number of seconds, or None")

    def refusal() -> Answer | None:
        return demand(current_session(), fresh_within)

    def decorate(handler: H) -> H:
        # grpc tells the kinds apart by what a function is, so each gets a wrapper of its own kind.
        if inspect.isasyncgenfunction(handler):
            wrapped = _async_generator(handler, refusal)
        elif inspect.iscoroutinefunction(handler):
            wrapped = _coroutine(handler, refusal)
        elif inspect.isgeneratorfunction(handler):
            wrapped = _generator(handler, refusal)
        else:
            wrapped = _function(handler, refusal)
        return cast("H", functools.update_wrapper(wrapped, handler))

    return decorate


def demand(session: Session, fresh_within: float | None = None) -> Answer | None:
    """Tell why a session is not enough; None where it is."""
    if not session.is_authenticated:
        return log_in_first()
    if fresh_within is not None and not session.is_fresh(fresh_within):
        return log_in_again(fresh_within)
    return None


Refusal = Callable[[], Answer | None]
Handler = Callable[..., Any]

# A method is called with self, request and context, a plain function with the last two.


def _async_generator(handler: Handler, refusal: Refusal) -> Handler:
    async def wrapped(*arguments: Any) -> Any:
        if (answer := refusal()) is not None:
            await answer.give(arguments[-1])
        async with contextlib.aclosing(handler(*arguments)) as responses:
            async for response in responses:
                yield response

    return wrapped


def _coroutine(handler: Handler, refusal: Refusal) -> Handler:
    async def wrapped(*arguments: Any) -> Any:
        if (answer := refusal()) is not None:
            await answer.give(arguments[-1])
        return await handler(*arguments)

    return wrapped


def _generator(handler: Handler, refusal: Refusal) -> Handler:
    def wrapped(*arguments: Any) -> Any:
        if (answer := refusal()) is not None:
            answer.give_from_thread(arguments[-1])
        yield from handler(*arguments)

    return wrapped


def _function(handler: Handler, refusal: Refusal) -> Handler:
    def wrapped(*arguments: Any) -> Any:
        if (answer := refusal()) is not None:
            answer.give_from_thread(arguments[-1])
        return handler(*arguments)

    return wrapped
