"""Who attempts a login, by address and by device, and whether they may. Leaves counting to `accounts.throttling`.

A device that has logged in carries a sealed cookie that says to which account, and a number of its own. It gives no access
at all, only an allowance of its own, which nobody else can use up: whoever guesses at an account keeps strange devices out of
it for a while, but never those of its owner. It stays when the session ends. The idea is that of OWASP's device cookies.
"""

import secrets
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from starlette.requests import Request
from starlette.responses import Response

from coatcheck.accounts import Accounts, Allowance, Allowances, Attempt, Throttle, User
from coatcheck.clock import Clock
from coatcheck.cookies import CookiePolicy
from coatcheck.errors import UsageError
from coatcheck.sealed import SealedCookie
from coatcheck.server.cookie_keys import cookie_keys
from coatcheck.server.errors import StartError
from coatcheck.server.settings import Settings, Throttling

__all__ = ["PLAIN_DEVICE", "TLS_DEVICE", "Attempts", "open_attempts"]

TLS_DEVICE = CookiePolicy(name="__Host-device")
PLAIN_DEVICE = CookiePolicy(name="device", secure=False)
"""On plain HTTP, as with the session's cookie: what was sealed for one does not open as the other."""

_MAX_AGE = 365 * 86400
_NONCE_BYTES = 16


class Attempts:
    """Throttles what may be guessed. Use it while `accounts` is started."""

    def __init__(
        self, accounts: Accounts, settings: Throttling, keys: Sequence[bytes], *, clock: Clock | None = None
    ) -> None:
        self._throttle = Throttle(accounts, _allowances(settings), clock=clock)
        self._tls = SealedCookie(TLS_DEVICE, keys, max_age=_MAX_AGE, clock=clock)
        self._plain = SealedCookie(PLAIN_DEVICE, keys, max_age=_MAX_AGE, clock=clock)

    def password(self, request: Request, username: str, user: User | None) -> AbstractAsyncContextManager[Attempt]:
        """Count a password for `username` that is about to be checked (see `Throttle.password`); `user` is whose it is."""
        return self._throttle.password(username, _address(request), self._device(request, user))

    def registration(self, request: Request) -> AbstractAsyncContextManager[Attempt]:
        """Count a registration that is about to be made (see `Throttle.registration`)."""
        return self._throttle.registration(_address(request))

    def remember_device(self, request: Request, response: Response, user: User) -> None:
        """Have the answer to a login make the device known.

        It gets a new number each time: whoever has a copy of the old cookie goes on without the owner.
        """
        line = self._cookie(request).seal([user.id, secrets.token_bytes(_NONCE_BYTES)])
        response.headers.append("set-cookie", line.decode("ascii"))

    def _device(self, request: Request, user: User | None) -> str | None:
        """The device's name among those of the user, if it has logged in to this very account."""
        # Looked at for nobody too, so that it takes as long.
        match self._cookie(request).open(request):
            case [str(owner), bytes(number)] if user is not None and owner == user.id:
                return f"{owner}.{number.hex()}"
            case _:
                return None

    def _cookie(self, request: Request) -> SealedCookie:
        return self._tls if request.url.scheme == "https" else self._plain


def open_attempts(settings: Settings, accounts: Accounts) -> Attempts:
    """Give the server's own, with the keys of its data directory. Raises StartError."""
    path = settings.cookie_keys_file()
    try:
        return Attempts(accounts, settings.throttling, cookie_keys(path))
    except UsageError as error:
        raise StartError(f"{path}: {error}") from None


def _allowances(settings: Throttling) -> Allowances:
    return Allowances(
        account=Allowance(settings.account_attempts, settings.account_period),
        device=Allowance(settings.device_attempts, settings.device_period),
        address=Allowance(settings.address_attempts, settings.address_period),
        registration=Allowance(settings.registrations, settings.registration_period),
    )


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
