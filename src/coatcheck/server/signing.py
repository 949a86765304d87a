"""Opens the ring of keys that sign this server's access tokens, and keeps it maintained.

Leaves keys and tokens to `coatcheck.tokens`. Where several machines share the ring, it is in the accounts' database, sealed
with a secret that only the environment has: whoever gets at the database cannot sign.
"""

import asyncio
import base64
import binascii
import logging
import os
from collections.abc import Mapping

from coatcheck.clock import Clock
from coatcheck.errors import CoatcheckError
from coatcheck.sealed import KEY_BYTES, looks_random
from coatcheck.server.errors import StartError
from coatcheck.server.settings import LONGEST_ACCESS_TOKEN, Settings
from coatcheck.tokens import AccessTokens, KeyRing
from coatcheck.tokens.key_file import KeyFile
from coatcheck.tokens.keys import KeyStorage

__all__ = ["MASTER_SECRET", "keep_maintained", "master_secrets", "open_access_tokens", "open_key_ring"]

MASTER_SECRET = "COATCHECK_MASTER_SECRET"  # the variable's name

_log = logging.getLogger("coatcheck.server")

_EVERY = 60.0
"""Seconds between two looks whether a key has to be made or may be forgotten."""


def open_key_ring(settings: Settings, *, clock: Clock | None = None) -> KeyRing:
    """Give the server's ring. Nothing is read or made before it is used. Raises StartError for a weak master secret."""
    # The longest life that can be set, not the one that is: whoever rotates need not know it, and tokens from before
    # it was lowered stay good.
    return KeyRing(
        _storage(settings),
        algorithm=settings.signing_algorithm,
        token_lifetime=LONGEST_ACCESS_TOKEN,
        clock=clock,
    )


def open_access_tokens(settings: Settings, *, clock: Clock | None = None) -> AccessTokens:
    """Give what issues and verifies this server's tokens: it is their issuer, and the audience of its own API."""
    issuer = settings.effective_issuer()
    ring = open_key_ring(settings, clock=clock)
    return AccessTokens(ring, issuer=issuer, audience=issuer, lifetime=settings.access_token_lifetime)


def master_secrets(environment: Mapping[str, str]) -> list[bytes]:
    """Give the secrets in COATCHECK_MASTER_SECRET: the one that seals, and behind it, after a space, older ones.

    Raises StartError where there is none, or one that could be guessed. Says nothing of what is in it.
    """
    mend = "make one with: openssl rand -base64 32"
    words = environment.get(MASTER_SECRET, "").split()
    if not words:
        raise StartError(f'keys = "database" needs the secret that seals them in {MASTER_SECRET}; {mend}')
    found = [_decoded(word) for word in words]
    for number, secret in enumerate(found, 1):
        which = MASTER_SECRET if len(found) == 1 else f"secret {number} in {MASTER_SECRET}"
        if secret is None:
            raise StartError(f"{which} is not base64; {mend}")
        if len(secret) < KEY_BYTES:
            raise StartError(f"{which} has {len(secret)} bytes, and {KEY_BYTES} are needed; {mend}")
        if not looks_random(secret):
            raise StartError(f"{which} is not random; {mend}")
    return [secret for secret in found if secret is not None]


def _storage(settings: Settings) -> KeyStorage:
    if settings.keys == "file":
        return KeyFile(settings.signing_keys_file())
    # Only where it is wanted: it needs what databases are read with.
    from coatcheck.accounts.keys import DatabaseKeys

    return DatabaseKeys(settings.accounts_url(), master_secrets(os.environ))


def _decoded(word: str) -> bytes | None:
    try:
        data = word.encode("ascii").translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return None


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
