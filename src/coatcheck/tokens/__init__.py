"""Access tokens that any service verifies by itself and that still end with their session; and what goes with them.

Needs the extra `tokens` (joserfc). `keys` signs, `access` makes and checks JWTs (RFC 9068), `refresh` exchanges refresh
tokens (RFC 9700). For services without a store: `verifier` and `bearer`, which need the extra `httpx` when they are used.
"""

try:
    import joserfc as _joserfc
except ImportError:
    from coatcheck.errors import MissingDependency

    raise MissingDependency("joserfc", "tokens", "coatcheck.tokens") from None

from coatcheck.errors import TokenRefused
from coatcheck.tokens.access import AccessClaims, AccessTokens
from coatcheck.tokens.bearer import BearerMiddleware
from coatcheck.tokens.errors import IssuerUnavailable
from coatcheck.tokens.keys import KeyRing, KeyState, SigningKey
from coatcheck.tokens.refresh import RefreshRefused, RefreshTokens, TokenPair
from coatcheck.tokens.verifier import TokenVerifier, VerifiedToken

del _joserfc

__all__ = [
    "AccessClaims",
    "AccessTokens",
    "BearerMiddleware",
    "IssuerUnavailable",
    "KeyRing",
    "KeyState",
    "RefreshRefused",
    "RefreshTokens",
    "SigningKey",
    "TokenPair",
    "TokenRefused",
    "TokenVerifier",
    "VerifiedToken",
]
