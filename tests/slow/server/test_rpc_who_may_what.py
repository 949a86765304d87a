"""Who may what over gRPC: every method for nobody, owner, another user, a service, an administrator, and a token of the owner.

A method without a row fails.
"""

from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from coatcheck.accounts import ServiceAccounts
from coatcheck.server.rpc._generated import sessions_pb2 as pb
from tests.core.server.house import PASSWORD, House, log_in_for_tokens, session_id
from tests.core.server.rpc import SERVICE, Client, by_cookie, by_service, by_token, code, serving

OK, NOBODY, NONE = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.NOT_FOUND


class Row(NamedTuple):
    """What each is answered. The session that is named is one that the owner has beside the one that asks."""

    nobody: grpc.StatusCode
    owner: grpc.StatusCode
    other: grpc.StatusCode
    service: grpc.StatusCode
    admin: grpc.StatusCode


TABLE: dict[str, Row] = {
    # To what is for users a service is nobody, and an administrator is another user.
    "List": Row(NOBODY, OK, OK, NOBODY, OK),
    "End": Row(NOBODY, OK, NONE, NOBODY, NONE),
    "EndAll": Row(NOBODY, OK, OK, NOBODY, OK),
    "Converse": Row(NOBODY, OK, OK, NOBODY, OK),
    # To what is for services all users are nobody.
    "Check": Row(NOBODY, NOBODY, NOBODY, OK, NOBODY),
    # To each their own: what is told differs.
    "Watch": Row(NOBODY, OK, OK, OK, OK),
}


def test_every_method_has_a_row_and_every_row_a_method() -> None:
    assert set(TABLE) == {method.name for method in SERVICE.methods}


async def ask(client: Client, method: str, metadata: Any, aside: str) -> grpc.StatusCode:
    request = {
        "End": pb.EndRequest(session_id=aside),
        "Check": pb.CheckRequest(cookie="x"),
        "Converse": pb.ConverseRequest(list=pb.ListRequest()),
    }.get(method)
    return await code(client(method, metadata, request))


@pytest.mark.parametrize("method", TABLE)
async def test_who_may_what(tmp_path: Path, method: str) -> None:
    row = TABLE[method]
    async with House(tmp_path) as house, serving(house) as channel:
        client = Client(channel)
        owner, aside, other = await house.log_in("ada"), await house.log_in("ada"), await house.log_in("bob")
        await house.accounts.register("root", PASSWORD, is_admin=True)
        admin = await house.log_in("root")
        other_id = await session_id(aside)
        for who, metadata in (
            ("nobody", []),
            ("other", by_cookie(other)),
            ("service", await by_service(house)),
            ("admin", by_cookie(admin)),
        ):
            assert await ask(client, method, metadata, other_id) is getattr(row, who), who
            # Whatever others did, the owner's sessions are as they were.
            assert len((await client("List", by_cookie(owner))).sessions) == 2
        assert await ask(client, method, by_cookie(owner), other_id) is row.owner
        tokens = await log_in_for_tokens(house.client(), "ada")
        another = await session_id(await house.log_in("ada"))
        assert await ask(client, method, by_token(tokens["access_token"]), another) is row.owner


async def test_a_bad_token_is_unauthenticated_everywhere_whatever_cookie_comes_with_it(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel:
        cookie = by_cookie(await house.log_in("ada"))
        service = await by_service(house)
        for method in TABLE:
            for metadata in ([*by_token("e.e.e"), *cookie], [*service, *by_token("e.e.e")], [*service, *service]):
                assert await ask(Client(channel), method, metadata, "x") is NOBODY, method


async def test_a_credential_of_a_service_that_was_removed_is_nobodys(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel:
        service = await by_service(house)
        assert await ask(Client(channel), "Check", service, "x") is OK
        await ServiceAccounts(house.accounts).remove("orders")
        for method in TABLE:
            assert await ask(Client(channel), method, service, "x") is NOBODY, method


async def test_a_page_of_another_site_may_call_nothing(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel:
        cookie = by_cookie(await house.log_in("ada"))
        for method in TABLE:
            for said in (
                [("origin", "https://evil.example")],
                [("sec-fetch-site", "cross-site")],
                [("origin", "null")],
            ):
                found = await ask(Client(channel), method, [*cookie, *said], "x")
                assert found is grpc.StatusCode.PERMISSION_DENIED, method
