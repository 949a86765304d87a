"""Tokens over REST: a login without a cookie, exchange and revocation, tokens for other services, and the keys."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from coatcheck.accounts import ServiceAccounts
from coatcheck.ids import encode
from coatcheck.tokens.refresh import GRACE, MOST_IN_GRACE
from tests.core.server.house import ORIGIN, PASSWORD, PLAIN_ORIGIN, House, bearer, log_in_for_tokens, session_id
from tests.core.server.test_logs import CANARY, Written, written  # noqa: F401  # a fixture

AUDIENCE = "https://orders.example.com"
INVALID_TOKEN = 'Bearer error="invalid_token"'

Json = dict[str, Any]


class Device:
    """A client that keeps its tokens itself, and no cookies."""

    def __init__(self, house: House, tokens: Json, origin: str = ORIGIN) -> None:
        self.client = house.client(origin)
        self.access, self.refresh_token = tokens["access_token"], tokens["refresh_token"]
        self.session = tokens["session"]

    async def ask(self, method: str, path: str, form: Any = None) -> httpx.Response:
        answer = await self.client.request(method, path, json=form, headers=bearer(self.access))
        assert "set-cookie" not in answer.headers
        return answer

    async def me(self) -> int:
        return (await self.ask("GET", "/v1/me")).status_code

    async def refresh(self) -> httpx.Response:
        return await exchange(self.client, self.refresh_token)

    def take(self, answer: httpx.Response) -> None:
        assert answer.status_code == 200, answer.text
        self.access, self.refresh_token = answer.json()["access_token"], answer.json()["refresh_token"]


async def exchange(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.post("/v1/token/refresh", json={"refresh_token": token})


@asynccontextmanager
async def device(path: Path, **settings: Any) -> AsyncIterator[tuple[House, Device]]:
    async with House(path, **settings) as house:
        await house.register("ada", "Ada L.")
        yield house, Device(house, await log_in_for_tokens(house.client(), "ada"))


def claims_of(token: str) -> Json:
    segment = token.split(".")[1]
    claims: Json = json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    return claims


def assert_over(answer: httpx.Response) -> None:
    """Refused as RFC 6749, section 5.2, has it."""
    assert answer.status_code == 400
    problem = answer.json()
    assert (problem["status"], problem["error"]) == (400, "invalid_grant")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"


async def test_a_login_for_tokens_sets_no_cookie_and_answers_a_pair(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        ada = await house.register("ada", "Ada L.")
        form = {"username": "ADA", "password": PASSWORD, "mode": "token"}
        answer = await house.client(headers={"user-agent": "phone"}).post("/v1/login", json=form)
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
        assert answer.headers["cache-control"] == "no-store"
        body = answer.json()
        assert (body["token_type"], body["expires_in"]) == ("Bearer", 300)
        assert body["user"] == {"id": ada, "username": "ada", "name": "Ada L."}
        session = body["session"]
        assert (session["kind"], session["current"], session["user_agent"]) == ("token", True, "phone")
        claims = claims_of(body["access_token"])
        assert (claims["iss"], claims["aud"], claims["sub"]) == (ORIGIN, ORIGIN, ada)
        assert (claims["sid"], claims["amr"]) == (session["id"], ["pwd"])
        assert claims["exp"] - claims["iat"] == 300
        answer = await house.client(headers=bearer(body["access_token"])).get("/v1/me")
        assert answer.json()["id"] == ada
        assert answer.headers["vary"] == "Cookie, Authorization"


@pytest.mark.parametrize("setting", ["issuer", "public_origins"])
async def test_the_issuer_is_as_set_or_the_first_public_origin(tmp_path: Path, setting: str) -> None:
    name = "https://login.example.com"
    value: Any = name if setting == "issuer" else [name, "https://other.example.com"]
    async with device(tmp_path, **{setting: value}, access_token_lifetime=60) as (_, ada):
        claims = claims_of(ada.access)
        assert (claims["iss"], claims["aud"], claims["exp"] - claims["iat"]) == (name, name, 60)
        assert await ada.me() == 200


async def test_a_login_for_tokens_leaves_the_cookie_that_came_with_it_alone(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        before = await session_id(client)
        tokens = await log_in_for_tokens(client, "ada")
        assert tokens["session"]["id"] != before
        assert await session_id(client) == before
        kinds = {(one["kind"], one["current"]) for one in (await client.get("/v1/sessions")).json()["sessions"]}
        assert kinds == {("cookie", True), ("token", False)}


async def test_a_wrong_password_gives_no_tokens(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.register("ada")
        form = {"username": "ada", "password": "wrong horse", "mode": "token"}
        answer = await house.client().post("/v1/login", json=form)
        assert answer.status_code == 401
        assert "token" not in answer.json()
        assert (await house.client().post("/v1/login", json={**form, "mode": "jwt"})).status_code == 422


async def test_a_login_for_tokens_under_way_while_everything_is_ended_is_refused(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        other = await house.log_in("ada")
        gate = house.store.hold("epoch", "after")
        form = {"username": "ada", "password": PASSWORD, "mode": "token"}
        pending = asyncio.create_task(house.client().post("/v1/login", json=form))
        await gate.arrived.wait()
        assert (await other.delete("/v1/sessions")).status_code == 200
        gate.release()
        assert (await pending).status_code == 401


async def test_a_token_leads_to_its_session_at_verify_even_from_another_sites_page(tmp_path: Path) -> None:
    async with device(tmp_path) as (_, ada):
        foreign = {"origin": "https://evil.example", "sec-fetch-site": "cross-site", "x-original-method": "POST"}
        ada.client.headers.update(foreign)
        answer = await ada.ask("GET", "/v1/verify")
        assert (answer.status_code, answer.headers["x-auth-session-id"]) == (200, ada.session["id"])
        # No browser adds a bearer by itself.
        assert (await ada.ask("POST", "/v1/logout")).status_code == 204


@pytest.mark.parametrize("way", ["logout", "delete", "cookie", "revoke", "revoke_access", "end_user"])
async def test_an_access_token_is_refused_at_once_when_its_session_has_ended(tmp_path: Path, way: str) -> None:
    async with device(tmp_path) as (house, ada):
        assert await ada.me() == 200
        path = f"/v1/sessions/{ada.session['id']}"
        match way:
            case "logout":
                assert (await ada.ask("POST", "/v1/logout")).status_code == 204
            case "delete":
                assert (await ada.ask("DELETE", path)).status_code == 204
            case "cookie":
                assert (await (await house.log_in("ada")).delete(path)).status_code == 204
            case "revoke" | "revoke_access":
                token = ada.refresh_token if way == "revoke" else ada.access
                answer = await house.client().post("/v1/token/revoke", json={"token": token})
                assert (answer.status_code, answer.content) == (200, b"")
            case _:
                await house.sessions.end_user(claims_of(ada.access)["sub"])
        answer = await ada.ask("GET", "/v1/me")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, INVALID_TOKEN)
        assert ada.access not in answer.text
        assert_over(await ada.refresh())


async def test_exchanging_gives_a_new_pair_and_the_session_goes_on(tmp_path: Path) -> None:
    async with device(tmp_path) as (house, ada):
        house.clock.advance(301)
        assert await ada.me() == 401
        old = ada.refresh_token
        answer = await ada.refresh()
        assert set(answer.json()) == {"access_token", "token_type", "expires_in", "refresh_token"}
        assert answer.headers["cache-control"] == "no-store"
        assert "set-cookie" not in answer.headers
        ada.take(answer)
        assert ada.refresh_token != old
        assert claims_of(ada.access)["sid"] == ada.session["id"]
        assert await ada.me() == 200


async def test_an_exchange_whose_answer_was_lost_is_answered_again_and_reuse_later_ends_the_session(
    tmp_path: Path,
) -> None:
    async with device(tmp_path) as (house, ada):
        stolen = ada.refresh_token
        first = await ada.refresh()
        again = await ada.refresh()
        assert again.json()["refresh_token"] == first.json()["refresh_token"]
        ada.take(again)
        assert await ada.me() == 200
        house.clock.advance(GRACE + 1)
        assert_over(await exchange(house.client(), stolen))
        assert await ada.me() == 401
        assert house.sessions.counted.ended["refresh token reused"] == 1
        assert_over(await ada.refresh())


async def test_too_many_exchanges_in_a_moment_are_asked_to_wait(tmp_path: Path) -> None:
    async with device(tmp_path) as (house, ada):
        for _ in range(MOST_IN_GRACE):
            ada.take(await ada.refresh())
        answer = await ada.refresh()
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "10")
        assert answer.json()["error"] == "slow_down"
        house.clock.advance(GRACE + 1)
        ada.take(await ada.refresh())


async def test_what_is_no_refresh_token_costs_one_read_at_most(tmp_path: Path) -> None:
    async with device(tmp_path) as (house, ada):
        known, unknown = ada.session["id"], encode(b"\x01" * 16)
        for token, calls in (
            ("", {}),
            ("é", {}),
            ("\ud800", {}),
            ("x" * 60_000, {}),
            (ada.access, {}),
            (f"{unknown}.{'A' * 86}", {"read": 1}),
            (f"{known}.{'A' * 86}", {"read": 1}),
            (f"{ada.refresh_token}A", {}),
        ):
            house.store.calls.clear()
            form = json.dumps({"refresh_token": token})
            headers = {"content-type": "application/json"}
            answer = await house.client().post("/v1/token/refresh", content=form, headers=headers)
            assert_over(answer)
            assert house.store.calls == calls, token
        # Nor does a family that was guessed end anything.
        assert await ada.me() == 200


@pytest.mark.parametrize("form", [{}, {"refresh_token": 1}, {"refresh_token": "x", "more": 1}, []])
async def test_a_form_that_does_not_fit_is_422(tmp_path: Path, form: Any) -> None:
    async with House(tmp_path) as house:
        assert (await house.client().post("/v1/token/refresh", json=form)).status_code == 422


async def test_revoking_what_is_no_live_token_is_200_and_ends_nothing(tmp_path: Path) -> None:
    async with device(tmp_path, audiences=[AUDIENCE]) as (house, ada):
        cookie = await house.log_in("ada")
        foreign = (await cookie.post("/v1/token", json={"audience": AUDIENCE})).json()["access_token"]
        head, _, signature = ada.access.rpartition(".")
        other = "B" if signature[0] != "B" else "C"
        for token in ("", "x", "a.b.c", f"{head}.{other}{signature[1:]}", foreign, f"{ada.session['id']}.{'A' * 86}"):
            form = {"token": token, "token_type_hint": "anything"}
            assert (await house.client().post("/v1/token/revoke", json=form)).status_code == 200
        assert await ada.me() == 200
        assert (await cookie.get("/v1/me")).status_code == 200
        house.clock.advance(301)
        assert (await house.client().post("/v1/token/revoke", json={"token": ada.access})).status_code == 200
        assert (await ada.refresh()).status_code == 200


async def test_a_spent_refresh_token_still_revokes(tmp_path: Path) -> None:
    async with device(tmp_path) as (house, ada):
        spent = ada.refresh_token
        ada.take(await ada.refresh())
        assert (await house.client().post("/v1/token/revoke", json={"token": spent})).status_code == 200
        assert await ada.me() == 401


async def test_a_store_that_cannot_be_asked_is_503_and_keeps_the_tokens_good(tmp_path: Path) -> None:
    async with device(tmp_path) as (house, ada):
        house.store.down = True
        for answer in (
            await ada.refresh(),
            await ada.client.post("/v1/token/revoke", json={"token": ada.refresh_token}),
        ):
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
        house.store.down = False
        ada.take(await ada.refresh())
        assert await ada.me() == 200


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/v1/reauthenticate", {"password": PASSWORD}),
        ("/v1/me/password", {"current_password": PASSWORD, "new_password": "new horse"}),
    ],
)
async def test_proving_again_who_one_is_replaces_the_tokens(tmp_path: Path, path: str, form: Json) -> None:
    async with device(tmp_path) as (house, ada):
        house.clock.advance(250)
        assert (await ada.ask("GET", "/v1/verify?max_age=200")).status_code == 401
        old_access, old_refresh = ada.access, ada.refresh_token
        answer = await ada.ask("POST", path, form)
        assert answer.json()["session"]["id"] == ada.session["id"]
        assert answer.json()["session"]["kind"] == "token"
        ada.take(answer)
        assert (await ada.ask("GET", "/v1/verify?max_age=200")).status_code == 200
        claims = claims_of(ada.access)
        assert (claims["auth_time"], claims["exp"]) == (claims["iat"], claims["iat"] + 300)
        stale = await house.client(headers=bearer(old_access)).get("/v1/me")
        assert (stale.status_code, stale.headers["www-authenticate"]) == (401, INVALID_TOKEN)
        assert_over(await exchange(house.client(), old_refresh))
        assert await ada.me() == 200
        ada.take(await ada.refresh())
        assert await ada.me() == 200


async def test_a_wrong_password_leaves_the_tokens_as_they_were(tmp_path: Path) -> None:
    async with device(tmp_path) as (_, ada):
        assert (await ada.ask("POST", "/v1/reauthenticate", {"password": "wrong horse"})).status_code == 403
        assert await ada.me() == 200
        ada.take(await ada.refresh())


async def test_changing_the_password_ends_the_other_sessions_of_both_kinds(tmp_path: Path) -> None:
    async with device(tmp_path) as (house, ada):
        cookie, other = await house.log_in("ada"), Device(house, await log_in_for_tokens(house.client(), "ada"))
        form = {"current_password": PASSWORD, "new_password": "new horse"}
        assert (await cookie.post("/v1/me/password", json=form)).status_code == 200
        assert [await ada.me(), await other.me()] == [401, 401]
        assert_over(await other.refresh())


@pytest.mark.parametrize(("made", "moved"), [(ORIGIN, PLAIN_ORIGIN), (PLAIN_ORIGIN, ORIGIN)])
async def test_a_token_of_one_scheme_is_refused_over_the_other(tmp_path: Path, made: str, moved: str) -> None:
    async with House(tmp_path) as house:
        await house.register("ada")
        tokens = await log_in_for_tokens(house.client(made), "ada")
        here, there = Device(house, tokens, made), Device(house, tokens, moved)
        for path in ("/v1/me", "/v1/verify", "/v1/connection"):
            answer = await there.ask("GET", path)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, INVALID_TOKEN)
        assert (await there.ask("POST", "/v1/logout")).status_code == 401
        assert await here.me() == 200
        # What is exchanged over there is no better there.
        there.take(await there.refresh())
        assert await there.me() == 401


async def test_a_browser_gets_a_token_for_another_service_that_ends_with_its_session(tmp_path: Path) -> None:
    async with House(tmp_path, audiences=[AUDIENCE]) as house:
        client = await house.log_in("ada")
        answer = await client.post("/v1/token", json={"audience": AUDIENCE})
        assert answer.status_code == 200
        assert set(answer.json()) == {"access_token", "token_type", "expires_in"}
        token = answer.json()["access_token"]
        claims = claims_of(token)
        assert (claims["aud"], claims["sid"], claims["iss"]) == (AUDIENCE, await session_id(client), ORIGIN)
        assert house.access.verify(token, audience=AUDIENCE).sub == claims["sub"]
        # It is for that service and not for us.
        refused = await house.client(headers=bearer(token)).get("/v1/me")
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, INVALID_TOKEN)
        foreign = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
        assert (await client.post("/v1/token", json={"audience": AUDIENCE}, headers=foreign)).status_code == 403


async def test_a_service_that_was_added_is_an_audience_too(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await ServiceAccounts(house.accounts).add("orders", [AUDIENCE, ORIGIN])
        client = await house.log_in("ada")
        assert (await client.post("/v1/token", json={"audience": AUDIENCE})).status_code == 200
        for audience in (ORIGIN, AUDIENCE + "/", AUDIENCE.upper(), "", "https://other.example.com"):
            answer = await client.post("/v1/token", json={"audience": audience})
            assert (answer.status_code, answer.json()["error"]) == (400, "invalid_target")


async def test_no_token_is_given_for_a_token(tmp_path: Path) -> None:
    async with device(tmp_path, audiences=[AUDIENCE]) as (house, ada):
        # Not even with a cookie beside it.
        ada.client.cookies = (await house.log_in("ada")).cookies
        assert (await ada.ask("POST", "/v1/token", {"audience": AUDIENCE})).status_code == 403


async def test_the_keys_are_public_may_be_kept_and_verify_what_was_issued(tmp_path: Path) -> None:
    async with device(tmp_path) as (house, ada):
        answer = await house.client().get("/.well-known/jwks.json")
        assert answer.headers["cache-control"] == "public, max-age=300"
        assert "set-cookie" not in answer.headers
        (key,) = answer.json()["keys"]
        assert set(key) == {"kty", "crv", "x", "y", "kid", "alg", "use"}
        verified = jwt.decode(ada.access, KeySet.import_key_set(answer.json()), algorithms=["ES256"])
        assert verified.claims["sub"] == claims_of(ada.access)["sub"]
        house.access.keys.rotate()
        announced = (await house.client().get("/.well-known/jwks.json")).json()["keys"]
        assert key in announced
        assert len(announced) == 2
        assert (tmp_path / "signing-keys.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("algorithm", ["ES256", "Ed25519"])
async def test_rotation_refuses_no_token_in_flight(tmp_path: Path, algorithm: str) -> None:
    async with device(tmp_path, signing_algorithm=algorithm, access_token_lifetime=3600) as (house, ada):
        first = ada.access
        house.access.keys.rotate()
        kids = set()
        for _ in range(40):
            house.clock.advance(30)
            house.access.keys.maintain()
            ada.take(await ada.refresh())
            assert await ada.me() == 200
            kids.add(json.loads(base64.urlsafe_b64decode(ada.access.split(".")[0] + "=="))["kid"])
            assert (await house.client(headers=bearer(first)).get("/v1/me")).status_code == 200
        assert len(kids) == 2


async def test_no_token_is_ever_written_to_the_log(
    tmp_path: Path,
    written: Written,  # noqa: F811
) -> None:
    import logging

    from coatcheck.server.logs import configure_logging

    configure_logging("json", level=logging.DEBUG)
    async with device(tmp_path, audiences=[AUDIENCE]) as (house, ada):
        seen = [ada.access, ada.refresh_token]
        ada.take(await ada.refresh())
        seen += [ada.access, ada.refresh_token]
        cookie = await house.log_in("ada")
        seen.append((await cookie.post("/v1/token", json={"audience": AUDIENCE})).json()["access_token"])
        await house.client(headers=bearer(seen[-1])).get("/v1/me")
        await ada.ask("GET", "/v1/me")
        await exchange(house.client(), CANARY)
        await house.client().post("/v1/token/revoke", json={"token": CANARY})
        await house.client(headers=bearer(CANARY)).get("/v1/me")
        await ada.ask("POST", "/v1/logout")
        await ada.ask("GET", "/v1/me")
        (key,) = [key for key, _ in house.access.keys.list()]
    said = written.text
    assert "answered 401" in said
    for secret in (*seen, CANARY, key.jwk["d"]):
        assert secret not in said
        assert secret.rpartition(".")[2] not in said
