"""The cookies of TLS and plain HTTP: nobody carries a session from one to the other."""

from pathlib import Path

import pytest

from tests.core.server.house import (
    COOKIE,
    ORIGIN,
    PASSWORD,
    PLAIN_COOKIE,
    PLAIN_ORIGIN,
    House,
    cookie_of,
    session_line,
    token_of,
)


async def test_each_scheme_sets_its_own_cookie(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.register("ada")
        form = {"username": "ada", "password": PASSWORD}
        tls = session_line(await house.client(ORIGIN).post("/v1/login", json=form))
        plain = session_line(await house.client(PLAIN_ORIGIN).post("/v1/login", json=form))
        assert tls.startswith(COOKIE + "=")
        assert "; Secure" in tls
        assert plain.startswith(PLAIN_COOKIE + "=")
        assert "Secure" not in plain
        assert "; HttpOnly; SameSite=Lax" in plain


@pytest.mark.parametrize(("made", "moved"), [(ORIGIN, PLAIN_ORIGIN), (PLAIN_ORIGIN, ORIGIN)])
@pytest.mark.parametrize("name", [COOKIE, PLAIN_COOKIE])
async def test_a_token_of_one_scheme_is_nobodys_under_the_other(
    tmp_path: Path, made: str, moved: str, name: str
) -> None:
    async with House(tmp_path) as house:
        owner = await house.log_in("ada", made)
        token = token_of(owner)
        thief = house.client(moved, headers={"cookie": f"{name}={token}"})
        for path in ("/v1/me", "/v1/verify", "/v1/sessions"):
            answer = await thief.get(path)
            assert answer.status_code == 401
            assert "set-cookie" not in answer.headers
        # Nor does it end what it cannot open.
        assert (await thief.post("/v1/logout")).status_code == 204
        assert (await thief.delete("/v1/sessions")).status_code == 401
        assert (await owner.get("/v1/me")).status_code == 200


@pytest.mark.parametrize(("made", "moved"), [(ORIGIN, PLAIN_ORIGIN), (PLAIN_ORIGIN, ORIGIN)])
async def test_a_login_with_a_planted_token_of_the_other_scheme_makes_a_session_of_its_own(
    tmp_path: Path, made: str, moved: str
) -> None:
    async with House(tmp_path) as house:
        attacker = await house.log_in("eve", made)
        planted = token_of(attacker)
        await house.register("ada")
        name = COOKIE if moved == ORIGIN else PLAIN_COOKIE
        victim = house.client(moved, headers={"cookie": f"{name}={planted}"})
        answer = await victim.post("/v1/login", json={"username": "ada", "password": PASSWORD})
        assert answer.status_code == 200
        assert not cookie_of(answer).startswith(planted.partition(".")[0])
        assert (await attacker.get("/v1/me")).json()["username"] == "eve"


@pytest.mark.parametrize(("origin", "wrong"), [(ORIGIN, PLAIN_COOKIE), (PLAIN_ORIGIN, COOKIE)])
async def test_the_other_schemes_cookie_is_not_read(tmp_path: Path, origin: str, wrong: str) -> None:
    async with House(tmp_path) as house:
        owner = await house.log_in("ada", origin)
        token = token_of(owner)
        misnamed = house.client(origin, headers={"cookie": f"{wrong}={token}"})
        assert (await misnamed.get("/v1/me")).status_code == 401


async def test_one_browser_may_have_both(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        tls, plain = await house.log_in("ada", ORIGIN), await house.log_in("bob", PLAIN_ORIGIN)
        both = {
            "cookie": f"{COOKIE}={tls.cookies[COOKIE]}; {PLAIN_COOKIE}={plain.cookies[PLAIN_COOKIE]}",
        }
        assert (await house.client(ORIGIN, headers=both).get("/v1/me")).json()["username"] == "ada"
        assert (await house.client(PLAIN_ORIGIN, headers=both).get("/v1/me")).json()["username"] == "bob"


async def test_reauthenticating_keeps_a_session_where_it_is(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada", PLAIN_ORIGIN)
        answer = await client.post("/v1/reauthenticate", json={"password": PASSWORD})
        moved = house.client(ORIGIN, headers={"cookie": f"{COOKIE}={cookie_of(answer)}"})
        assert (await moved.get("/v1/me")).status_code == 401
        assert (await client.get("/v1/me")).status_code == 200


async def test_a_client_cannot_say_which_scheme_it_came_by(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada", PLAIN_ORIGIN)
        token = token_of(client)
        forged = {"x-forwarded-proto": "https", "cookie": f"{COOKIE}={token}"}
        assert (await house.client(PLAIN_ORIGIN, headers=forged).get("/v1/me")).status_code == 401
