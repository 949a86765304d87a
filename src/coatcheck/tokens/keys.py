"""The keys that sign access tokens, from announcement to oblivion. Leaves tokens to `access`, files to `key_file`.

A key is announced in the JWKS for longer than the JWKS may be cached before it signs; it signs; it is retired and
verifies until its last token has run out; then it is gone. All of that is told by the clock and four times that stand
in the ring, so every process that reads the same ring agrees without a word.
"""

import enum
from collections.abc import Iterable
from typing import Any, Literal, Protocol, cast

import msgspec
from joserfc.jwk import ECKey, OKPKey

from coatcheck.clock import Clock, SystemClock
from coatcheck.errors import UsageError

__all__ = ["Algorithm", "KeyRing", "KeyState", "KeyStorage", "SigningKey"]

Algorithm = Literal["ES256", "Ed25519"]

JWKS_MAX_AGE = 300.0
"""For how long, in seconds, others may keep a copy of the JWKS (Cache-Control of `/.well-known/jwks.json`)."""

_ANNOUNCE = 2 * JWKS_MAX_AGE
_LOOK_AGAIN = 1.0
_MOST_KEYS = 16


class KeyState(enum.Enum):
    """Where a key stands in its life."""

    ANNOUNCED = "announced"
    SIGNING = "signing"
    RETIRED = "retired"
    GONE = "gone"


class SigningKey(msgspec.Struct, frozen=True, kw_only=True):
    """One private key and its times (seconds since 1970). `kid` is its thumbprint (RFC 7638)."""

    kid: str
    alg: Algorithm
    jwk: dict[str, str]
    """The private JWK (RFC 7517). Secret."""
    created_at: float
    signs_from: float
    retires_at: float | None = None
    """From then on it signs no more; None while no successor is announced."""
    gone_at: float | None = None
    """From then on it verifies no more."""

    def __repr__(self) -> str:
        return f"<SigningKey {self.kid} {self.alg}>"

    def state(self, now: float) -> KeyState:
        """Where the key stands at a time."""
        if self.gone_at is not None and now >= self.gone_at:
            return KeyState.GONE
        if self.retires_at is not None and now >= self.retires_at:
            return KeyState.RETIRED
        return KeyState.SIGNING if now >= self.signs_from else KeyState.ANNOUNCED


class KeyStorage(Protocol):
    """Where a ring is kept. `version` changes whenever the keys do; `update` is one step among all processes."""

    def version(self) -> object:
        """Something cheap to ask that differs after each change."""
        ...

    def load(self) -> list[SigningKey]:
        """Read the keys; none where nothing is kept yet. Raises UsageError for what is no ring or is open to others."""
        ...

    def update(self, change: "Change") -> list[SigningKey]:
        """Give the keys to `change` and keep what it answers, with nobody in between; answer it."""
        ...


class Change(Protocol):
    """What an update does: keys in, keys out."""

    def __call__(self, keys: list[SigningKey], /) -> list[SigningKey]: ...


class MemoryKeys:
    """A ring in this process alone, for tests and for services that sign for nobody else."""

    def __init__(self) -> None:
        self._keys: list[SigningKey] = []
        self._version = 0

    def version(self) -> object:
        """How often it changed."""
        return self._version

    def load(self) -> list[SigningKey]:
        """Give the keys."""
        return list(self._keys)

    def update(self, change: Change) -> list[SigningKey]:
        """Change the keys."""
        self._keys = change(list(self._keys))
        self._version += 1
        return self.load()


class _Loaded(msgspec.Struct, frozen=True):
    """A key as joserfc uses it."""

    record: SigningKey
    key: Any


class KeyRing:
    """Gives the key to sign with and the keys to verify with, and rotates them.

    - `algorithm`: of new keys, `ES256` (default) or `Ed25519` (the name of RFC 9864)
    - `token_lifetime`: the longest life of an access token in seconds: for so long a retired key verifies
    - `rotate_every`: seconds for which a key signs before `maintain` announces its successor (30 days)
    """

    def __init__(
        self,
        storage: KeyStorage | None = None,
        *,
        algorithm: Algorithm = "ES256",
        token_lifetime: float = 300.0,
        rotate_every: float = 30 * 86_400.0,
        clock: Clock | None = None,
    ) -> None:
        if algorithm not in ("ES256", "Ed25519"):
            raise UsageError(f"{algorithm!r} is no algorithm for access tokens here: choose 'ES256' or 'Ed25519'")
        if rotate_every <= 2 * _ANNOUNCE:
            raise UsageError(f"rotate_every={rotate_every:g} must be more than {2 * _ANNOUNCE:g} seconds")
        self.algorithm: Algorithm = algorithm
        self.token_lifetime = token_lifetime
        self.rotate_every = rotate_every
        self.clock: Clock = clock or SystemClock()
        self._storage: KeyStorage = storage or MemoryKeys()
        self._loaded: dict[str, _Loaded] = {}
        self._version: object = None
        self._looked = float("-inf")
        self.changes: int = 0
        """How often this process has seen the ring change. Whoever remembers verified tokens forgets them then."""

    # ---- what tokens need

    def signing(self) -> tuple[SigningKey, Any]:
        """Give the key that signs now, and joserfc's form of it. Makes the first one."""
        now = self.clock.time()
        self.look()
        found = self._signing(now)
        if found is None:
            self.maintain()
            found = self._signing(self.clock.time())  # a key that was just made signs from just now
        if found is None:
            raise UsageError("the ring has no key that signs: its clock runs behind the one that made the keys")
        return found.record, found.key

    def verifying(self, kid: str) -> tuple[SigningKey, Any] | None:
        """Give the key that a token names, unless it is unknown or gone."""
        self.look()
        if kid not in self._loaded:
            # Another process may have made it a moment ago, and sign with it already.
            self.look(at_once=True)
        found = self._loaded.get(kid)
        if found is None or found.record.state(self.clock.time()) is KeyState.GONE:
            return None
        return found.record, found.key

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Give the public keys as a JWK Set (RFC 7517, section 5)."""
        self.look()
        now = self.clock.time()
        return {
            "keys": [
                {**loaded.key.as_dict(private=False), "kid": kid, "alg": loaded.record.alg, "use": "sig"}
                for kid, loaded in self._loaded.items()
                if loaded.record.state(now) is not KeyState.GONE
            ]
        }

    # ---- what operators need

    def list(self) -> list[tuple[SigningKey, KeyState]]:
        """Give every key with its state, oldest first."""
        self.look(at_once=True)
        now = self.clock.time()
        keys = sorted((loaded.record for loaded in self._loaded.values()), key=lambda key: key.created_at)
        return [(key, key.state(now)) for key in keys]

    def maintain(self) -> None:
        """Make the first key, announce a successor in time, forget what is gone. Cheap where nothing is to do."""
        self.look(at_once=True)
        now = self.clock.time()
        newest = max((loaded.record.signs_from for loaded in self._loaded.values()), default=None)
        gone = any(loaded.record.state(now) is KeyState.GONE for loaded in self._loaded.values())
        if gone or newest is None or now >= newest + self.rotate_every - _ANNOUNCE or self._signing(now) is None:
            self._take(self._storage.update(self._maintained))

    def rotate(self) -> SigningKey:
        """Announce a new key, which signs once everybody must have seen it. Harmless for tokens in flight."""
        made = self._new_key(self.clock.time() + _ANNOUNCE)

        def announce(keys: "Iterable[SigningKey]") -> "list[SigningKey]":
            return [*(self._ending(key, made.signs_from) for key in self._unforgotten(keys)), made]

        self._take(self._storage.update(lambda keys: self._bounded(announce(keys))))
        return made

    def retire(self, kid: str) -> None:
        """End a key at once, as when it was stolen: its tokens are refused from now on, and a new key signs.

        Others learn of it when their copy of the JWKS runs out. Raises UsageError for a key that is not there.
        """
        now = self.clock.time()

        def end(keys: "Iterable[SigningKey]") -> "list[SigningKey]":
            kept = list(keys)
            if not any(key.kid == kid for key in kept):
                raise UsageError(f"there is no key {kid}: `coatcheck keys list` names those that are there")
            left = [
                msgspec.structs.replace(key, retires_at=now, gone_at=now) if key.kid == kid else key for key in kept
            ]
            if not any(key.state(now) is KeyState.SIGNING for key in left):
                left.append(self._new_key(now))
            return left

        self._take(self._storage.update(lambda keys: self._bounded(end(keys))))

    # ---- inside

    def _maintained(self, keys: "Iterable[SigningKey]") -> "list[SigningKey]":
        # Decided again with the storage held: another process may have done it meanwhile.
        now = self.clock.time()
        kept = self._unforgotten(keys)
        if not any(key.state(now) is KeyState.SIGNING for key in kept):
            kept.append(self._new_key(now))
            return kept
        newest = max(key.signs_from for key in kept)
        if now >= newest + self.rotate_every - _ANNOUNCE:
            made = self._new_key(now + _ANNOUNCE)
            kept = [*(self._ending(key, made.signs_from) for key in kept), made]
        return kept

    def _unforgotten(self, keys: "Iterable[SigningKey]") -> "list[SigningKey]":
        now = self.clock.time()
        return [key for key in keys if key.state(now) is not KeyState.GONE]

    def _bounded(self, keys: "list[SigningKey]") -> "list[SigningKey]":
        if len(keys) > _MOST_KEYS:
            raise UsageError(f"the ring has {_MOST_KEYS} keys already: wait until old ones are gone")
        return keys

    def _ending(self, key: SigningKey, at: float) -> SigningKey:
        """A key that has a successor signs until that one does, and verifies until its last token has run out."""
        if key.retires_at is not None and key.retires_at <= at:
            return key
        # A minute for clocks that disagree, and for a worker that looked at the ring a moment ago.
        return msgspec.structs.replace(key, retires_at=at, gone_at=at + self.token_lifetime + 60.0)

    def _new_key(self, signs_from: float) -> SigningKey:
        key = ECKey.generate_key("P-256") if self.algorithm == "ES256" else OKPKey.generate_key("Ed25519")
        return SigningKey(
            kid=key.thumbprint(),
            alg=self.algorithm,
            jwk=cast("dict[str, str]", key.as_dict(private=True)),
            created_at=self.clock.time(),
            signs_from=signs_from,
        )

    def _signing(self, now: float) -> _Loaded | None:
        signing = [each for each in self._loaded.values() if each.record.state(now) is KeyState.SIGNING]
        return max(signing, key=lambda each: each.record.signs_from, default=None)

    def look(self, *, at_once: bool = False) -> None:
        """Notice what other processes did to the ring, at most once a second."""
        now = self.clock.monotonic()
        if not at_once and now - self._looked < _LOOK_AGAIN:
            return
        self._looked = now
        version = self._storage.version()
        if version != self._version or not self._loaded:
            keys = self._storage.load()
            self._version = version
            self._take(keys, version=version)

    def _take(self, keys: "list[SigningKey]", *, version: object = None) -> None:
        loaded: dict[str, _Loaded] = {}
        for record in keys:
            load = ECKey if record.alg == "ES256" else OKPKey
            key = load.import_key(cast("Any", record.jwk))
            if key.thumbprint() != record.kid:
                raise UsageError(
                    f"the key {record.kid} is not what its thumbprint says: restore the ring from a backup"
                )
            loaded[record.kid] = _Loaded(record, key)
        self._loaded = loaded
        # After an update of our own the storage is looked at once more: another process may have changed it since.
        self._version = version
        self.changes += 1
