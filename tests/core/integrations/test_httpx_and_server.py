"""TokenAuth against Coatcheck's own server: its routes, its words, its grace."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from coatcheck.integrations.httpx import SessionOver, TokenAuth, Tokens
from tests.core.server.house import ORIGIN, House, log_in_for_tokens


async def logged_in(house: House, stored: list[Tokens]) -> tuple[Any, TokenAuth]:
    client = house.client()
    await house.register("ada", "Ada")
    given = await log_in_for_tokens(client, "ada")
    auth = TokenAuth(
        f"{ORIGIN}/v1/token/refresh",
        access_token=given["access_token"],
        refresh_token=given["refresh_token"],
        on_tokens=stored.append,
        client=client,
    )
    client.auth = auth
    return client, auth


async def test_a_client_goes_on_for_hours_with_one_exchange_for_each_life_of_an_access_token(tmp_path: Path) -> None:
    stored: list[Tokens] = []
    async with House(tmp_path) as house:
        client, auth = await logged_in(house, stored)
        for _ in range(4):
            answers = await asyncio.gather(*(client.get("/v1/me") for _ in range(10)))
            assert {answer.status_code for answer in answers} == {200}
            house.clock.advance(1800)
        assert len(stored) == 3
        assert stored[-1] == auth.tokens
        await client.aclose()


async def test_it_knows_when_the_session_was_ended_elsewhere_and_goes_on_after_a_login(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client, auth = await logged_in(house, [])
        browser = await house.log_in("ada")
        assert (await browser.delete("/v1/sessions")).is_success
        with pytest.raises(SessionOver):
            await client.get("/v1/me")
        assert auth.session_over
        given = await log_in_for_tokens(house.client(), "ada")
        auth.use(Tokens(given["access_token"], given["refresh_token"], given["expires_in"]))
        assert (await client.get("/v1/me")).json()["name"] == "Ada"
        assert (await client.post("/v1/logout")).status_code == 204
        with pytest.raises(SessionOver):
            await client.get("/v1/me")
        await client.aclose()
