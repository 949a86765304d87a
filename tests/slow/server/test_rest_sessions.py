from pathlib import Path

from tests.core.server.house import PASSWORD, House, cookie_of, session_id
from tests.slow.server.test_rest_problems import assert_problem


async def test_the_list_shows_ones_own_sessions_and_which_is_this_one(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        first = await house.log_in("ada", headers={"user-agent": "one"})
        house.clock.advance(60)
        second = await house.log_in("ada", headers={"user-agent": "two"})
        await house.log_in("bob")
        found = (await second.get("/v1/sessions")).json()["sessions"]
        assert [(item["id"], item["current"], item["user_agent"]) for item in found] == [
            (await session_id(first), False, "one"),
            (await session_id(second), True, "two"),
        ]
        assert found[0]["created_at"] < found[1]["created_at"] == "2023-11-14T22:14:20Z"
        assert set(found[0]) == {
            "id", "current", "created_at", "authenticated_at", "last_seen_at", "expires_at", "kind", "method", "address",
            "user_agent", "name", "connections",
        }  # fmt: skip


async def test_nothing_secret_is_in_the_list(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        secret = client.cookies["__Host-session"].partition(".")[2]
        assert secret not in (await client.get("/v1/sessions")).text


async def test_one_of_ones_sessions_can_be_ended(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        here, there = await house.log_in("ada"), await house.log_in("ada")
        path = f"/v1/sessions/{await session_id(there)}"
        answer = await here.delete(path)
        assert (answer.status_code, answer.content) == (204, b"")
        assert "set-cookie" not in answer.headers
        assert (await there.get("/v1/me")).status_code == 401
        assert (await here.get("/v1/me")).status_code == 200
        assert (await here.delete(path)).status_code == 404


async def test_ending_this_very_session_deletes_its_cookie(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        answer = await client.delete(f"/v1/sessions/{await session_id(client)}")
        assert answer.status_code == 204
        assert cookie_of(answer) == ""
        assert (await client.get("/v1/me")).status_code == 401


async def test_other_peoples_sessions_and_none_at_all_are_answered_alike(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        ada, bob = await house.log_in("ada"), await house.log_in("bob")
        his = await ada.delete(f"/v1/sessions/{await session_id(bob)}")
        for unknown in ("A" * 22, "1", "%2e%2e", "x" * 3000):
            nobodys = await ada.delete(f"/v1/sessions/{unknown}")
            assert his.status_code == nobodys.status_code == 404
            assert his.content == nobodys.content
        assert (await bob.get("/v1/me")).status_code == 200


async def test_all_others_can_be_ended_and_the_number_is_told(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        clients = [await house.log_in("ada") for _ in range(4)]
        stranger = await house.log_in("bob")
        answer = await clients[0].delete("/v1/sessions")
        assert (answer.status_code, answer.json()) == (200, {"ended": 3})
        assert [(await client.get("/v1/me")).status_code for client in clients] == [200, 401, 401, 401]
        assert (await stranger.get("/v1/me")).status_code == 200
        assert (await clients[0].delete("/v1/sessions")).json() == {"ended": 0}


async def test_an_expired_session_is_in_no_list_and_opens_nothing(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        idle = await house.log_in("ada")
        house.clock.advance(2 * 86_400)
        fresh = await house.log_in("ada")
        assert [item["current"] for item in (await fresh.get("/v1/sessions")).json()["sessions"]] == [True]
        assert (await idle.get("/v1/me")).status_code == 401


async def test_a_user_agent_that_moves_cursors_is_shown_without_doing_so(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada", headers=[("user-agent", b"<b>\x1b[2J\x9b31m\xe2\x80\xae")])
        answer = await client.get("/v1/sessions")
        (session,) = answer.json()["sessions"]
        assert session["user_agent"] == r"<b>\x1b[2J\x9b31mâ\x80®"
        assert answer.text.isprintable()


async def test_a_session_gets_a_name_which_every_list_shows_until_it_is_taken_back(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        here, there = await house.log_in("ada"), await house.log_in("ada")
        path = f"/v1/sessions/{await session_id(there)}"
        answer = await here.patch(path, json={"name": "  Ada's phone "})
        assert answer.status_code == 200
        assert (answer.json()["name"], answer.json()["current"]) == ("Ada's phone", False)
        assert "set-cookie" not in answer.headers
        (mine,) = [each for each in (await there.get("/v1/sessions")).json()["sessions"] if each["current"]]
        assert mine == {**answer.json(), "current": True}
        assert (await there.patch(path, json={"name": ""})).json()["name"] is None
        assert {each["name"] for each in (await here.get("/v1/sessions")).json()["sessions"]} == {None}


async def test_a_name_outlives_a_new_secret_and_nothing_else_about_the_session_changes(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada", headers={"user-agent": "one"})
        path = f"/v1/sessions/{await session_id(client)}"
        (before,) = (await client.get("/v1/sessions")).json()["sessions"]
        await client.patch(path, json={"name": "phone"})
        (after,) = (await client.get("/v1/sessions")).json()["sessions"]
        assert after == {**before, "name": "phone"}
        await client.post("/v1/reauthenticate", json={"password": PASSWORD})
        assert (await client.get("/v1/sessions")).json()["sessions"][0]["name"] == "phone"


async def test_nobody_elses_session_is_named_and_no_name_hides_what_it_is(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        ada, bob = await house.log_in("ada"), await house.log_in("bob")
        his = await session_id(bob)
        refused = await ada.patch(f"/v1/sessions/{his}", json={"name": "mine"})
        nobodys = await ada.patch(f"/v1/sessions/{'A' * 22}", json={"name": "mine"})
        assert refused.status_code == nobodys.status_code == 404
        assert refused.content == nobodys.content
        assert (await bob.get("/v1/sessions")).json()["sessions"][0]["name"] is None
        for name in ("\u202eevil", "two\nlines", "x" * 101):
            assert_problem(await bob.patch(f"/v1/sessions/{his}", json={"name": name}), 422)
        for form in ({}, {"name": None}, {"name": 1}, {"name": "x", "kind": "token"}):
            assert_problem(await bob.patch(f"/v1/sessions/{his}", json=form), 422)
