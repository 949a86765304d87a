"""TokenVerifier before a real issuer: who is let in while the feed lives, and who when it does not."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest

from coatcheck import MissingDependency, TokenRefused, UsageError
from coatcheck.accounts import ServiceAccounts
from coatcheck.server import revocation_feed
from coatcheck.server.rest import revocations as server
from coatcheck.stores.contract import Change
from coatcheck.tokens import IssuerUnavailable, TokenVerifier, VerifiedToken, issuer
from coatcheck.tokens import revocations as client_side
from tests.clients.streaming import StreamingTransport
from tests.core.server.house import ORIGIN, House, bearer, log_in_for_tokens, session_id

AUDIENCE = "https://orders.example.com"
FEED, VERIFY, KEYS = "/v1/revocations", "/v1/verify", "/.well-known/jwks.json"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation_feed, "HEARTBEAT", 0.02)
    monkeypatch.setattr(client_side, "_FIRST_RETRY", 0.02)
    monkeypatch.setattr(client_side, "_LAST_RETRY", 0.05)


class World:
    """An issuer, a network, and what a service needs to know."""

    def __init__(self, house: House, service: tuple[str, str]) -> None:
        self.house = house
        self.clock = house.clock
        self.service = service
        self.network = StreamingTransport(house.app)
        self.made: list[TokenVerifier] = []

    def verifier(self, **options: Any) -> TokenVerifier:
        options = {"service": self.service, "transport": self.network, "clock": self.clock} | options
        made = TokenVerifier(ORIGIN, audience=AUDIENCE, **options)
        self.made.append(made)
        return made

    async def live(self, **options: Any) -> TokenVerifier:
        """A verifier whose feed is live, and complete for tokens that are issued from now on."""
        made = self.verifier(**options)
        await made.start()
        await until(lambda: made.feed_live)
        self.clock.advance(client_side.CLOCKS + 1)
        await until(lambda: made.feed_live)
        return made

    async def token(self, name: str = "ada") -> tuple[httpx.AsyncClient, str]:
        """A browser that is logged in, and its token for the service."""
        browser = await self.house.log_in(name)
        answer = await browser.post("/v1/token", json={"audience": AUDIENCE})
        assert answer.status_code == 200, answer.text
        return browser, answer.json()["access_token"]


@asynccontextmanager
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with House(tmp_path) as house:
        service, secret = await ServiceAccounts(house.accounts).add("orders", [AUDIENCE])
        made = World(house, (service.id, secret))
        await server.feed_of(house.services, _api_state(house)).start()
        try:
            yield made
        finally:
            for verifier in made.made:
                await verifier.aclose()


def _api_state(house: House) -> Any:
    class State: ...

    return State()


async def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        await asyncio.sleep(0.005)


async def refused(verifier: TokenVerifier, token: str, seconds: float = 10.0) -> float:
    """Wait until the token is refused; give how long that took."""
    begun = time.monotonic()
    while True:
        try:
            await verifier.verify(token)
        except TokenRefused:
            return time.monotonic() - begun
        assert time.monotonic() - begun < seconds, "it was never refused"
        await asyncio.sleep(0.002)


# ---- with a feed


async def test_while_the_feed_lives_nobody_is_asked_about_a_token(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        verifier = await w.live()
        browser, token = await w.token()
        found = await verifier.verify(token)
        assert (found.feed_live, found.claims.sid) == (True, await session_id(browser))
        assert verifier.verify_cached(token) == found
        assert w.network.asked(VERIFY) == 0
        assert w.network.asked(KEYS) == 1


async def test_an_ended_session_is_refused_as_soon_as_it_is_told(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        verifier = await w.live()
        browser, token = await w.token()
        _, other = await w.token("bob")
        await verifier.verify(token)
        await browser.post("/v1/logout")
        assert await refused(verifier, token) < 1.0
        assert (await verifier.verify(other)).feed_live
        assert w.network.asked(VERIFY) == 0


async def test_tokens_from_before_the_secret_changed_are_refused_and_later_ones_are_not(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        verifier = await w.live()
        await w.house.register("ada")
        browser, token = await w.token()
        await verifier.verify(token)
        assert (await browser.post("/v1/reauthenticate", json={"password": "correct horse"})).status_code == 200
        await refused(verifier, token)
        later = (await browser.post("/v1/token", json={"audience": AUDIENCE})).json()["access_token"]
        assert (await verifier.verify(later)).feed_live
        assert w.network.asked(VERIFY) == 0


async def test_a_token_from_before_the_feed_is_asked_for_once(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        _, token = await w.token()
        gone, dead = await w.token("bob")
        await gone.post("/v1/logout")
        verifier = await w.live()
        for _ in range(5):
            assert (await verifier.verify(token)).feed_live
            w.clock.advance(10)
            await until(lambda: verifier.feed_live)
        assert w.network.asked(VERIFY) == 1
        with pytest.raises(TokenRefused):
            await verifier.verify(dead)


async def test_log_out_everywhere_is_known_though_no_index_knew_the_session(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        verifier = await w.live()
        _, token = await w.token()
        claims = (await verifier.verify(token)).claims
        # As with an index that is damaged: the user is told, and no session.
        tell(w.house, Change("user", claims.sub))
        await until(lambda: verifier._revocations.needs(claims) > 0)
        assert (await verifier.verify(token)).feed_live
        assert w.network.asked(VERIFY) == 1
        strict = await w.live(on_feed_loss="refuse")
        _, fresh = await w.token()
        tell(w.house, Change("user", claims.sub))
        await refused(strict, fresh)


async def test_after_a_gap_everything_from_before_is_asked_for_again(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        verifier = await w.live()
        _, token = await w.token()
        claims = (await verifier.verify(token)).claims
        assert w.network.asked(VERIFY) == 0
        tell(w.house, Change("missed"))
        await until(lambda: verifier._revocations.needs(claims) > 0)
        for _ in range(3):
            assert (await verifier.verify(token)).feed_live
            w.clock.advance(10)
            await until(lambda: verifier.feed_live)
        assert w.network.asked(VERIFY) == 1


@pytest.mark.parametrize("policy", ["refuse", "accept_until_exp"])
async def test_after_a_gap_the_other_policies_ask_nobody(tmp_path: Path, policy: Any) -> None:
    async with world(tmp_path) as w:
        verifier = await w.live(on_feed_loss=policy)
        _, token = await w.token()
        claims = (await verifier.verify(token)).claims
        tell(w.house, Change("missed"))
        await until(lambda: verifier._revocations.needs(claims) > 0)
        if policy == "refuse":
            with pytest.raises(TokenRefused, match="a new one will do"):
                await verifier.verify(token)
        else:
            assert not (await verifier.verify(token)).feed_live
        w.clock.advance(client_side.CLOCKS + 1)
        await until(lambda: verifier.feed_live)
        _, later = await w.token()
        assert (await verifier.verify(later)).feed_live
        assert w.network.asked(VERIFY) == 0


async def test_what_ended_while_the_feed_was_cut_is_told_when_it_is_back(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        verifier = await w.live()
        w.clock.advance(30)
        await until(lambda: verifier.feed_live)
        browser, token = await w.token()
        claims = (await verifier.verify(token)).claims
        w.network.away = True
        w.network.cut()
        await browser.post("/v1/logout")
        w.network.away = False
        await until(lambda: verifier._revocations.revoked(claims))
        assert verifier._revocations.needs(claims) == 0  # it went on where it was: no gap
        assert w.network.requests[-1].headers["last-event-id"].isdigit()
        await refused(verifier, token)
        assert w.network.asked(VERIFY) == 0


async def test_another_worker_goes_on_where_one_left(tmp_path: Path) -> None:
    (tmp_path / "runtime").mkdir()
    async with world(tmp_path) as w, House(tmp_path) as second:
        second.clock = w.clock
        second.sessions.clock = w.clock
        second.store.inner._clock = w.clock  # type: ignore[attr-defined]
        # The same store, another process as far as anything tells.
        w.network.apps.append(second.app)
        other = w.verifier(transport=StreamingTransport(second.app))
        await other.start()
        await until(lambda: other.feed_live)
        w.clock.advance(60)
        verifier = await w.live()
        browser, token = await w.token()
        claims = (await verifier.verify(token)).claims
        w.house.worker.leave()
        await browser.post("/v1/logout")
        await until(lambda: verifier._revocations.revoked(claims))
        assert verifier._revocations.needs(claims) == 0


def tell(house: House, change: Change) -> None:
    """As the store's feed does."""
    feed = house.sessions._feed
    assert feed is not None
    for listener in feed.listeners:
        listener(change)


# ---- without a feed


@asynccontextmanager
async def deaf(w: World, policy: str, *, how: str) -> AsyncIterator[tuple[TokenVerifier, httpx.AsyncClient, str]]:
    """A verifier whose feed was live once, and is not any more."""
    verifier = await w.live(on_feed_loss=policy)
    browser, token = await w.token()
    assert (await verifier.verify(token)).feed_live
    app = w.network.apps[0]
    if how == "cut":

        async def without_feed(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "path": "/nowhere"} if scope["path"] == FEED else scope, receive, send)

        w.network.apps[:] = [without_feed]
        w.network.cut()
    elif how == "half-open":
        for body in w.network.open:
            body.deaf = True
    else:
        w.house.store.feed_cut = True  # heartbeats come, and confirm nothing new
        await asyncio.sleep(0.1)
    w.clock.advance(2.0)
    yield verifier, browser, token


HOW = ["cut", "half-open", "the store's feed is dead"]


@pytest.mark.parametrize("how", HOW)
async def test_without_a_feed_the_issuer_is_asked_and_believed_for_two_seconds(tmp_path: Path, how: str) -> None:
    async with world(tmp_path) as w, deaf(w, "ask", how=how) as (verifier, browser, token):
        assert not verifier.feed_live
        found = await asyncio.gather(*(verifier.verify(token) for _ in range(20)))
        assert {each.feed_live for each in found} == {False}
        assert w.network.asked(VERIFY) == 1
        if how == "the store's feed is dead":
            return  # then the issuer itself believes its copy for as long
        await browser.post("/v1/logout")
        w.clock.advance(1.9)
        assert not (await verifier.verify(token)).feed_live
        w.clock.advance(0.1)
        with pytest.raises(TokenRefused):
            await verifier.verify(token)


@pytest.mark.parametrize("how", HOW)
async def test_without_a_feed_refuse_lets_nobody_in(tmp_path: Path, how: str) -> None:
    async with world(tmp_path) as w, deaf(w, "refuse", how=how) as (verifier, _, token):
        with pytest.raises(IssuerUnavailable):
            await verifier.verify(token)
        assert w.network.asked(VERIFY) == 0


@pytest.mark.parametrize("how", HOW)
async def test_without_a_feed_accept_until_exp_says_that_nobody_was_asked(tmp_path: Path, how: str) -> None:
    async with world(tmp_path) as w, deaf(w, "accept_until_exp", how=how) as (verifier, browser, token):
        await browser.post("/v1/logout")
        assert not (await verifier.verify(token)).feed_live
        w.clock.advance(330)
        with pytest.raises(TokenRefused):
            await verifier.verify(token)


async def test_an_issuer_that_cannot_be_asked_is_no_refusal_and_no_yes(tmp_path: Path) -> None:
    async with world(tmp_path) as w, deaf(w, "ask", how="cut") as (verifier, _, token):
        w.network.away = True
        for _ in range(2):
            with pytest.raises(IssuerUnavailable):
                await verifier.verify(token)
        w.network.away = False
        assert not (await verifier.verify(token)).feed_live


async def test_a_store_that_the_issuer_cannot_ask_is_no_refusal(tmp_path: Path) -> None:
    async with world(tmp_path) as w, deaf(w, "ask", how="cut") as (verifier, _, token):
        w.house.store.down = True
        w.clock.advance(3)
        with pytest.raises(IssuerUnavailable, match="503"):
            await verifier.verify(token)
        w.house.store.down = False
        assert not (await verifier.verify(token)).feed_live


async def test_an_answer_that_took_too_long_is_not_believed(tmp_path: Path) -> None:
    async with world(tmp_path) as w, deaf(w, "ask", how="cut") as (verifier, _, token):
        w.network.slow = 0.1
        asking = asyncio.ensure_future(verifier.verify(token))
        await asyncio.sleep(0.02)
        w.clock.advance(3)
        with pytest.raises(IssuerUnavailable, match="too late"):
            await asking


async def test_an_issuer_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path) as w, deaf(w, "ask", how="cut") as (verifier, _, token):
        monkeypatch.setattr(issuer, "TIMEOUT", 0.05)
        w.network.slow = 30
        with pytest.raises(IssuerUnavailable):
            await asyncio.wait_for(verifier.verify(token), 5)


async def test_silence_has_the_feed_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_side, "SILENCE", 0.1)
    async with world(tmp_path) as w:
        verifier = await w.live()
        asked = w.network.asked(FEED)
        for body in w.network.open:
            body.deaf = True
        await until(lambda: w.network.asked(FEED) > asked)
        w.clock.advance(3)
        await until(lambda: verifier.feed_live)


async def test_a_request_that_took_too_long_to_be_of_use_is_made_again(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.network.slow = 0.1
        verifier = w.verifier()
        await verifier.start()
        await until(lambda: w.network.asked(FEED) == 1)
        w.clock.advance(client_side.SILENCE + 1)  # while it is under way
        w.network.slow = 0.0
        await until(lambda: verifier.feed_live)
        assert w.network.asked(FEED) > 1


async def test_without_a_credential_there_is_no_feed_and_every_token_is_asked_for(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        verifier = w.verifier(service=None)
        _, token = await w.token()
        assert not (await verifier.verify(token)).feed_live
        assert (w.network.asked(FEED), w.network.asked(VERIFY)) == (0, 1)


async def test_a_credential_that_is_refused_leaves_what_the_policy_says(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        verifier = w.verifier(service=("nobody", "nothing"))
        _, token = await w.token()
        assert not (await verifier.verify(token)).feed_live


# ---- the issuer is away, and what nobody has issued


async def test_an_issuer_that_is_away_stops_nobody_who_has_its_keys(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        verifier = await w.live(on_feed_loss="accept_until_exp")
        _, token = await w.token()
        w.network.away = True
        w.network.cut()
        w.clock.advance(5)
        assert not (await verifier.verify(token)).feed_live


async def test_without_keys_nobody_can_tell(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.network.away = True
        _, token = await w.token()
        verifier = w.verifier(on_feed_loss="accept_until_exp")
        with pytest.raises(IssuerUnavailable):
            await verifier.verify(token)


async def test_a_token_for_somebody_else_is_refused_and_the_issuer_not_asked(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        verifier = await w.live()
        await w.house.register("ada")
        own = (await log_in_for_tokens(w.house.client(), "ada"))["access_token"]
        asked = len(w.network.requests)
        for token in (own, "", "x", "a.b.c", own + "x", "x" * 100_000, ".".join("x" * 3), "é.é.é"):
            with pytest.raises(TokenRefused):
                await verifier.verify(token)
        assert len(w.network.requests) == asked


async def test_our_own_api_takes_no_token_for_another_and_verify_only_by_name(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        browser, token = await w.token()
        client = w.house.client(headers=bearer(token))
        assert (await client.get("/v1/me")).status_code == 401
        assert (await client.get(VERIFY)).status_code == 401
        assert (await client.get(VERIFY, params={"audience": "https://other.example.com"})).status_code == 401
        good = await client.get(VERIFY, params={"audience": AUDIENCE})
        assert (good.status_code, good.headers["x-auth-session-id"]) == (200, await session_id(browser))
        assert (await client.post(VERIFY, params={"audience": AUDIENCE})).status_code == 405
        assert (await client.get(VERIFY + f"?audience={AUDIENCE}&audience=x")).status_code == 422
        assert (await browser.get(VERIFY, params={"audience": AUDIENCE})).status_code == 200  # by cookie, as ever
        plain = w.house.client("http://localhost:8080", headers=bearer(token))
        assert (await plain.get(VERIFY, params={"audience": AUDIENCE})).status_code == 401
        await browser.post("/v1/logout")
        gone = await client.get(VERIFY, params={"audience": AUDIENCE})
        assert (gone.status_code, gone.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')
        assert token not in gone.text


async def test_tokens_run_out_though_clocks_differ_a_little(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        verifier = await w.live()
        _, token = await w.token()
        exp = (await verifier.verify(token)).claims.exp
        w.clock.advance(exp - w.clock.time() + 29)
        await until(lambda: verifier.feed_live)
        await verifier.verify(token)
        w.clock.advance(1)
        for _ in range(2):
            with pytest.raises(TokenRefused):
                await verifier.verify(token)


async def test_a_retired_key_verifies_nothing_once_the_keys_are_fetched_again(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        verifier = await w.live()
        _, token = await w.token()
        await verifier.verify(token)
        w.house.access.keys.retire(w.house.access.keys.list()[0][0].kid)
        await verifier._keys.refresh()
        with pytest.raises(TokenRefused):
            await verifier.verify(token)
        _, fresh = await w.token()
        await verifier.verify(fresh)


async def answer_with(status: int, body: bytes, headers: list[tuple[bytes, bytes]], send: Any) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (302, [(b"location", b"https://evil.example/jwks.json")], b""),
        (301, [(b"location", b"/.well-known/other.json")], b""),
        (200, [], b'{"keys": [' + b" " * 1_000_000 + b"]}"),
        (200, [(b"content-encoding", b"gzip")], b"\x1f\x8b"),
        (200, [(b"content-type", b"text/html")], b"<html>"),
        (404, [], b'{"keys": []}'),
        (500, [], b""),
    ],
)
async def test_forged_keys_are_taken_from_nobody(
    tmp_path: Path, status: int, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    async with world(tmp_path) as w:
        app = w.network.apps[0]

        async def forged(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] == KEYS:
                await answer_with(status, body, headers, send)
            else:
                await app(scope, receive, send)

        w.network.apps[:] = [forged]
        _, token = await w.token()
        verifier = w.verifier()
        with pytest.raises(IssuerUnavailable):
            await verifier.verify(token)
        assert {request.url.host for request in w.network.requests} == {"localhost"}
        assert {request.url.path for request in w.network.requests} <= {KEYS, FEED}


@pytest.mark.parametrize(
    "url",
    [
        "http://login.example.com",
        "http://192.0.2.1",
        "http://127.0.0.1.example.com",
        "ftp://localhost",
        "login.example.com",
        "https://",
        "https://ada:pw@login.example.com",
        "https://login.example.com#x",
        "http://[::2]",
        "https://[",
        "",
    ],
)
def test_an_issuer_that_anybody_could_play_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        TokenVerifier(url, audience=AUDIENCE)
    with pytest.raises(UsageError):
        TokenVerifier("https://login.example.com", audience=AUDIENCE, jwks_uri=url or "x")


@pytest.mark.parametrize(
    "url", ["http://localhost:8080", "http://127.0.0.1", "http://127.9.9.9:1", "http://[::1]:8080"]
)
def test_loopback_needs_no_tls(url: str) -> None:
    assert TokenVerifier(url, audience=AUDIENCE).issuer == url


@pytest.mark.parametrize("options", [{"on_feed_loss": "accept"}, {"max_staleness": 0}, {"max_staleness": float("nan")}])
def test_settings_that_cannot_work_are_refused(options: Any) -> None:
    with pytest.raises(UsageError):
        TokenVerifier(ORIGIN, audience=AUDIENCE, **options)


async def test_httpx2_will_do_as_well() -> None:
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.path)
        return httpx2.Response(404)

    async with TokenVerifier(ORIGIN, audience=AUDIENCE, transport=httpx2.MockTransport(answer)) as verifier:
        await until(lambda: KEYS in asked)
        assert not verifier.feed_live


def test_without_a_client_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(MissingDependency, match=r"coatcheck\[httpx\]"):
        TokenVerifier(ORIGIN, audience=AUDIENCE)


def test_a_verified_token_shows_its_claims_only() -> None:
    assert VerifiedToken.__struct_fields__ == ("claims", "feed_live")
