from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.core.server.house import COOKIE, ORIGIN, House, session_id

OTHER = "https://other.example"

# What browsers send of a request (Sec-Fetch-Site, Origin), and whether an unsafe one passes.
BROWSERS = [
    ("same-origin", ORIGIN, True),
    ("none", None, True),
    ("cross-site", OTHER, False),
    ("cross-site", None, False),
    ("cross-site", "null", False),
    ("same-site", "https://localhost:9999", False),
    ("same-site", ORIGIN, True),
    (None, ORIGIN, True),
    (None, OTHER, False),
    (None, "null", False),
    (None, None, True),
]


def browser(site: str | None, origin: str | None) -> dict[str, str]:
    headers = {"sec-fetch-site": site, "origin": origin}
    return {name: value for name, value in headers.items() if value is not None}


async def test_a_logged_in_user_is_named_in_headers_and_the_body_is_empty(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        ada = await house.register("Ada")
        client = await house.log_in("Ada")
        answer = await client.get("/v1/verify")
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["x-auth-user-id"] == ada
        assert answer.headers["x-auth-user-name"] == "Ada"
        assert client.cookies[COOKIE].startswith(answer.headers["x-auth-session-id"] + ".")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["vary"] == "Cookie, Authorization"


async def test_a_username_is_percent_encoded(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("zoë/%,")
        name = (await client.get("/v1/verify")).headers["x-auth-user-name"]
        assert name == "zo%C3%AB%2F%25%2C"
        assert unquote(name) == "zoë/%,"


async def test_nobody_is_401_with_a_challenge(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        answer = await client.get("/v1/verify")
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert not [name for name in answer.headers if name.startswith("x-auth-")]


async def test_headers_that_the_client_made_up_are_not_echoed(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        answer = await client.get("/v1/verify", headers={"x-auth-user-id": "admin"})
        assert answer.status_code == 401
        assert "x-auth-user-id" not in answer.headers


async def test_a_warm_answer_asks_neither_the_store_nor_the_accounts(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        await client.get("/v1/verify")
        house.store.calls.clear()
        await house.accounts.close()
        for _ in range(10):
            assert (await client.get("/v1/verify")).status_code == 200
        assert (house.store.reads, house.store.writes) == (0, 0)


async def test_an_ended_session_is_refused_at_once(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        await house.sessions.end(await session_id(client))
        assert (await client.get("/v1/verify")).status_code == 401


async def test_a_store_that_cannot_be_asked_is_503_and_never_a_yes(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        house.store.down = True
        house.clock.advance(3)  # past the lease
        answer = await client.get("/v1/verify")
        assert answer.status_code == 503
        assert answer.headers["retry-after"]


METHODS = {"GET": True, "HEAD": True, "POST": False, "DELETE": False, "post": False, "get": False, "X": False}


@pytest.mark.parametrize("header", ["x-original-method", "x-forwarded-method"])
async def test_the_original_method_is_what_is_judged(tmp_path: Path, header: str) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        for method, safe in METHODS.items():
            for site, origin, passes in BROWSERS:
                answer = await client.get("/v1/verify", headers={header: method, **browser(site, origin)})
                assert answer.status_code == (200 if safe or passes else 403), (method, site, origin)


async def test_one_unsafe_method_among_several_decides(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        for first, second in (("GET", "POST"), ("POST", "GET")):
            headers = {"x-original-method": first, "x-forwarded-method": second, "origin": OTHER}
            assert (await client.get("/v1/verify", headers=headers)).status_code == 403
            lines = [("x-original-method", first), ("x-original-method", second), ("origin", OTHER)]
            assert (await client.get("/v1/verify", headers=lines)).status_code == 403


async def test_a_websocket_handshake_is_judged_by_its_origin(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        for handshake in ({"sec-websocket-key": "x"}, {"upgrade": "WebSocket"}):
            for origin, status in ((ORIGIN, 200), (OTHER, 403), ("null", 403), (None, 200)):
                headers = {"x-original-method": "GET", **handshake, **browser(None, origin)}
                answer = await client.get("/v1/verify", headers=headers)
                assert answer.status_code == status, (handshake, origin)


async def test_a_login_can_be_too_old(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        house.clock.advance(300)
        assert (await client.get("/v1/verify?max_age=300")).status_code == 200
        house.clock.advance(1)
        assert (await client.get("/v1/verify?other=1")).status_code == 200
        for limit in ("300", "0"):
            answer = await client.get(f"/v1/verify?max_age={limit}")
            assert answer.status_code == 401
            challenge = f'Bearer error="insufficient_user_authentication", max_age="{limit}"'
            assert answer.headers["www-authenticate"] == challenge


async def test_an_age_that_cannot_be_understood_is_refused_and_never_passed_over(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        for query in ("max_age=", "max_age=-1", "max_age=%C2%B2", "max_age=9999999999", "max_age=300&max_age=900"):
            assert (await client.get(f"/v1/verify?{query}")).status_code == 422, query


async def test_it_answers_head_and_no_other_method(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        answer = await client.head("/v1/verify")
        assert (answer.status_code, answer.content) == (200, b"")
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            refused = await client.request(method, "/v1/verify")
            assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
