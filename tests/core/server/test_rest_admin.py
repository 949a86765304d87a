"""Administration over REST: what administrators see and do, that it is written down, and that nobody else can."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from coatcheck import StoreUnavailable
from coatcheck.server.rest.security import RECENT
from tests.core.server.house import PASSWORD, House, session_id


async def admin_of(house: House, username: str = "root") -> httpx.AsyncClient:
    await house.accounts.register(username, PASSWORD, is_admin=True)
    return await house.log_in(username)


async def user_id(client: httpx.AsyncClient) -> str:
    return str((await client.get("/v1/me")).json()["id"])


UNSAFE = [
    ("PATCH", "/v1/admin/users/{user}"),
    ("DELETE", "/v1/admin/users/{user}/sessions"),
    ("DELETE", "/v1/admin/sessions/{session}"),
    ("DELETE", "/v1/admin/sessions"),
    ("POST", "/v1/admin/keys/rotate"),
]
SAFE = [
    ("GET", "/v1/admin/overview"),
    ("GET", "/v1/admin/users"),
    ("GET", "/v1/admin/users/{user}"),
    ("GET", "/v1/admin/keys"),
    ("GET", "/v1/admin/log"),
]


@pytest.mark.parametrize(("method", "path"), [*SAFE, *UNSAFE])
async def test_only_administrators_get_in_and_what_changes_something_needs_a_recent_login(
    tmp_path: Path, method: str, path: str
) -> None:
    async with House(tmp_path) as house, house.client() as nobody:
        user = await house.log_in("ada")
        admin = await admin_of(house)
        path = path.format(user=await user_id(user), session=await session_id(user))
        body = {"json": {"disabled": True}} if method == "PATCH" else {}
        assert (await nobody.request(method, path, **body)).status_code == 401
        assert (await user.request(method, path, **body)).status_code == 403
        house.clock.advance(RECENT + 1)
        assert (await user.request(method, path, **body)).status_code == 403
        stale = await admin.request(method, path, **body)
        if (method, path) in SAFE or method == "GET":
            assert stale.status_code == 200
            return
        assert stale.status_code == 401
        assert "insufficient_user_authentication" in stale.headers["www-authenticate"]
        assert (await user.get("/v1/me")).status_code == 200
        again = await admin.post("/v1/reauthenticate", json={"password": PASSWORD})
        assert again.status_code == 200
        assert (await admin.request(method, path, **body)).status_code in (200, 204)


async def test_there_is_no_administrator_unless_the_operator_makes_one(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        form = {"username": "first", "password": PASSWORD}
        assert (await client.post("/v1/users", json={**form, "is_admin": True})).status_code == 422
        assert (await client.post("/v1/users", json=form)).status_code == 201
        first = await house.log_in("first")
        assert (await first.get("/v1/me/security")).json()["admin"] is False
        assert (await first.get("/v1/admin/overview")).status_code == 403


async def test_disabling_ends_everything_and_keeps_the_user_out_and_is_written_down(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        admin, ada, again = await admin_of(house), await house.log_in("ada"), await house.log_in("ada")
        who = await user_id(ada)
        changed = await admin.patch(f"/v1/admin/users/{who}", json={"disabled": True})
        assert (changed.json()["disabled"], changed.json()["sessions"]) == (True, 0)
        for client in (ada, again):
            assert (await client.get("/v1/me")).status_code == 401
        refused = await house.client().post("/v1/login", json={"username": "ada", "password": PASSWORD})
        assert refused.status_code == 401
        assert (await admin.patch(f"/v1/admin/users/{who}", json={"disabled": False})).json()["disabled"] is False
        ada = await house.log_in("ada")
        await house.activity.flush()
        told = (await ada.get("/v1/activity")).json()["events"]
        assert [(each["kind"], each["by"]) for each in told if each["by"]] == [
            ("enabled", "root"),
            ("disabled", "root"),
        ]
        ended = [each["detail"]["reason"] for each in told if each["kind"] == "ended"]
        assert ended == ["disabled by operator"] * 2
        log = (await admin.get("/v1/admin/log")).json()["events"]
        assert [(each["kind"], each["detail"]["username"]) for each in log] == [("enabled", "ada"), ("disabled", "ada")]


async def test_a_user_whose_sessions_could_not_be_asked_is_disabled_and_the_next_try_ends_them_and_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with House(tmp_path) as house:
        admin, ada = await admin_of(house), await house.log_in("ada")
        who = await user_id(ada)

        async def away(*_: object, **__: object) -> list[str]:
            raise StoreUnavailable("away")

        with monkeypatch.context() as patched:
            patched.setattr(house.sessions, "end_user", away)
            answer = await admin.patch(f"/v1/admin/users/{who}", json={"disabled": True})
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
        assert len(await house.sessions.list_user(who)) == 1
        assert (await admin.patch(f"/v1/admin/users/{who}", json={"disabled": True})).status_code == 200
        assert await house.sessions.list_user(who) == []
        assert [each["kind"] for each in (await admin.get("/v1/admin/log")).json()["events"]] == ["disabled"]


async def test_a_login_that_is_under_way_when_its_user_is_disabled_gets_nowhere(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        admin = await admin_of(house)
        who = await user_id(await house.log_in("ada"))
        clients = [house.client() for _ in range(6)]
        form = {"username": "ada", "password": PASSWORD}
        logins = [asyncio.ensure_future(each.post("/v1/login", json=form)) for each in clients]
        await asyncio.sleep(0.005)
        assert (await admin.patch(f"/v1/admin/users/{who}", json={"disabled": True})).status_code == 200
        await asyncio.gather(*logins)
        for client in clients:
            assert (await client.get("/v1/me")).status_code == 401
        assert await house.sessions.list_user(who) == []


async def test_an_administrator_cannot_lock_everybody_out(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        first, second = await admin_of(house, "first"), await admin_of(house, "second")
        one, two = await user_id(first), await user_id(second)
        for change in ({"disabled": True}, {"admin": False}):
            assert (await first.patch(f"/v1/admin/users/{one}", json=change)).status_code == 409
        assert (await first.patch(f"/v1/admin/users/{two}", json={"admin": False})).status_code == 200
        assert (await second.get("/v1/admin/overview")).status_code == 403
        assert (await second.patch(f"/v1/admin/users/{one}", json={"admin": False})).status_code == 403
        with pytest.raises(Exception, match="last administrator"):
            await house.accounts.set_admin(one, False)
        ada = await user_id(await house.log_in("ada"))
        assert (await first.patch(f"/v1/admin/users/{ada}", json={"admin": True})).json()["admin"] is True
        assert (await first.patch(f"/v1/admin/users/{'A' * 22}", json={"admin": True})).status_code == 404
        kinds = [each["kind"] for each in (await first.get("/v1/admin/log")).json()["events"]]
        assert kinds == ["made_admin", "admin_taken"]


async def test_one_session_a_users_and_everybodys_are_ended(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        admin, ada, other, bob = (
            await admin_of(house),
            await house.log_in("ada"),
            await house.log_in("ada"),
            await house.log_in("bob"),
        )
        one = await session_id(ada)
        assert (await admin.delete(f"/v1/admin/sessions/{one}")).status_code == 204
        assert (await admin.delete(f"/v1/admin/sessions/{one}")).status_code == 404
        assert [(await each.get("/v1/me")).status_code for each in (ada, other, bob)] == [401, 200, 200]
        who = await user_id(other)
        assert (await admin.delete(f"/v1/admin/users/{who}/sessions")).json() == {"ended": 1}
        assert [(await each.get("/v1/me")).status_code for each in (other, bob)] == [401, 200]
        second = await house.log_in("root")
        assert (await admin.delete("/v1/admin/sessions")).json() == {"ended": 2}
        assert [(await each.get("/v1/me")).status_code for each in (second, bob, admin)] == [401, 401, 200]
        log = (await admin.get("/v1/admin/log", params={"limit": 2})).json()
        assert [each["kind"] for each in log["events"]] == ["all_sessions_ended", "sessions_ended_by_admin"]
        rest = (await admin.get("/v1/admin/log", params={"before": log["next"]})).json()["events"]
        assert [(each["kind"], each["session"]) for each in rest] == [("session_ended_by_admin", one)]


async def test_users_are_found_by_parts_of_their_names_and_in_pages(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        admin = await admin_of(house)
        for name in ("Ada", "adele", "bob_1", "bobx1"):
            await house.register(name, f"{name} Lovelace")

        async def found(query: str, **more: str) -> list[str]:
            answer = await admin.get("/v1/admin/users", params={"query": query, **more})
            assert answer.status_code == 200
            return [each["username"] for each in answer.json()["users"]]

        assert await found("") == ["Ada", "adele", "bob_1", "bobx1", "root"]
        assert await found("AD") == ["Ada", "adele"]
        assert await found("b_1") == ["bob_1"]
        assert await found("bobx1 love") == ["bobx1"]
        assert await found("", limit="2") == ["Ada", "adele"]
        assert await found("", limit="2", after="adele") == ["bob_1", "bobx1"]
        details = (await admin.get(f"/v1/admin/users/{await user_id(admin)}")).json()
        assert (details["sessions"], len(details["live"]), details["live"][0]["current"]) == (1, 1, True)


async def test_the_overview_counts_what_happened(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        admin = await admin_of(house)
        await house.log_in("ada")
        wrong = {"username": "ada", "password": "not it"}
        assert (await house.client().post("/v1/login", json=wrong)).status_code == 401
        await house.services.logins.flush()
        house.publish()
        seen = (await admin.get("/v1/admin/overview")).json()
        assert seen["users"] == {"total": 2, "disabled": 0}
        assert (seen["counters"]["logins"], seen["counters"]["failed_logins"]) == (2, 1)
        assert seen["counters"]["sessions_created"] == 2
        assert [(each["logins"], each["failures"]) for each in seen["hours"]] == [(2, 1)]
        assert seen["store"]["create"]["calls"] == 2
        assert (seen["http"], len(seen["nodes"])) == ({}, 1)
        assert seen["connections"]["websocket"] == 0


async def test_rotating_the_keys_announces_a_new_one_and_shows_nothing_private(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        admin = await admin_of(house)
        before = (await admin.get("/v1/admin/keys")).json()["keys"]
        answer = await admin.post("/v1/admin/keys/rotate")
        after = answer.json()["keys"]
        assert [each["state"] for each in before] == ["signing"]
        assert [each["state"] for each in after] == ["signing", "announced"]
        assert before[0]["kid"] == after[0]["kid"]
        assert set(after[0]) == {"kid", "algorithm", "state", "signs_from", "signs_until", "verifies_until"}
        assert (await admin.get("/v1/admin/log")).json()["events"][0]["kind"] == "keys_rotated"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"disabled": True}, {"disabled": True}),
        ({"admin": False}, {"admin": False}),
        ({"disabled": True}, {"admin": False}),
    ],
)
async def test_of_two_administrators_who_turn_on_each_other_one_stays(tmp_path: Path, one: Any, other: Any) -> None:
    async with House(tmp_path) as house:
        first, second = await admin_of(house, "first"), await admin_of(house, "second")
        ids = [await user_id(first), await user_id(second)]
        answers = await asyncio.gather(
            first.patch(f"/v1/admin/users/{ids[1]}", json=one), second.patch(f"/v1/admin/users/{ids[0]}", json=other)
        )
        assert sorted(each.status_code for each in answers)[0] == 200
        users = [await house.accounts.get(each) for each in ids]
        assert len([each for each in users if each is not None and each.is_admin and not each.disabled]) == 1


async def test_ending_a_visitors_session_is_written_down_too(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        admin = await admin_of(house)
        visitor = await house.sessions.load(None)
        visitor["cart"] = ["hat"]
        await visitor.save()
        assert (await admin.delete(f"/v1/admin/sessions/{visitor.id}")).status_code == 204
        (entry,) = (await admin.get("/v1/admin/log")).json()["events"]
        assert (entry["kind"], entry["session"]) == ("session_ended_by_admin", visitor.id)
