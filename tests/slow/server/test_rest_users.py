import asyncio
import json
from pathlib import Path
from typing import Any

from tests.core.server.house import ORIGIN, PASSWORD, House, cookie_of, session_id

NEW = "another horse"


async def test_registering_answers_201_with_the_place_of_the_user_and_logs_nobody_in(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        answer = await client.post("/v1/users", json={"username": "Ada", "password": PASSWORD, "name": "Ada L."})
        assert answer.status_code == 201
        body = answer.json()
        assert body == {"id": body["id"], "username": "Ada", "name": "Ada L."}
        assert answer.headers["location"] == f"/v1/users/{body['id']}"
        assert "set-cookie" not in answer.headers
        assert (await client.get("/v1/me")).status_code == 401


async def test_a_name_left_out_is_the_username(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        answer = await client.post("/v1/users", json={"username": "ada", "password": PASSWORD})
        assert answer.json()["name"] == "ada"


async def test_a_username_is_taken_in_every_case(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        await house.register("ada")
        answer = await client.post("/v1/users", json={"username": "ADA", "password": PASSWORD})
        assert answer.status_code == 409
        assert answer.json()["errors"][0]["field"] == "username"


UNFIT: list[tuple[Any, str]] = [
    ({"username": "ada", "password": "short"}, "password"),
    ({"username": "ada", "password": "x" * 1025}, "password"),
    ({"username": "ada", "password": "\ud800" * 9}, "password"),
    ({"username": "a b", "password": PASSWORD}, "username"),
    ({"username": "\ud800", "password": PASSWORD}, "username"),
    ({"username": "ada", "password": PASSWORD, "name": "a\nb"}, "name"),
    ({"username": "ada"}, "password"),
    ({"username": 7, "password": PASSWORD}, "username"),
    ({"username": "ada", "password": 12345678}, "password"),
    ({"username": "ada", "password": PASSWORD, "admin": True}, "admin"),
    (["ada", PASSWORD], "body"),
]


async def test_what_does_not_fit_is_422_and_names_the_field(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        for form, field in UNFIT:
            # By hand: httpx would not send half a character.
            body = json.dumps(form).encode()
            answer = await client.post("/v1/users", content=body, headers={"content-type": "application/json"})
            assert answer.status_code == 422, form
            assert [error["field"] for error in answer.json()["errors"]] == [field]
        assert await house.accounts.list() == []


async def test_registration_can_be_closed(tmp_path: Path) -> None:
    async with House(tmp_path, registration="closed") as house, house.client() as client:
        answer = await client.post("/v1/users", json={"username": "ada", "password": PASSWORD})
        assert answer.status_code == 403
        assert await house.accounts.list() == []


async def test_another_user_is_an_id_and_a_name(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        ada = await house.register("ada", "Ada L.")
        client = await house.log_in("bob")
        assert (await client.get(f"/v1/users/{ada}")).json() == {"id": ada, "name": "Ada L."}


async def test_an_unknown_user_is_404(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("bob")
        for user_id in ("AAAAAAAAAAAAAAAAAAAAAA", "1", "%00", "a" * 5000):
            assert (await client.get(f"/v1/users/{user_id}")).status_code == 404


async def test_changing_the_password_ends_the_other_sessions_and_renews_the_secret_of_this_one(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        here, there = await house.log_in("ada"), await house.log_in("ada")
        stranger = await house.log_in("bob")
        before, old = await session_id(here), here.cookies["__Host-session"]
        answer = await here.post("/v1/me/password", json={"current_password": PASSWORD, "new_password": NEW})
        assert answer.status_code == 200
        assert cookie_of(answer) != old
        assert await session_id(here) == before == answer.json()["session"]["id"]
        assert (await there.get("/v1/me")).status_code == 401
        assert (await stranger.get("/v1/me")).status_code == 200
        thief = house.client(headers={"cookie": f"__Host-session={old}"})
        assert (await thief.get("/v1/me")).status_code == 401
        fresh = house.client()
        assert (await fresh.post("/v1/login", json={"username": "ada", "password": PASSWORD})).status_code == 401
        assert (await fresh.post("/v1/login", json={"username": "ada", "password": NEW})).status_code == 200


async def test_a_wrong_current_password_changes_nothing(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        here, there = await house.log_in("ada"), await house.log_in("ada")
        answer = await here.post("/v1/me/password", json={"current_password": NEW, "new_password": NEW})
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
        assert (await there.get("/v1/me")).status_code == 200
        assert (await here.get("/v1/me")).status_code == 200


async def test_a_new_password_that_may_not_be_changes_nothing(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        here, there = await house.log_in("ada"), await house.log_in("ada")
        answer = await here.post("/v1/me/password", json={"current_password": PASSWORD, "new_password": "short"})
        assert answer.status_code == 422
        assert (await there.get("/v1/me")).status_code == 200
        assert await house.accounts.verify(await house.accounts.find("ada"), PASSWORD)


async def test_a_login_with_the_old_password_that_is_under_way_while_it_changes_is_refused(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        here = await house.log_in("ada")
        thief = house.client()
        gate = house.store.hold("epoch", "after")
        login = asyncio.create_task(thief.post("/v1/login", json={"username": "ada", "password": PASSWORD}))
        await gate.arrived.wait()
        # The right password is still there when it is looked at: only the epoch can tell.
        create = house.store.hold("create", "before")
        gate.release()
        await create.arrived.wait()
        changed = await here.post("/v1/me/password", json={"current_password": PASSWORD, "new_password": NEW})
        assert changed.status_code == 200
        create.release()
        assert (await login).status_code == 401
        assert (await thief.get("/v1/me")).status_code == 401
        assert (await here.get("/v1/me")).status_code == 200


async def test_a_session_that_is_ended_while_its_password_changes_stays_ended(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        here, there = await house.log_in("ada"), await house.log_in("ada")
        gate = house.store.hold("end_user", "after")
        change = asyncio.create_task(
            here.post("/v1/me/password", json={"current_password": PASSWORD, "new_password": NEW})
        )
        await gate.arrived.wait()
        await house.sessions.end_user((await house.accounts.find("ada")).id)  # type: ignore[union-attr]
        gate.release()
        answer = await change
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        assert (await here.get("/v1/me")).status_code == 401
        assert (await there.get("/v1/me")).status_code == 401


async def test_a_password_change_that_cannot_end_the_other_sessions_says_so(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        here = await house.log_in("ada")
        gate = house.store.hold("end_user", "before")
        change = asyncio.create_task(
            here.post("/v1/me/password", json={"current_password": PASSWORD, "new_password": NEW})
        )
        await gate.arrived.wait()
        house.store.down = True
        gate.release()
        answer = await change
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert "was changed" in answer.json()["detail"]


async def test_an_account_that_is_gone_while_its_session_lives_is_nobody(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        await house.accounts.set_disabled((await house.accounts.find("ada")).id, True)  # type: ignore[union-attr]
        for method, path, form in (
            ("GET", "/v1/me", None),
            ("POST", "/v1/reauthenticate", {"password": PASSWORD}),
            ("POST", "/v1/me/password", {"current_password": PASSWORD, "new_password": NEW}),
        ):
            answer = await client.request(method, path, json=form)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_the_origin_of_these_tests_is_one_that_the_server_knows(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        assert ORIGIN in house.settings.effective_public_origins()
