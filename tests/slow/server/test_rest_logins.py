import asyncio
import threading
from pathlib import Path

import httpx
import pytest

from coatcheck.accounts import PasswordHasher
from tests.core.server.house import CHEAP, COOKIE, PASSWORD, House, cookie_of, session_id, session_line

WRONG = "incorrect horse"


async def login(
    client: httpx.AsyncClient, username: str = "ada", password: str = PASSWORD, **more: object
) -> httpx.Response:
    return await client.post("/v1/login", json={"username": username, "password": password, **more})


async def test_a_login_says_who_it_is_and_sets_a_strict_cookie_that_ends_with_the_browser(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client(headers={"user-agent": "x" * 500}) as client:
        ada = await house.register("ada", "Ada L.")
        answer = await login(client, "ADA")
        assert answer.status_code == 200
        assert answer.json()["user"] == {"id": ada, "username": "ada", "name": "Ada L."}
        session = answer.json()["session"]
        assert session["current"] is True
        assert session["method"] == "password"
        assert session["address"] == "192.0.2.7"
        assert session["user_agent"] == "x" * 300
        assert session["created_at"] == session["authenticated_at"] == "2023-11-14T22:13:20Z"
        name, *attributes = session_line(answer).split("; ")
        assert name.startswith(f"{COOKIE}={session['id']}.")
        assert attributes == ["Path=/", "Secure", "HttpOnly", "SameSite=Lax"]
        assert (await client.get("/v1/me")).json()["id"] == ada


async def test_a_remembered_login_outlives_the_browser(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        await house.register("ada")
        answer = await login(client, remember=True)
        assert f"; Max-Age={30 * 86400};" in session_line(answer)


async def test_a_wrong_password_an_unknown_user_and_a_disabled_one_are_answered_alike(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        await house.register("ada")
        disabled = await house.register("bob")
        await house.accounts.set_disabled(disabled, True)
        answers = [await login(client, "ada", WRONG), await login(client, "nobody"), await login(client, "bob")]
        assert {answer.status_code for answer in answers} == {401}
        assert len({answer.content for answer in answers}) == 1
        assert len({tuple(answer.headers.items()) for answer in answers}) == 1
        assert answers[0].headers["www-authenticate"] == "Bearer"
        assert "set-cookie" not in answers[0].headers


async def test_an_unknown_user_costs_the_store_and_the_hasher_what_a_known_one_costs(tmp_path: Path) -> None:
    class Counting(PasswordHasher):
        verified = 0

        def _compare(self, encoded: str, password: bytes) -> None:
            self.verified += 1
            super()._compare(encoded, password)

    hasher = Counting(CHEAP)
    async with House(tmp_path, hasher=hasher) as house, house.client() as client:
        await house.register("ada")
        costs = []
        for username in ("ada", "nobody", "not a username"):
            house.store.calls.clear()
            hasher.verified = 0
            await login(client, username, WRONG)
            costs.append((dict(house.store.calls), hasher.verified))
        assert costs == [({"epoch": 1}, 1)] * 3


async def test_a_planted_cookie_is_not_adopted(tmp_path: Path) -> None:
    planted = "A" * 22 + "." + "A" * 43
    async with House(tmp_path) as house, house.client() as client:
        await house.register("ada")
        answer = await client.post(
            "/v1/login", json={"username": "ada", "password": PASSWORD}, headers={"cookie": f"{COOKIE}={planted}"}
        )
        assert answer.status_code == 200
        assert not cookie_of(answer).startswith("A" * 22)


async def test_logging_in_again_exchanges_the_secret_and_the_old_one_is_dead(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        before, old = await session_id(client), client.cookies[COOKIE]
        answer = await login(client)
        assert answer.json()["session"]["id"] == before
        assert cookie_of(answer) != old
        replayed = house.client(headers={"cookie": f"{COOKIE}={old}"})
        assert (await replayed.get("/v1/me")).status_code == 401


async def test_a_failed_login_leaves_the_session_that_is_there_alone(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        assert (await login(client, "ada", WRONG)).status_code == 401
        assert (await client.get("/v1/me")).status_code == 200


async def test_logging_in_as_somebody_else_leaves_the_first_user_without_that_session(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        bob = await house.register("bob")
        assert (await login(client, "bob")).json()["user"]["id"] == bob
        assert (await client.get("/v1/me")).json()["id"] == bob
        ada = await house.accounts.find("ada")
        assert ada is not None
        assert await house.sessions.list_user(ada.id) == []


async def test_logging_out_ends_the_session_and_deletes_the_cookie(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        token = client.cookies[COOKIE]
        answer = await client.post("/v1/logout")
        assert answer.status_code == 204
        assert answer.content == b""
        assert cookie_of(answer) == ""
        assert "Max-Age=0" in session_line(answer)
        replayed = house.client(headers={"cookie": f"{COOKIE}={token}"})
        assert (await replayed.get("/v1/me")).status_code == 401


async def test_logging_out_is_harmless_where_nobody_is_logged_in(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        answer = await client.post("/v1/logout")
        assert answer.status_code == 204
        assert "set-cookie" not in answer.headers
        assert house.store.writes == 0


async def test_a_second_logout_with_the_old_cookie_says_nothing_of_the_cookie(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        token = client.cookies[COOKIE]
        await client.post("/v1/logout")
        again = await house.client(headers={"cookie": f"{COOKIE}={token}"}).post("/v1/logout")
        assert again.status_code == 204
        assert "set-cookie" not in again.headers


async def test_giving_the_password_again_makes_the_login_recent_under_a_new_secret(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        old, before = client.cookies[COOKIE], await session_id(client)
        house.clock.advance(301)
        assert (await client.get("/v1/verify?max_age=300")).status_code == 401
        answer = await client.post("/v1/reauthenticate", json={"password": PASSWORD})
        assert answer.status_code == 200
        assert answer.json()["session"]["id"] == before
        assert cookie_of(answer) != old
        assert (await client.get("/v1/verify?max_age=300")).status_code == 200


async def test_giving_a_wrong_password_again_leaves_the_session_as_it_was(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        house.clock.advance(301)
        answer = await client.post("/v1/reauthenticate", json={"password": WRONG})
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
        assert (await client.get("/v1/me")).status_code == 200
        assert (await client.get("/v1/verify?max_age=300")).status_code == 401


# https://github.com/better-auth/better-auth/issues/11073
@pytest.mark.parametrize("path", ["/v1/login", "/v1/reauthenticate"])
async def test_a_login_under_way_while_everything_is_ended_is_refused(tmp_path: Path, path: str) -> None:
    async with House(tmp_path) as house:
        client, other = await house.log_in("ada"), await house.log_in("ada")
        form = {"password": PASSWORD} if path == "/v1/reauthenticate" else {"username": "ada", "password": PASSWORD}
        gate = house.store.hold("epoch", "after")
        pending = asyncio.create_task(client.post(path, json=form))
        await gate.arrived.wait()
        assert (await other.delete("/v1/sessions")).json() == {"ended": 1}
        gate.release()
        answer = await pending
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        assert (await client.get("/v1/me")).status_code == 401


async def test_too_many_passwords_at_once_are_503_with_a_time_to_try_again(tmp_path: Path) -> None:
    held, arrived = threading.Event(), threading.Event()

    class Held(PasswordHasher):
        def _compare(self, encoded: str, password: bytes) -> None:
            arrived.set()
            held.wait(30)
            super()._compare(encoded, password)

    async with House(tmp_path, hasher=Held(CHEAP, threads=1, queue=0)) as house, house.client() as client:
        await house.register("ada")
        first = asyncio.create_task(login(house.client()))
        await asyncio.to_thread(arrived.wait, 30)
        try:
            refused = await login(client)
        finally:
            held.set()
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["content-type"] == "application/problem+json"
        assert (await first).status_code == 200


async def test_a_store_that_cannot_be_asked_lets_nobody_in(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        await house.register("ada")
        house.store.down = True
        answer = await login(client)
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert "set-cookie" not in answer.headers
