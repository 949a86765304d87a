"""One call with a token, and once more with another: what it is made with, and whether that helps. Leaves making it to `_client`."""

import time
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from coatcheck.integrations._refreshing import RefreshFailed, SessionOver
from coatcheck.integrations.grpc._endings import Ending

if TYPE_CHECKING:
    from coatcheck.integrations.httpx import TokenAuth

__all__ = ["Attempts", "Details"]

Details = grpc.aio.ClientCallDetails


# Errors of ours that are gRPC's as well: whoever catches those goes on, and grpc itself does not know what to do with others.


class _CallWithoutSession(grpc.aio.AioRpcError, SessionOver):
    pass


class _CallWithoutToken(grpc.aio.AioRpcError, RefreshFailed):
    pass


_NOTHING = grpc.aio.Metadata(), grpc.aio.Metadata()


class Attempts:
    """The details of one call: as it is made first, and as it is made once more."""

    def __init__(self, auth: "TokenAuth", details: Details) -> None:
        self._auth = auth
        self._details = details
        self._deadline = None if details.timeout is None else time.monotonic() + details.timeout
        self._token: str | None = None

    async def first(self) -> Details:
        """Raises SessionOver and RefreshFailed."""
        if "authorization" in (self._details.metadata or ()):
            return self._details
        self._token = await self._another()
        return self._carrying(self._token)

    async def second(self) -> Details:
        """Raises SessionOver and RefreshFailed."""
        return self._carrying(await self._another(self._token))

    async def refused(self, ending: Ending) -> bool:
        """Wait for a call's end; tell whether it may end otherwise with another token."""
        word = await ending.word()
        if word.code is not grpc.StatusCode.UNAUTHENTICATED or self._token is None:
            return False
        # Ours say why (RFC 6750, section 3.1). Of others there is nothing to be known but the status.
        challenges = [value for name, value in word.trailing or () if name == "www-authenticate"]
        return not challenges or any("invalid_token" in challenge for challenge in challenges)

    def doubt(self) -> None:
        """Too late for this call; but the next need not try the same token."""
        if self._token is not None:
            self._auth.doubt(self._token)

    async def _another(self, refused: str | None = None) -> str:
        try:
            return await self._auth.access_token(instead_of=refused)
        except SessionOver as error:
            raise _CallWithoutSession(grpc.StatusCode.UNAUTHENTICATED, *_NOTHING, str(error)) from error
        except RefreshFailed as error:
            raise _CallWithoutToken(grpc.StatusCode.UNAVAILABLE, *_NOTHING, str(error)) from error

    def _carrying(self, token: str) -> Details:
        metadata = grpc.aio.Metadata(*(self._details.metadata or ()), ("authorization", f"Bearer {token}"))
        # Where nothing is left this is negative, and grpc sends nothing.
        left = None if self._deadline is None else self._deadline - time.monotonic()
        details = self._details
        return Details(details.method, left, metadata, details.credentials, details.wait_for_ready)
