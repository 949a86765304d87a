"""BearerMiddleware: what other services' clients are answered."""

import json
from typing import Any

import pytest

from coatcheck import TokenRefused, UsageError
from coatcheck.tokens import AccessClaims, BearerMiddleware, IssuerUnavailable, TokenVerifier, VerifiedToken

CLAIMS = AccessClaims(iss="i", sub="ada", aud=("a",), exp=2e9, iat=1e9, jti="j", sid="s", gen=2)
GOOD = VerifiedToken(CLAIMS, True)


class Verifier(TokenVerifier):
    """Knows the tokens `warm` and `good`; of `away` it can tell nothing."""

    def __init__(self) -> None:
        super().__init__("https://login.example.com", audience="a")
        self.verified: list[str] = []
        self.seen: list[str] = []

    def verify_cached(self, token: str) -> VerifiedToken | None:
        return GOOD if token == "warm" else None

    async def verify(self, token: str) -> VerifiedToken:
        self.verified.append(token)
        if token == "good":
            return GOOD
        if token == "away":
            raise IssuerUnavailable("away", retry_after=3)
        raise TokenRefused("a test does not like it")

    async def start(self) -> None:
        self.seen.append("start")

    async def aclose(self) -> None:
        self.seen.append("close")


class App:
    def __init__(self) -> None:
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})


async def ask(
    *authorization: str, kind: str = "http", extensions: Any = None, state: Any = None, **options: Any
) -> tuple[App, list[Any], Verifier]:
    app, verifier, sent = App(), Verifier(), []
    scope: dict[str, Any] = {
        "type": kind,
        "headers": [(b"authorization", value.encode("latin-1")) for value in authorization],
    }
    if extensions is not None:
        scope["extensions"] = extensions
    if state is not None:
        scope["state"] = state

    messages = ["lifespan.startup", "lifespan.shutdown"] if kind == "lifespan" else ["websocket.connect"]

    async def receive() -> Any:
        return {"type": messages.pop(0)}

    async def send(message: Any) -> None:
        sent.append(message)

    await BearerMiddleware(app, verifier, **options)(scope, receive, send)
    return app, sent, verifier


def header(message: Any, name: bytes) -> bytes | None:
    return next((value for key, value in message["headers"] if key == name), None)


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("value", ["Bearer warm", "bearer good", "BEARER   good "])
async def test_a_good_token_passes_with_its_claims(kind: str, value: str) -> None:
    shared = {"database": 1}
    app, sent, _ = await ask(value, kind=kind, state=shared)
    (scope,) = app.scopes
    assert (scope["coatcheck.token"], scope["state"], sent) == (GOOD, {"database": 1, "token": GOOD}, [])
    assert shared == {"database": 1}  # which all requests have in common


async def test_a_warm_token_is_not_waited_for() -> None:
    _, _, verifier = await ask("Bearer warm")
    assert verifier.verified == []


@pytest.mark.parametrize("value", ["Bearer bad", "Bearer ", "Bearer a b", "Bearer \xe9", 'bearer "x\\'])
@pytest.mark.parametrize("required", [True, False])
async def test_a_bad_token_never_passes_and_is_not_echoed(value: str, required: bool) -> None:
    app, sent, _ = await ask(value, required=required)
    assert (app.scopes, sent[0]["status"]) == ([], 401)
    assert header(sent[0], b"www-authenticate") == b'Bearer error="invalid_token"'
    assert header(sent[0], b"cache-control") == b"no-store"
    problem = json.loads(sent[1]["body"])
    assert problem == {
        "title": "Unauthorized",
        "status": 401,
        "detail": "The access token is not valid, or its session has ended.",
    }


@pytest.mark.parametrize("given", [[], ["Basic YTpi"], ["Bearer"], ["warm"]])
async def test_without_a_token_the_challenge_says_no_error(given: list[str]) -> None:
    app, sent, _ = await ask(*given, realm="orders")
    assert (app.scopes, sent[0]["status"]) == ([], 401)
    assert header(sent[0], b"www-authenticate") == b'Bearer realm="orders"'
    app, sent, _ = await ask(*given, required=False)
    assert app.scopes[0]["coatcheck.token"] is None


async def test_the_realm_stands_before_the_error() -> None:
    _, sent, _ = await ask("Bearer bad", realm="orders")
    assert header(sent[0], b"www-authenticate") == b'Bearer realm="orders", error="invalid_token"'


@pytest.mark.parametrize("required", [True, False])
async def test_two_credentials_are_refused(required: bool) -> None:
    app, sent, _ = await ask("Bearer warm", "Bearer warm", required=required)
    assert (app.scopes, sent[0]["status"]) == ([], 401)
    assert header(sent[0], b"www-authenticate") == b'Bearer error="invalid_request"'


async def test_where_nobody_can_tell_it_is_503_and_when_to_come_back() -> None:
    app, sent, _ = await ask("Bearer away")
    assert (app.scopes, sent[0]["status"], header(sent[0], b"retry-after")) == ([], 503, b"3")
    assert header(sent[0], b"www-authenticate") is None
    assert header(sent[0], b"content-type") == b"application/problem+json"


async def test_a_handshake_is_answered_where_the_server_can_and_closed_where_it_cannot() -> None:
    app, sent, _ = await ask("Bearer bad", kind="websocket", extensions={"websocket.http.response": {}})
    assert (app.scopes, [message["type"] for message in sent], sent[0]["status"]) == (
        [],
        ["websocket.http.response.start", "websocket.http.response.body"],
        401,
    )
    app, sent, _ = await ask("Bearer bad", kind="websocket")
    assert (app.scopes, sent[0]["type"], sent[0]["code"]) == ([], "websocket.close", 1008)


async def test_the_verifier_lives_as_long_as_the_application() -> None:
    _, sent, verifier = await ask(kind="lifespan")
    assert len(sent) == 2
    assert verifier.seen == ["start", "close"]


@pytest.mark.parametrize("realm", ['a"b', "a\\b", "a\nb", "é"])
def test_a_realm_that_would_break_the_header_is_refused(realm: str) -> None:
    with pytest.raises(UsageError):
        BearerMiddleware(App(), Verifier(), realm=realm)
