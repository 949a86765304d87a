"""Who may what: every REST route for nobody, owner, another user, a service, an administrator, and a token of the owner.

A route without a row fails. Also here, since every route passes by: what is answered is what `/openapi.json` says, and
every answer is fenced in.
"""

from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from starlette.routing import Route

from coatcheck.accounts import ServiceAccounts
from coatcheck.server.rest import ROUTERS
from tests.core.server.house import PASSWORD, House, bearer, log_in_for_tokens, session_id

OWNER = "owner"


class Row(NamedTuple):
    """What each is answered. `form` is the JSON body.

    `{user_id}` and `{session_id}` are the owner's: the session is one that the owner has beside the one that asks.
    """

    nobody: int
    owner: int
    other: int
    service: int
    admin: int
    form: Any = None
    token: int | None = None
    """The owner by an access token; None: as by cookie."""


AUDIENCE = "https://orders.example.com"
# Anybody may send these: nobody needs to be logged in, and a bad access token is refused all the same.
OPEN = {
    "/v1/login",
    "/v1/login/passkey",
    "/v1/login/passkey/options",
    "/v1/login/recovery",
    "/v1/logout",
    "/v1/token/refresh",
    "/v1/token/revoke",
}
LOGIN = {"username": "ada", "password": PASSWORD}
CHANGE = {"current_password": PASSWORD, "new_password": "new horse"}

TABLE: dict[tuple[str, str], Row] = {
    # To the routes of users a service is nobody, and an administrator is another user.
    ("POST", "/v1/users"): Row(201, 201, 201, 201, 201, {"username": "new-{who}", "password": PASSWORD}),
    ("GET", "/v1/users/{user_id}"): Row(401, 200, 200, 401, 200),
    ("GET", "/v1/me"): Row(401, 200, 200, 401, 200),
    ("POST", "/v1/me/password"): Row(401, 200, 200, 401, 200, CHANGE),
    ("POST", "/v1/login"): Row(200, 200, 200, 200, 200, LOGIN, token=400),
    ("POST", "/v1/logout"): Row(204, 204, 204, 204, 204),
    ("POST", "/v1/reauthenticate"): Row(401, 200, 200, 401, 200, {"password": PASSWORD}),
    ("GET", "/v1/sessions"): Row(401, 200, 200, 401, 200),
    ("PATCH", "/v1/sessions/{session_id}"): Row(401, 200, 404, 401, 404, {"name": "phone"}),
    ("DELETE", "/v1/sessions/{session_id}"): Row(401, 204, 404, 401, 404),
    ("DELETE", "/v1/sessions"): Row(401, 200, 200, 401, 200),
    # The same as a WebSocket has a test of its own, in test_events_socket.
    ("GET", "/v1/events"): Row(401, 200, 200, 401, 200),
    ("POST", "/v1/token"): Row(401, 200, 200, 401, 200, {"audience": AUDIENCE}, token=403),
    # Who has a refresh token needs nothing else; this is none.
    ("POST", "/v1/token/refresh"): Row(400, 400, 400, 400, 400, {"refresh_token": "x"}),
    ("POST", "/v1/token/revoke"): Row(200, 200, 200, 200, 200, {"token": "x"}),
    ("POST", "/v1/tickets"): Row(401, 200, 200, 401, 200),
    ("GET", "/v1/verify"): Row(401, 200, 200, 401, 200),
    ("GET", "/v1/me/security"): Row(401, 200, 200, 401, 200),
    ("GET", "/v1/activity"): Row(401, 200, 200, 401, 200),
    # Nobody here has a passkey, and what is shown is none; what real ones do is in test_rest_security.
    ("GET", "/v1/passkeys"): Row(401, 200, 200, 401, 200),
    ("POST", "/v1/passkeys/options"): Row(401, 200, 200, 401, 200),
    ("POST", "/v1/passkeys"): Row(401, 422, 422, 401, 422, {"credential": {}}),
    ("PATCH", "/v1/passkeys/{passkey_id}"): Row(401, 404, 404, 401, 404, {"name": "phone"}),
    ("DELETE", "/v1/passkeys/{passkey_id}"): Row(401, 404, 404, 401, 404),
    ("POST", "/v1/login/passkey/options"): Row(200, 200, 200, 200, 200),
    ("POST", "/v1/login/passkey"): Row(401, 401, 401, 401, 401, {"credential": {}}, token=400),
    ("POST", "/v1/login/recovery"): Row(401, 401, 401, 401, 401, {"username": "ada", "code": "x"}, token=400),
    ("POST", "/v1/reauthenticate/passkey/options"): Row(401, 422, 422, 401, 422),
    ("POST", "/v1/reauthenticate/passkey"): Row(401, 403, 403, 401, 403, {"credential": {}}),
    ("POST", "/v1/recovery-codes"): Row(401, 200, 200, 401, 200),
    # Administrators', and nobody else's.
    ("GET", "/v1/admin/overview"): Row(401, 403, 403, 401, 200),
    ("GET", "/v1/admin/users"): Row(401, 403, 403, 401, 200),
    ("GET", "/v1/admin/users/{user_id}"): Row(401, 403, 403, 401, 200),
    ("PATCH", "/v1/admin/users/{user_id}"): Row(401, 403, 403, 401, 200, {"disabled": True}),
    ("DELETE", "/v1/admin/users/{user_id}/sessions"): Row(401, 403, 403, 401, 200),
    ("DELETE", "/v1/admin/sessions/{session_id}"): Row(401, 403, 403, 401, 204),
    ("DELETE", "/v1/admin/sessions"): Row(401, 403, 403, 401, 200),
    ("GET", "/v1/admin/keys"): Row(401, 403, 403, 401, 200),
    ("POST", "/v1/admin/keys/rotate"): Row(401, 403, 403, 401, 200),
    ("GET", "/v1/admin/log"): Row(401, 403, 403, 401, 200),
    # To the routes of services all users are nobody.
    ("GET", "/v1/service"): Row(401, 401, 401, 200, 401),
    ("GET", "/v1/revocations"): Row(401, 401, 401, 200, 401),
    # Anybody's.
    ("GET", "/v1/connection"): Row(200, 200, 200, 200, 200),
    ("GET", "/.well-known/jwks.json"): Row(200, 200, 200, 200, 200),
    ("GET", "/healthz"): Row(200, 200, 200, 200, 200),
    ("GET", "/readyz"): Row(200, 200, 200, 200, 200),
    ("GET", "/openapi.json"): Row(200, 200, 200, 200, 200),
    ("GET", "/docs"): Row(200, 200, 200, 200, 200),
    ("GET", "/"): Row(200, 200, 200, 200, 200),
    ("GET", "/assets/{digest}/{name}"): Row(404, 404, 404, 404, 404),
    # The page of forms: what is no form is 415; what one may by a form is in tests/slow/browser/test_without_javascript.
    ("GET", "/page"): Row(200, 200, 200, 200, 200),
    ("POST", "/page/login"): Row(415, 415, 415, 415, 415, LOGIN),
    ("POST", "/page/logout"): Row(303, 303, 303, 303, 303),
    ("POST", "/page/end"): Row(415, 415, 415, 415, 415, {"session": "{session_id}"}),
    ("POST", "/page/end-others"): Row(303, 303, 303, 303, 303),
    ("GET", "/page/credentials"): Row(401, 200, 200, 401, 200, token=401),
}


async def enumerate_routes(house: House) -> set[tuple[str, str]]:
    """Every route of the application: those that FastAPI serves, and those that the OpenAPI document adds."""
    async with house.client() as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    found = {(method.upper(), path) for path, operations in paths.items() for method in operations}
    routes = [route for router in ROUTERS for route in router.routes]
    # FastAPI keeps the routers that it includes as they are; all else in its list is a route itself.
    routes += [route for route in house.routes() if "IncludedRouter" not in type(route).__name__]
    for route in routes:
        # Anything but a plain route (a mount, a WebSocket) needs another kind of row.
        assert isinstance(route, Route), route
        found |= {(method, route.path) for method in route.methods or () if method != "HEAD"}
    return found


async def ask(client: httpx.AsyncClient, method: str, path: str, form: Any, ids: dict[str, str]) -> httpx.Response:
    if form is not None:
        form = {name: value.format_map(ids) if isinstance(value, str) else value for name, value in form.items()}
    return await client.request(method, path.format_map(ids), json=form)


async def test_every_route_has_a_row_and_every_row_a_route(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        assert await enumerate_routes(house) == set(TABLE)


@pytest.mark.parametrize(("method", "path"), TABLE)
async def test_who_may_what(tmp_path: Path, method: str, path: str) -> None:
    row = TABLE[method, path]
    async with House(tmp_path, audiences=[AUDIENCE]) as house:
        house.worker.draining = path == "/v1/revocations"  # so that the answer has an end, here and below
        if path == "/v1/events":
            house.activity.leave()
        user_id = await house.register("ada")
        owner, aside = await house.log_in("ada"), await house.log_in("ada")
        ids = {
            "user_id": user_id,
            "session_id": await session_id(aside),
            "passkey_id": "A" * 22,
            "digest": "x",
            "name": "y",
        }
        others = [
            ("nobody", house.client()),
            ("other", await house.log_in("bob")),
            ("service", await service_client(house)),
        ]
        admin = ("admin", await admin_client(house))
        # The owner last, for what the owner may is sometimes the end of it; and so it is with administrators.
        last = [(OWNER, owner), admin] if path.startswith("/v1/admin/") else [admin, (OWNER, owner)]
        for who, client in (*others, *last):
            answer = await ask(client, method, path, row.form, {**ids, "who": who})
            assert answer.status_code == getattr(row, who), (who, answer.text)
            assert_fenced(answer)
            await assert_documented(house.client(), method, path, answer)
            if who != OWNER and (who, client) != last[-1]:
                # Whatever others did, the owner's sessions are as they were.
                assert (await aside.get("/v1/me")).status_code == 200


@pytest.mark.parametrize(("method", "path"), TABLE)
async def test_what_the_owner_may_by_an_access_token(tmp_path: Path, method: str, path: str) -> None:
    row = TABLE[method, path]
    async with House(tmp_path, audiences=[AUDIENCE]) as house:
        if path == "/v1/events":
            house.activity.leave()
        user_id = await house.register("ada")
        aside = await house.log_in("ada")
        ids = {
            "user_id": user_id,
            "session_id": await session_id(aside),
            "passkey_id": "A" * 22,
            "digest": "x",
            "name": "y",
            "who": "token",
        }
        client = house.client(headers=bearer((await log_in_for_tokens(house.client(), "ada"))["access_token"]))
        answer = await ask(client, method, path, row.form, ids)
        assert answer.status_code == (row.owner if row.token is None else row.token), answer.text
        assert_fenced(answer)
        await assert_documented(house.client(), method, path, answer)
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(("method", "path"), TABLE)
async def test_a_bad_token_is_401_everywhere_whatever_cookie_comes_with_it(
    tmp_path: Path, method: str, path: str
) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        ids = dict.fromkeys(("user_id", "session_id", "passkey_id", "digest", "name", "who"), "x")
        client.headers.update(bearer("e.e.e"))
        answer = await ask(client, method, path, TABLE[method, path].form, ids)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
        assert "e.e.e" not in answer.text
        assert_fenced(answer)
        if path in OPEN or TABLE[method, path].nobody == 401:
            await assert_documented(house.client(), method, path, answer)


async def service_client(house: House) -> httpx.AsyncClient:
    """A machine with a credential of its own."""
    service, secret = await ServiceAccounts(house.accounts).add("orders", ["https://orders.example.com"])
    return house.client(auth=(service.id, secret))


async def admin_client(house: House) -> httpx.AsyncClient:
    """An administrator who is logged in."""
    await house.accounts.register("root", PASSWORD, is_admin=True)
    return await house.log_in("root")


async def test_an_administrator_sees_only_their_own_sessions_by_the_routes_of_users(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        owner, admin = await house.log_in("ada"), await admin_client(house)
        (session,) = (await admin.get("/v1/sessions")).json()["sessions"]
        assert session["current"]
        assert (await admin.delete("/v1/sessions")).json() == {"ended": 0}
        assert (await owner.get("/v1/me")).status_code == 200


async def test_nobody_becomes_an_administrator_over_http(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = house.client()
        for name in ("is_admin", "admin", "role"):
            form = {"username": "ada", "password": PASSWORD, name: True}
            assert (await client.post("/v1/users", json=form)).status_code == 422
        assert (await client.post("/v1/users", json={"username": "ada", "password": PASSWORD})).status_code == 201
        ada = await house.accounts.find("ada")
        assert ada is not None
        assert not ada.is_admin


async def test_a_service_beside_a_login_is_the_service_there_and_the_user_here(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        service = await service_client(house)
        service.cookies = (await house.log_in("ada")).cookies
        assert (await service.get("/v1/service")).json()["name"] == "orders"
        assert (await service.get("/v1/me")).json()["username"] == "ada"


def assert_fenced(answer: httpx.Response) -> None:
    headers = answer.headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["x-coatcheck-worker"] == "7"
    for name in set(headers) - {"vary", "set-cookie"}:
        assert len(headers.get_list(name)) == 1, name
    if answer.request.url.path.startswith("/v1/"):
        assert headers["cache-control"] == "no-store"


async def assert_documented(client: httpx.AsyncClient, method: str, path: str, answer: httpx.Response) -> None:
    document = (await client.get("/openapi.json")).json()
    operation = document["paths"].get(path, {}).get(method.lower())
    if operation is None:
        assert not path.startswith("/v1/")
        return
    described = operation["responses"][str(answer.status_code)]
    content = described.get("content", {})
    if not answer.content:
        assert content == {}
        return
    (media_type,) = content
    assert answer.headers["content-type"] == media_type
    if media_type == "text/event-stream":
        return
    described = content[media_type]["schema"]
    body = answer.json()
    fitting: list[str] = []
    for reference in [one["$ref"] for one in described.get("anyOf", [described])]:
        assert reference.startswith("#/components/schemas/")
        schema = document["components"]["schemas"][reference.rpartition("/")[2]]
        if set(schema.get("required", ())) <= set(body) <= set(schema["properties"]):
            fitting.append(reference)
    (reference,) = fitting
    if answer.status_code >= 400:
        assert (body["status"], reference) == (answer.status_code, "#/components/schemas/Problem")


async def test_the_schema_says_which_routes_need_a_login_and_what_they_refuse(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        document = (await client.get("/openapi.json")).json()
    schemes = document["components"]["securitySchemes"]
    assert set(schemes) == {"session", "service", "bearer"}
    session, service, access = schemes["session"], schemes["service"], schemes["bearer"]
    assert (access["type"], access["scheme"], access["bearerFormat"]) == ("http", "bearer", "JWT")
    assert (session["type"], session["in"], session["name"]) == ("apiKey", "cookie", "__Host-session")
    assert (service["type"], service["scheme"]) == ("http", "basic")
    for (method, path), row in TABLE.items():
        form, needs_login = row.form, row.nobody == 401 and path not in OPEN
        operation = document["paths"].get(path, {}).get(method.lower())
        if operation is None:
            continue
        if needs_login:
            names = ["service"] if row.service == 200 else ["session", "bearer"]
            if row.token == 403:
                names.remove("bearer")
            assert operation["security"] == [{name: []} for name in names], path
        answers = operation["responses"]
        assert ("security" in operation) is needs_login, path
        assert ("401" in answers) is (needs_login or path in OPEN), path
        if form is not None:
            assert {"400", "413", "422"} <= set(answers), path
        if method != "GET":
            assert "403" in answers, path  # another site
        if path.startswith("/v1/") and path != "/v1/connection":
            assert "503" in answers, path
        for status, described in answers.items():
            if status >= "400":
                assert set(described["content"]) == {"application/problem+json"}, (path, status)
    assert "HTTPValidationError" not in document["components"]["schemas"]
