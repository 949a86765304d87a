"""Statuses other than OK in gRPC's words: why a call goes no further, or why a stream ends. Leaves deciding it to others."""

from typing import Any, NamedTuple, Never

import grpc

from coatcheck.connections import Interruption, TooSlow
from coatcheck.credentials import BAD_TOKEN, Refusal

__all__ = ["Answer", "Metadata", "refused", "stream_ended"]

Metadata = tuple[tuple[str, str | bytes], ...]

_CODES: dict[int, grpc.StatusCode] = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_LONGEST = 200


class Answer(NamedTuple):
    """A status other than OK, as a call ends with it.

    `trailing` says what HTTP says in headers: `www-authenticate` (RFC 6750) beside UNAUTHENTICATED, and beside UNAVAILABLE
    `grpc-retry-pushback-ms`, by which gRPC's clients wait before they try again.
    """

    code: grpc.StatusCode
    details: str
    trailing: Metadata = ()

    async def give(self, context: Any) -> Never:
        """End the call with it. Always raises."""
        await context.abort(self.code, self.details, self._trailing(context))
        raise AssertionError("aborting raises")

    def give_from_thread(self, context: Any) -> Never:
        """End the call with it, for sync handlers. Always raises."""
        context.abort(self.code, self.details, self._trailing(context))
        raise AssertionError("aborting raises")

    def _trailing(self, context: Any) -> Metadata:
        return (*context.trailing_metadata(), *self.trailing)


def refused(refusal: Refusal) -> Answer:
    """Give what a refusal is in gRPC."""
    trailing: Metadata = ()
    if refusal.status == 401:
        trailing = (("www-authenticate", refusal.challenge),)
    elif refusal.retry_after is not None:
        trailing = (("grpc-retry-pushback-ms", str(1000 * refusal.retry_after)),)
    return Answer(_CODES[refusal.status], refusal.detail, trailing)


def stream_ended(reason: str) -> Answer:
    """Give what a stream ends with that did not end by itself."""
    if isinstance(reason, TooSlow):
        return Answer(grpc.StatusCode.RESOURCE_EXHAUSTED, str(reason))
    if isinstance(reason, Interruption):
        return Answer(grpc.StatusCode.UNAVAILABLE, str(reason))
    return refused(Refusal(401, f"session ended: {reason}"[:_LONGEST], BAD_TOKEN.challenge))
