"""Who may what: every field of GraphQL for nobody, owner, another user, a service, an administrator, and a token of the owner.

A field without a row fails. `tests/core/server/test_rest_who_may_what.py` is the same for the routes of REST.
"""

from pathlib import Path
from typing import Any, NamedTuple

import httpx

from coatcheck.server.graphql.schema import schema
from tests.core.graphql_client import GraphQLStream
from tests.core.server.house import PASSWORD, House, bearer, log_in_for_tokens, session_id
from tests.slow.server.test_graphql import enter
from tests.slow.server.test_rest_who_may_what import admin_client, assert_fenced, service_client

OWNER = "owner"


class Row(NamedTuple):
    """The status that each is told in the error's extensions, 200 where there is none. `field` is what is asked.

    `{user_id}` and `{session_id}` are the owner's: the session is one that the owner has beside the one that asks.
    """

    nobody: int
    owner: int
    other: int
    service: int
    admin: int
    field: str
    token: int | None = None
    """The owner by an access token; None: as by cookie."""


LOGIN = f'login(username: "{{owner}}", password: "{PASSWORD}") {{ user {{ id }} }}'
CHANGE = f'changePassword(currentPassword: "{PASSWORD}", newPassword: "new horse") {{ user {{ id }} }}'
REGISTER = f'register(username: "new-{{who}}", password: "{PASSWORD}") {{ id }}'
AGAIN = f'reauthenticate(password: "{PASSWORD}") {{ user {{ id }} }}'

TABLE: dict[tuple[str, str], Row] = {
    # To all of them a service is nobody, and an administrator is another user.
    ("query", "me"): Row(401, 200, 200, 401, 200, "me { id }"),
    ("query", "user"): Row(401, 200, 200, 401, 200, 'user(id: "{user_id}") { id }'),
    ("query", "sessions"): Row(401, 200, 200, 401, 200, "sessions { id }"),
    ("query", "connection"): Row(200, 200, 200, 200, 200, "connection { protocol }"),
    ("mutation", "register"): Row(200, 200, 200, 200, 200, REGISTER),
    ("mutation", "login"): Row(200, 200, 200, 200, 200, LOGIN, token=400),
    ("mutation", "logout"): Row(200, 200, 200, 200, 200, "logout"),
    ("mutation", "reauthenticate"): Row(401, 200, 200, 401, 200, AGAIN),
    ("mutation", "changePassword"): Row(401, 200, 200, 401, 200, CHANGE),
    ("mutation", "endSession"): Row(401, 200, 404, 401, 404, 'endSession(id: "{session_id}")'),
    ("mutation", "endOtherSessions"): Row(401, 200, 200, 401, 200, "endOtherSessions"),
    ("mutation", "renameSession"): Row(401, 200, 404, 401, 404, 'renameSession(id: "{session_id}", name: "x") { id }'),
    ("subscription", "sessionEvents"): Row(401, 200, 200, 401, 200, "sessionEvents { kind }"),
}


def test_every_field_has_a_row_and_every_row_a_field() -> None:
    graphql = schema(introspection=True)._schema
    roots = {
        "query": graphql.query_type,
        "mutation": graphql.mutation_type,
        "subscription": graphql.subscription_type,
    }
    there = {(kind, name) for kind, root in roots.items() if root is not None for name in root.fields}
    assert there == set(TABLE)


async def status_of(house: House, client: httpx.AsyncClient, kind: str, field: str) -> int:
    """What is told over HTTP."""
    if kind == "subscription":
        return await status_of_a_subscription(house, client, field)
    answer = await client.post("/graphql", json={"query": f"{kind} {{ {field} }}"})
    assert answer.status_code == 200
    assert_fenced(answer)
    return status_in(answer.json())


async def status_of_a_subscription(house: House, client: httpx.AsyncClient, field: str) -> int:
    headers = [
        (name.encode(), value.encode())
        for name, value in client.build_request("POST", "/graphql").headers.items()
        if name in ("authorization", "cookie")
    ]
    if client.auth is not None:
        request = next(client.auth.auth_flow(client.build_request("POST", "/graphql")))
        headers.append((b"authorization", request.headers["authorization"].encode()))
    stream = GraphQLStream(house.app, f"subscription {{ {field} }}", *headers)
    assert (await stream.started())[":status"] == "200"
    kind, first = await stream.event() or ("", None)
    assert kind == "next"
    if "errors" in first:
        assert await stream.event() == ("complete", None)
    else:
        assert first == {"data": {"sessionEvents": {"kind": "BEGIN"}}}
        await stream.leave()
    return status_in(first)


def status_in(answer: Any) -> int:
    (error,) = answer.get("errors") or [{"extensions": {"status": 200}}]
    return int(error["extensions"]["status"])


async def test_who_may_what(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        service = await service_client(house)
        await admin_client(house)
        for (kind, name), row in TABLE.items():
            # Each with users of its own: some of it is the end of a session, or of a password.
            user_id = await house.register(f"ada-{name}")
            aside = await enter(house, f"ada-{name}")
            for who, client in (
                ("nobody", house.client()),
                ("other", await enter(house, f"bob-{name}")),
                ("service", service),
                ("admin", await enter(house, "root")),
                (OWNER, await enter(house, f"ada-{name}")),  # last, for what the owner may is sometimes the end of it
            ):
                field = row.field.replace("{user_id}", user_id).replace("{session_id}", await session_id(aside))
                field = field.replace("{who}", who).replace("{owner}", f"ada-{name}")
                assert await status_of(house, client, kind, field) == getattr(row, who), (name, who)
                if who != OWNER:
                    # Whatever others did, the owner's sessions are as they were.
                    assert (await aside.get("/v1/me")).status_code == 200


async def test_what_the_owner_may_by_an_access_token(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        for (kind, name), row in TABLE.items():
            user_id = await house.register(f"ada-{name}")
            aside = await enter(house, f"ada-{name}")
            field = row.field.replace("{user_id}", user_id).replace("{session_id}", await session_id(aside))
            field = field.replace("{who}", "token").replace("{owner}", f"ada-{name}")
            token = (await log_in_for_tokens(house.client(), f"ada-{name}"))["access_token"]
            client = house.client(headers=bearer(token))
            expected = row.owner if row.token is None else row.token
            assert await status_of(house, client, kind, field) == expected, name
            assert not client.cookies


async def test_a_bad_token_is_401_whatever_is_asked_and_whatever_cookie_comes_with_it(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        client.headers.update(bearer("e.e.e"))
        for query in ("{ connection { protocol } }", "mutation { logout }"):
            answer = await client.post("/graphql", json={"query": query})
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
            assert_fenced(answer)
