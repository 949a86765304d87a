"""Bearer tokens through the middleware: the same session, no fall-back, no cookie, and over when the session is."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from coatcheck import SessionMiddleware, Sessions, session_of
from coatcheck.stores.memory import MemoryStore
from coatcheck.testing import GatedStore, ManualClock
from coatcheck.tokens import AccessTokens, KeyRing
from tests.core.asgi_client import Answer, call


class Site:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = GatedStore(MemoryStore(clock=self.clock))
        self.sessions = Sessions(self.store, clock=self.clock)
        self.tokens = AccessTokens(KeyRing(clock=self.clock), issuer="https://me", audience="https://me")
        self.app = SessionMiddleware(self._handle, self.sessions, tokens=self.tokens)

    async def _handle(self, scope: Any, receive: Any, send: Any) -> None:
        session = session_of(scope)
        if scope["path"] == "/out":
            await session.log_out()
            session["left"] = "something"
        elif scope["path"] == "/write":
            session["n"] = session.get("n", 0) + 1
        elif scope["path"] == "/over":
            await self.sessions.end(session.id or "")
            session["n"] = 1
            await session.save()
        elif scope["path"] == "/login":
            await session.log_in("user")
        body = json.dumps([session.user_id, session.get("n")]).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    async def log_in(self) -> tuple[str, bytes]:
        """An access token and a cookie of one session."""
        session = await self.sessions.load(None)
        await session.log_in("user")
        assert session.record is not None
        assert session.cookie_change is not None
        return self.tokens.issue(session.record)[0], b"__Host-session=" + (session.cookie_change.token or "").encode()

    async def get(self, path: str, token: str, cookie: bytes | None = None, **rest: Any) -> Answer:
        headers = [(b"authorization", f"Bearer {token}".encode("latin-1")), *rest.pop("headers", [])]
        return await call(self.app, path, cookie=cookie, headers=headers, **rest)


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    made = Site()
    async with made.sessions:
        yield made


def refused(answer: Answer) -> bool:
    challenge = answer.one(b"www-authenticate") == b'Bearer error="invalid_token"'
    return answer.status == 401 and challenge and answer.one(b"set-cookie") is None


async def test_a_token_and_a_cookie_lead_to_one_session() -> None:
    async with site() as here:
        token, cookie = await here.log_in()
        assert json.loads((await here.get("/write", token)).body) == ["user", 1]
        answer = await call(here.app, "/", cookie=cookie)
        assert json.loads(answer.body) == ["user", 1]
        assert answer.one(b"vary") == b"Cookie, Authorization"


async def test_a_bad_bearer_never_falls_back_to_the_cookie() -> None:
    async with site() as here:
        token, cookie = await here.log_in()
        for bad in ("", "x", token[:-2], "é" * 5, cookie.decode().partition("=")[2], "a b"):
            answer = await here.get("/", bad, cookie)
            assert refused(answer)
            assert bad.encode("latin-1") not in answer.body or not bad or bad in ("x", "a b")


async def test_a_bearer_wins_over_a_cookie_of_somebody_else() -> None:
    async with site() as here:
        token, _ = await here.log_in()
        other = await here.sessions.load(None)
        await other.log_in("other")
        assert other.cookie_change is not None
        cookie = b"__Host-session=" + (other.cookie_change.token or "").encode()
        assert json.loads((await here.get("/", token, cookie)).body)[0] == "user"


async def test_two_authorization_headers_are_refused_and_other_schemes_are_not_ours() -> None:
    async with site() as here:
        token, cookie = await here.log_in()
        doubled = await here.get("/", token, headers=[(b"authorization", b"Bearer x")])
        assert (doubled.status, doubled.one(b"www-authenticate")) == (401, b'Bearer error="invalid_request"')
        basic = await call(here.app, "/", cookie=cookie, headers=[(b"authorization", b"Basic dTpw")])
        assert json.loads(basic.body)[0] == "user"
        lower = await call(here.app, "/", headers=[(b"authorization", f"bearer {token}".encode())])
        assert json.loads(lower.body)[0] == "user"


async def test_an_access_token_dies_with_its_session_however_it_ends() -> None:
    async with site() as here:
        token, cookie = await here.log_in()
        await call(here.app, "/out", cookie=cookie)
        assert refused(await here.get("/", token))
        token, _ = await here.log_in()
        await here.sessions.end_user("user")
        assert refused(await here.get("/", token))
        token, cookie = await here.log_in()
        await call(here.app, "/login", cookie=cookie)
        assert refused(await here.get("/", token)), "the secret has changed under it"


async def test_logging_out_by_token_sets_and_deletes_no_cookie() -> None:
    async with site() as here:
        token, cookie = await here.log_in()
        answer = await here.get("/out", token)
        assert (answer.status, answer.one(b"set-cookie")) == (200, None)
        assert refused(await here.get("/", token))
        assert json.loads((await call(here.app, "/", cookie=cookie)).body) == [None, None]
        assert here.store.calls["create"] == 1, "nothing is stored for a visitor who could not come back to it"


async def test_no_other_site_can_make_a_browser_send_a_bearer_so_it_is_not_asked() -> None:
    async with site() as here:
        token, cookie = await here.log_in()
        foreign = [(b"sec-fetch-site", b"cross-site"), (b"origin", b"https://evil.example")]
        assert (await here.get("/write", token, method="POST", headers=foreign)).status == 200
        assert (await call(here.app, "/write", method="POST", cookie=cookie, headers=foreign)).status == 403


async def test_a_store_that_cannot_be_asked_is_503_and_never_a_yes() -> None:
    async with site() as here:
        token, _ = await here.log_in()
        assert (await here.get("/", token)).status == 200
        here.store.down = True
        here.clock.advance(2.0)
        answer = await here.get("/", token)
        assert (answer.status, answer.one(b"retry-after")) == (503, b"1")


async def test_a_warm_bearer_request_reads_and_writes_nothing() -> None:
    async with site() as here:
        token, _ = await here.log_in()
        await here.get("/", token)
        here.store.calls.clear()
        for _ in range(5):
            assert (await here.get("/", token)).status == 200
        assert here.store.calls == {}


async def test_a_cold_bearer_request_finds_its_session_in_the_store() -> None:
    async with site() as here:
        token, _ = await here.log_in()
        here.sessions.cache.clear()
        assert json.loads((await here.get("/", token)).body)[0] == "user"
        here.clock.advance(299)
        here.sessions.cache.clear()
        assert (await here.get("/", token)).status == 200
        here.clock.advance(1)
        assert refused(await here.get("/", token))


async def test_a_session_that_ends_under_a_bearer_request_makes_its_token_invalid() -> None:
    async with site() as here:
        token, _ = await here.log_in()
        assert refused(await here.get("/over", token))


async def test_without_a_verifier_a_bearer_is_the_applications_own_business() -> None:
    async with site() as here:
        _, cookie = await here.log_in()
        plain = SessionMiddleware(here._handle, here.sessions)
        answer = await call(plain, "/", cookie=cookie, headers=[(b"authorization", b"Bearer of-another-kind")])
        assert json.loads(answer.body)[0] == "user"


@pytest.mark.parametrize("scheme", [b"Bearer", b"Bearertoken", b"BEARER:x"])
async def test_what_only_begins_like_a_bearer_is_none(scheme: bytes) -> None:
    async with site() as here:
        answer = await call(here.app, "/", headers=[(b"authorization", scheme)])
        assert json.loads(answer.body) == [None, None]
