"""Opens the ring of keys that sign this server's access tokens, and keeps it maintained. Leaves keys and tokens to `coatcheck.tokens`."""

import asyncio
import logging

from coatcheck.clock import Clock
from coatcheck.errors import CoatcheckError
from coatcheck.server.settings import LONGEST_ACCESS_TOKEN, Settings
from coatcheck.tokens import AccessTokens, KeyRing
from coatcheck.tokens.key_file import KeyFile

__all__ = ["keep_maintained", "open_access_tokens", "open_key_ring"]

_log = logging.getLogger("coatcheck.server")

_EVERY = 60.0
"""Seconds between two looks whether a key has to be made or may be forgotten."""


def open_key_ring(settings: Settings, *, clock: Clock | None = None) -> KeyRing:
    """Give the server's ring. Nothing is read or made before it is used."""
    # The longest life that can be set, not the one that is: whoever rotates need not know it, and tokens from before
    # it was lowered stay good.
    return KeyRing(
        KeyFile(settings.signing_keys_file()),
        algorithm=settings.signing_algorithm,
        token_lifetime=LONGEST_ACCESS_TOKEN,
        clock=clock,
    )


def open_access_tokens(settings: Settings, *, clock: Clock | None = None) -> AccessTokens:
    """Give what issues and verifies this server's tokens: it is their issuer, and the audience of its own API."""
    issuer = settings.effective_issuer()
    ring = open_key_ring(settings, clock=clock)
    return AccessTokens(ring, issuer=issuer, audience=issuer, lifetime=settings.access_token_lifetime)


async def keep_maintained(ring: KeyRing) -> None:
    """Until cancelled: make successors in time, forget what is gone. A failure is told and tried again."""
    while True:
        await asyncio.sleep(_EVERY)
        try:
            # Another process may hold the ring for a moment.
            await asyncio.to_thread(ring.maintain)
        except CoatcheckError as error:
            _log.error("the signing keys were not looked after: %s", error)
        except Exception:
            _log.exception("the signing keys were not looked after")
