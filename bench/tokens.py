"""What an access token costs: verified by itself beside PyJWT and joserfc, and as the credential of a request.

All contenders check the same token of the same claims: signature, issuer, audience and times, with their keys parsed
before. Coatcheck's warm verification remembers tokens that it has checked; its cold one has never seen this one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jwt as pyjwt
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import ECKey
from joserfc.jwt import JWTClaimsRegistry

from bench.in_process import BARE, BROWSER, VALUES, CountedSessions, application, block
from bench.rounds import Block, collector, measure
from coatcheck import Session, SessionMiddleware
from coatcheck.tokens import AccessTokens, KeyRing

__all__ = ["ITEMS", "Item", "run"]

ISSUER = "https://app.example"
SECRET = "a secret of the benchmark's own, of 32 bytes at least"

NOTHING = "empty call"
PYJWT = "PyJWT, ES256"
PYJWT_HS256 = "PyJWT, HS256"
JOSERFC = "joserfc, ES256"
COLD = "Coatcheck, a token never seen"
WARM = "Coatcheck, a token seen before"
PYJWT_REQUEST = "PyJWT, ES256, no session"
COOKIE = "Coatcheck, cookie, SQLite"
BEARER = "Coatcheck, bearer, SQLite"

Verify = Callable[[str], Any]


class Item(NamedTuple):
    """One thing to do; see `bench.report.Measured`. `pace` scales the number of rounds."""

    name: str
    share: float | None
    bare: str
    reference: str
    judged: str
    pace: float = 0.25


ALONE = Item("verification of an access token", 1 / 20, NOTHING, PYJWT, WARM)
IN_REQUEST = Item("a request that asks who it is, by cookie and by bearer", 1 / 20, BARE, PYJWT_REQUEST, BEARER)
ITEMS = (ALONE, IN_REQUEST)


class Site:
    """A logged-in session with its two credentials, and what verifies the token."""

    def __init__(self, sessions: CountedSessions) -> None:
        self.sessions = sessions
        self.keys = KeyRing()
        self.tokens = AccessTokens(self.keys, issuer=ISSUER, audience=ISSUER)
        private = self.keys.signing()[1]
        self._public = pyjwt.PyJWK(private.as_dict(private=False), algorithm="ES256").key
        self._joserfc = ECKey.import_key(private.as_dict(private=False))
        exact = {"iss": ISSUER, "aud": ISSUER}
        self._registry = JWTClaimsRegistry(**{name: {"essential": True, "value": exact[name]} for name in exact})  # pyright: ignore[reportArgumentType]

    async def log_in(self) -> tuple[str, bytes]:
        """Give an access token and a cookie of one session."""
        session: Session = await self.sessions.load(None)
        session.update(VALUES)
        await session.log_in("user123")
        assert session.record is not None
        assert session.cookie_change is not None
        cookie = f"__Host-session={session.cookie_change.token}"
        return self.tokens.issue(session.record)[0], cookie.encode("ascii")

    def pyjwt(self, token: str) -> Any:
        return pyjwt.decode(token, self._public, algorithms=["ES256"], issuer=ISSUER, audience=ISSUER)

    def pyjwt_hs256(self, token: str) -> Any:
        return pyjwt.decode(token, SECRET, algorithms=["HS256"], issuer=ISSUER, audience=ISSUER)

    def joserfc(self, token: str) -> Any:
        found = joserfc_jwt.decode(token, self._joserfc, algorithms=["ES256"])
        self._registry.validate(found.claims)
        return found.claims

    def cold(self, token: str) -> Any:
        # Without memory; making it costs less than a microsecond.
        return AccessTokens(self.keys, issuer=ISSUER, audience=ISSUER).verify(token)

    def contenders(self, token: str) -> dict[str, tuple[Verify, str]]:
        """Give what verifies, and what token. Raises RuntimeError for one that does not do its work."""
        claims = self.pyjwt(token)
        same = pyjwt.encode(claims, SECRET, algorithm="HS256", headers={"typ": "at+jwt"})
        found: dict[str, tuple[Verify, str]] = {
            PYJWT: (self.pyjwt, token),
            PYJWT_HS256: (self.pyjwt_hs256, same),
            JOSERFC: (self.joserfc, token),
            COLD: (self.cold, token),
            WARM: (self.tokens.verify, token),
        }
        for name, (verify, good) in found.items():
            answer = verify(good)
            if "user123" != (answer["sub"] if isinstance(answer, dict) else answer.sub):
                raise RuntimeError(f"{name} did not read the token")
            signature = good.rpartition(".")[2]
            try:
                verify(good.replace(signature, signature[::-1]))
            except Exception:
                continue
            raise RuntimeError(f"{name} took a token that was not signed")
        return found

    def pyjwt_application(self) -> Any:
        """The least that a JWT costs a request: no session that can end, no look at the store, no Vary."""
        respond = application(None)

        async def verified(scope: Any, receive: Any, send: Any) -> None:
            header = next(value for name, value in scope["headers"] if name == b"authorization")
            _known(self.pyjwt(header[7:].decode("ascii"))["sub"])
            await respond(scope, receive, send)

        return verified


def _who(session: Session) -> None:
    _known(session.user_id)


def _known(user_id: str | None) -> None:
    if user_id != "user123":
        raise RuntimeError("the request was not its user's")


def _calls(verify: Verify, token: str) -> Block:
    async def run(size: int) -> None:
        for _ in range(size):
            verify(token)

    return run


def _nothing(token: str) -> None:
    pass


async def run(
    directory: Path, *, rounds: int, size: int, seed: int, collect: bool, tell: Callable[[str], None]
) -> dict[str, dict[str, list[float]]]:
    """Give, by item and contender, the microseconds per call of each round. The SQLite file is made in `directory`.

    Raises RuntimeError if a contender does not check its token, or a request that must be warm asked its store.
    """
    async with CountedSessions(f"sqlite:///{directory / 'tokens.sqlite3'}") as sessions:
        site = Site(sessions)
        token, cookie = await site.log_in()
        alone = {NOTHING: _calls(_nothing, token)}
        alone |= {name: _calls(verify, given) for name, (verify, given) in site.contenders(token).items()}
        bearer = [*BROWSER, (b"authorization", b"Bearer " + token.encode("ascii"))]
        app: Any = SessionMiddleware(application(_who), sessions, tokens=site.tokens)  # pyright: ignore[reportArgumentType]
        requests = {
            BARE: block(application(None), BROWSER),
            PYJWT_REQUEST: block(site.pyjwt_application(), bearer),
            COOKIE: block(app, [*BROWSER, (b"cookie", cookie)]),
            BEARER: block(app, bearer),
        }
        asked = sessions.asked
        results: dict[str, dict[str, list[float]]] = {}
        for item, blocks in ((ALONE, alone), (IN_REQUEST, requests)):
            tell(item.name)
            with collector(on=collect):
                results[item.name] = await measure(
                    blocks, rounds=max(20, int(rounds * item.pace)), size=size, seed=seed
                )
        if sessions.asked != asked:
            raise RuntimeError(f"{IN_REQUEST.name}: a request was not warm, so this measured the store")
    return results
