"""Passkeys and recovery codes over REST: what they open, and every lie that must open nothing."""

import asyncio
import copy
from pathlib import Path
from typing import Any

import httpx
import pytest

from coatcheck.accounts.passkeys import CHALLENGE_SECONDS, MOST_PASSKEYS, relying_party
from coatcheck.accounts.recovery import CODES
from coatcheck.server.rest.security import RECENT
from tests.clients.authenticator import Authenticator, b64, unb64
from tests.core.server.house import ORIGIN, PASSWORD, PLAIN_ORIGIN, House, log_in_for_tokens, session_id, token_of


async def add_passkey(
    client: httpx.AsyncClient, authenticator: Authenticator, name: str = "laptop", **lies: Any
) -> Any:
    options = await client.post("/v1/passkeys/options")
    assert options.status_code == 200, options.text
    made = authenticator.make(options.json(), **lies)
    return await client.post("/v1/passkeys", json={"name": name, "credential": made})


async def show(client: httpx.AsyncClient, authenticator: Authenticator, **lies: Any) -> httpx.Response:
    options = (await client.post("/v1/login/passkey/options")).json()
    return await client.post("/v1/login/passkey", json={"credential": authenticator.show(options, **lies)})


async def test_a_passkey_logs_in_without_a_username_and_its_session_says_so(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as other:
        client = await house.log_in("ada")
        authenticator = Authenticator()
        added = await add_passkey(client, authenticator, "Ada's laptop")
        assert added.status_code == 201
        view = added.json()
        assert (view["name"], view["transports"], view["last_used_at"]) == ("Ada's laptop", ["internal"], None)
        answer = await show(other, authenticator)
        assert answer.status_code == 200
        assert answer.json()["session"]["method"] == "passkey"
        assert (await other.get("/v1/me")).json()["username"] == "ada"
        form = {
            "credential": authenticator.show((await other.post("/v1/login/passkey/options")).json()),
            "mode": "token",
        }
        tokens = await house.client().post("/v1/login/passkey", json=form)
        claims = house.access.verify(tokens.json()["access_token"])
        assert claims.amr == ("pop", "user", "mfa")
        assert (await client.get("/v1/passkeys")).json()["passkeys"][0]["last_used_at"] is not None
        security = (await client.get("/v1/me/security")).json()
        assert security == {"admin": False, "passkeys": 1, "recovery_codes_left": 0}


async def test_a_passkey_gives_tokens_as_well_and_works_over_plain_loopback(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client(PLAIN_ORIGIN) as plain:
        authenticator = Authenticator()
        assert (await add_passkey(await house.log_in("ada"), authenticator)).status_code == 201
        authenticator.origin = PLAIN_ORIGIN
        options = (await plain.post("/v1/login/passkey/options")).json()
        assert options["rpId"] == "localhost"
        assert options["userVerification"] == "required"
        form = {"credential": authenticator.show(options), "mode": "token"}
        answer = await plain.post("/v1/login/passkey", json=form)
        assert answer.json()["session"]["kind"] == "token"
        assert "refresh_token" in answer.json()


@pytest.mark.parametrize(
    "lies",
    [
        {"origin": "https://evil.example"},
        {"origin": "https://localhost:9999"},
        {"rp_id": "evil.example"},
        {"type": "webauthn.create"},
        {"handle": b64(b"somebody else")},
    ],
)
async def test_a_login_by_passkey_that_lies_opens_nothing(tmp_path: Path, lies: dict[str, str]) -> None:
    async with House(tmp_path) as house, house.client() as other:
        authenticator = Authenticator()
        assert (await add_passkey(await house.log_in("ada"), authenticator)).status_code == 201
        answer = await show(other, authenticator, **lies)
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        assert (await show(other, authenticator)).status_code == 200


async def test_a_device_that_has_not_verified_its_user_opens_nothing_and_adds_nothing(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as other:
        client = await house.log_in("ada")
        assert (await add_passkey(client, Authenticator(verified=False))).status_code == 422
        authenticator = Authenticator()
        assert (await add_passkey(client, authenticator)).status_code == 201
        authenticator.verified = False
        assert (await show(other, authenticator)).status_code == 401


async def test_an_answer_is_good_once_and_of_two_at_once_one_gets_in(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        authenticator = Authenticator(counts=False)
        assert (await add_passkey(await house.log_in("ada"), authenticator)).status_code == 201
        clients = [house.client() for _ in range(4)]
        options = (await clients[0].post("/v1/login/passkey/options")).json()
        shown = {"credential": authenticator.show(options)}
        answers = await asyncio.gather(*(each.post("/v1/login/passkey", json=shown) for each in clients))
        assert sorted(each.status_code for each in answers) == [200, 401, 401, 401]


async def test_a_challenge_of_our_own_making_or_too_old_or_for_something_else_opens_nothing(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as other:
        client = await house.log_in("ada")
        authenticator = Authenticator()
        assert (await add_passkey(client, authenticator)).status_code == 201
        options = (await other.post("/v1/login/passkey/options")).json()
        made_up = authenticator.show({**options, "challenge": b64(bytes(32))})
        assert (await other.post("/v1/login/passkey", json={"credential": made_up})).status_code == 401
        again = (await client.post("/v1/reauthenticate/passkey/options")).json()
        assert again["allowCredentials"][0]["id"] == b64(authenticator.credential_id)
        for_other = authenticator.show(again)
        assert (await other.post("/v1/login/passkey", json={"credential": for_other})).status_code == 401
        house.clock.advance(CHALLENGE_SECONDS)
        late = authenticator.show(options)
        assert (await other.post("/v1/login/passkey", json={"credential": late})).status_code == 401


async def test_a_copy_of_an_authenticator_is_found_out_by_its_count(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as other:
        authenticator = Authenticator()
        assert (await add_passkey(await house.log_in("ada"), authenticator)).status_code == 201
        stolen = copy.copy(authenticator)
        assert (await show(other, authenticator)).status_code == 200
        assert (await show(other, authenticator)).status_code == 200
        assert (await show(other, stolen)).status_code == 401
        assert (await show(other, authenticator)).status_code == 200


async def test_a_signature_by_another_key_and_garbage_open_nothing(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as other:
        authenticator = Authenticator()
        assert (await add_passkey(await house.log_in("ada"), authenticator)).status_code == 201
        forged = Authenticator(credential_id=authenticator.credential_id, handle=authenticator.handle, count=5)
        assert (await show(other, forged)).status_code == 401
        stranger = Authenticator(handle=authenticator.handle)
        assert (await show(other, stranger)).status_code == 401
        garbage: list[Any] = [{}, {"rawId": 1}, {"response": []}, {"response": {"clientDataJSON": "???"}}]
        garbage.append({"rawId": b64(authenticator.credential_id), "response": {"clientDataJSON": b64(b"[1]")}})
        for each in garbage:
            assert (await other.post("/v1/login/passkey", json={"credential": each})).status_code == 401
        assert (await other.post("/v1/login/passkey", json={"credential": 5})).status_code == 422


async def test_a_disabled_user_and_a_removed_passkey_open_nothing(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as other:
        client = await house.log_in("ada")
        first, second = Authenticator(), Authenticator()
        added = (await add_passkey(client, first)).json()
        assert (await add_passkey(client, second)).status_code == 201
        assert (await client.delete(f"/v1/passkeys/{added['id']}")).status_code == 204
        assert (await client.delete(f"/v1/passkeys/{added['id']}")).status_code == 404
        assert (await show(other, first)).status_code == 401
        user = (await client.get("/v1/me")).json()["id"]
        await house.accounts.set_disabled(user, True)
        assert (await show(other, second)).status_code == 401


async def test_passkeys_are_added_after_a_recent_login_only_and_one_can_prove_it_by_passkey(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        authenticator = Authenticator()
        assert (await add_passkey(client, authenticator)).status_code == 201
        before = token_of(client)
        house.clock.advance(RECENT + 1)
        stale = await client.post("/v1/passkeys/options")
        assert stale.status_code == 401
        assert "insufficient_user_authentication" in stale.headers["www-authenticate"]
        assert (await client.post("/v1/recovery-codes")).status_code == 401
        options = (await client.post("/v1/reauthenticate/passkey/options")).json()
        answer = await client.post("/v1/reauthenticate/passkey", json={"credential": authenticator.show(options)})
        assert answer.status_code == 200
        assert token_of(client) != before
        assert (await client.post("/v1/passkeys/options")).status_code == 200


async def test_of_others_passkeys_nobody_sees_or_changes_anything(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        ada, bob = await house.log_in("ada"), await house.log_in("bob")
        hers, his = Authenticator(), Authenticator()
        made = (await add_passkey(ada, hers)).json()
        assert (await add_passkey(bob, his)).status_code == 201
        assert (await bob.patch(f"/v1/passkeys/{made['id']}", json={"name": "mine"})).status_code == 404
        assert (await bob.delete(f"/v1/passkeys/{made['id']}")).status_code == 404
        assert [each["name"] for each in (await ada.get("/v1/passkeys")).json()["passkeys"]] == ["laptop"]
        assert (await ada.patch(f"/v1/passkeys/{made['id']}", json={"name": "desk"})).json()["name"] == "desk"
        # Bob's own passkey does not make Ada's session fresh, whatever it was asked for.
        options = (await ada.post("/v1/reauthenticate/passkey/options")).json()
        shown = {"credential": his.show(options)}
        assert (await ada.post("/v1/reauthenticate/passkey", json=shown)).status_code == 403
        # What was made for Ada's session cannot be added by Bob's, nor the same passkey twice.
        options = (await ada.post("/v1/passkeys/options")).json()
        assert options["excludeCredentials"][0]["id"] == b64(hers.credential_id)
        new = Authenticator().make(options)
        assert (await bob.post("/v1/passkeys", json={"credential": new})).status_code == 422
        assert (await add_passkey(bob, hers)).status_code == 422


@pytest.mark.parametrize(
    "lies", [{"origin": "https://evil.example"}, {"rp_id": "evil.example"}, {"type": "webauthn.get"}]
)
async def test_a_passkey_that_was_made_elsewhere_is_not_added(tmp_path: Path, lies: dict[str, str]) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        assert (await add_passkey(client, Authenticator(), **lies)).status_code == 422
        assert (await client.get("/v1/passkeys")).json() == {"passkeys": []}


async def test_a_user_has_a_bounded_number_of_passkeys(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        for _ in range(MOST_PASSKEYS):
            assert (await add_passkey(client, Authenticator())).status_code == 201
        assert (await client.post("/v1/passkeys/options")).status_code == 422


@pytest.mark.parametrize(
    ("origins", "found"),
    [
        (["https://localhost:8443", "http://127.0.0.1:8080"], ("localhost", ["https://localhost:8443"])),
        (
            ["https://localhost:8443", "https://app.example", "https://www.app.example", "https://b.example"],
            ("app.example", ["https://app.example", "https://www.app.example"]),
        ),
        (["https://10.0.0.1", "https://[::1]:8443"], ("localhost", [])),
        (["https://app.example", "https://evilapp.example"], ("app.example", ["https://app.example"])),
    ],
)
def test_the_relying_party_is_the_host_of_the_first_configured_origin(origins: list[str], found: Any) -> None:
    assert relying_party(origins) == found


# ---- recovery codes


async def recover(client: httpx.AsyncClient, code: str, username: str = "ada") -> httpx.Response:
    return await client.post("/v1/login/recovery", json={"username": username, "code": code})


async def test_a_recovery_code_logs_in_once_however_it_is_typed(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as other:
        client = await house.log_in("ada")
        codes = (await client.post("/v1/recovery-codes")).json()["codes"]
        assert len(set(codes)) == CODES
        answer = await recover(other, codes[0].upper().replace("-", " "))
        assert answer.status_code == 200
        assert answer.json()["session"]["method"] == "recovery-code"
        for wrong in (codes[0], "", "x" * 500, codes[1][:-1]):
            assert (await recover(other, wrong)).status_code == 401
        assert (await client.get("/v1/me/security")).json()["recovery_codes_left"] == CODES - 1
        kinds = [each["kind"] for each in (await client.get("/v1/activity")).json()["events"]]
        assert "recovery_code_used" in kinds
        assert "recovery_codes_made" in kinds


async def test_of_two_who_use_a_code_at_once_one_gets_in(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        code = (await client.post("/v1/recovery-codes")).json()["codes"][3]
        answers = await asyncio.gather(*(recover(house.client(), code) for _ in range(4)))
        assert sorted(each.status_code for each in answers) == [200, 401, 401, 401]


async def test_new_codes_make_the_old_ones_worthless_and_nobody_elses_are_taken(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as other:
        ada, bob = await house.log_in("ada"), await house.log_in("bob")
        old = (await ada.post("/v1/recovery-codes")).json()["codes"][0]
        his = (await bob.post("/v1/recovery-codes")).json()["codes"][0]
        await ada.post("/v1/recovery-codes")
        assert (await recover(other, old)).status_code == 401
        assert (await recover(other, his)).status_code == 401
        assert (await recover(other, his, "nobody")).status_code == 401
        user = (await bob.get("/v1/me")).json()["id"]
        await house.accounts.set_disabled(user, True)
        assert (await recover(other, his, "bob")).status_code == 401
        await house.accounts.set_disabled(user, False)
        assert (await recover(other, his, "bob")).status_code == 200


async def test_a_user_who_is_disabled_while_a_code_is_being_checked_does_not_get_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        code = (await client.post("/v1/recovery-codes")).json()["codes"][0]
        user = (await client.get("/v1/me")).json()["id"]
        epoch = house.sessions.epoch

        async def disabled_first(user_id: str) -> int:
            await house.accounts.set_disabled(user, True)
            await house.sessions.end_user(user, reason="disabled")
            return await epoch(user_id)

        monkeypatch.setattr(house.sessions, "epoch", disabled_first)
        assert (await recover(house.client(), code)).status_code == 401
        assert await house.sessions.list_user(user) == []


async def test_guesses_at_codes_and_passkeys_are_throttled_as_passwords_are(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client, other = await house.log_in("ada"), house.client()
        authenticator = Authenticator()
        assert (await add_passkey(client, authenticator)).status_code == 201
        statuses = [(await recover(other, "0000-0000-0000-0000")).status_code for _ in range(30)]
        assert statuses[0] == 401
        assert statuses[-1] == 429
        assert (await show(other, authenticator)).status_code == 429


async def test_nothing_that_could_be_used_is_kept(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        codes = (await client.post("/v1/recovery-codes")).json()["codes"]
        options = (await client.post("/v1/passkeys/options")).json()
        await house.activity.flush()
        kept = b"".join(each.read_bytes() for each in tmp_path.iterdir() if each.is_file())
        assert len(kept) > 10_000
        for code in codes:
            assert code.encode() not in kept
            assert code.replace("-", "").encode() not in kept
        assert unb64(options["challenge"]) not in kept
        assert options["challenge"].encode() not in kept


# ---- what happened


async def test_what_happened_is_listed_newest_first_and_in_pages(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        for name in ("one", "two"):
            house.clock.advance(1)
            assert (await add_passkey(client, Authenticator(), name)).status_code == 201
        house.clock.advance(1)
        mine = await session_id(client)
        await client.patch(f"/v1/sessions/{mine}", json={"name": "desk"})
        await house.activity.flush()
        whole = (await client.get("/v1/activity")).json()
        assert [each["kind"] for each in whole["events"]] == ["renamed", "passkey_added", "passkey_added", "created"]
        assert [each["detail"].get("name") for each in whole["events"]] == ["desk", "two", "one", None]
        assert {each["session"] for each in whole["events"]} == {mine}
        assert whole["next"] is None
        pages: list[Any] = []
        place = None
        while True:
            query = {"limit": "1", **({} if place is None else {"before": place})}
            page = (await client.get("/v1/activity", params=query)).json()
            pages += page["events"]
            place = page["next"]
            if place is None:
                break
        assert pages == whole["events"]
        assert (await client.get("/v1/activity", params={"before": "x"})).status_code == 400
        other = await house.log_in("bob")
        await house.activity.flush()
        assert [each["kind"] for each in (await other.get("/v1/activity")).json()["events"]] == ["created"]


async def test_what_was_answered_is_written_down_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # However slow the disk is: an answer otherwise waits for it only a quarter of a second.
    monkeypatch.setattr("coatcheck.server.commands._PATIENCE", 30.0)
    async with House(tmp_path) as house:
        client, other = await house.log_in("ada"), await house.log_in("ada")
        await house.activity.flush()

        async def newest() -> str:
            # No flush: whoever asks another worker next must find it.
            return str((await client.get("/v1/activity", params={"limit": 1})).json()["events"][0]["kind"])

        house.clock.advance(1)
        there = await session_id(other)
        assert (await client.patch(f"/v1/sessions/{there}", json={"name": "phone"})).status_code == 200
        assert await newest() == "renamed"
        house.clock.advance(1)
        assert (await client.delete(f"/v1/sessions/{there}")).status_code == 204
        assert await newest() == "ended"


async def test_passkeys_work_for_clients_with_tokens(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        await house.register("ada")
        tokens = await log_in_for_tokens(client, "ada")
        client.headers["authorization"] = f"Bearer {tokens['access_token']}"
        authenticator = Authenticator(origin=ORIGIN)
        assert (await add_passkey(client, authenticator)).status_code == 201
        options = (await client.post("/v1/reauthenticate/passkey/options")).json()
        answer = await client.post("/v1/reauthenticate/passkey", json={"credential": authenticator.show(options)})
        assert answer.json()["access_token"] != tokens["access_token"]
        assert (await client.get("/v1/me")).status_code == 401
        client.headers["authorization"] = f"Bearer {answer.json()['access_token']}"
        assert (await client.get("/v1/me")).status_code == 200
        assert PASSWORD not in answer.text
