"""Who may what: every REST route for nobody, for the owner, and for another user. A route without a row fails.

Also here, since every route passes by: what is answered is what `/openapi.json` says, and every answer is fenced in.
"""

from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from coatcheck.server.rest import ROUTERS
from tests.core.server.house import PASSWORD, House, session_id

NOBODY, OWNER, OTHER = "nobody", "owner", "other"

# Method and path → JSON body, and the status for nobody, the owner, and another user. `{user_id}` and `{session_id}`
# are the owner's: the session is one that the owner has beside the one that asks.
TABLE: dict[tuple[str, str], tuple[Any, int, int, int]] = {
    ("POST", "/v1/users"): ({"username": "new-{who}", "password": PASSWORD}, 201, 201, 201),
    ("GET", "/v1/users/{user_id}"): (None, 401, 200, 200),
    ("GET", "/v1/me"): (None, 401, 200, 200),
    ("POST", "/v1/me/password"): ({"current_password": PASSWORD, "new_password": "new horse"}, 401, 200, 200),
    ("POST", "/v1/login"): ({"username": "ada", "password": PASSWORD}, 200, 200, 200),
    ("POST", "/v1/logout"): (None, 204, 204, 204),
    ("POST", "/v1/reauthenticate"): ({"password": PASSWORD}, 401, 200, 200),
    ("GET", "/v1/sessions"): (None, 401, 200, 200),
    ("DELETE", "/v1/sessions/{session_id}"): (None, 401, 204, 404),
    ("DELETE", "/v1/sessions"): (None, 401, 200, 200),
    ("GET", "/v1/verify"): (None, 401, 200, 200),
    ("GET", "/v1/connection"): (None, 200, 200, 200),
    ("GET", "/healthz"): (None, 200, 200, 200),
    ("GET", "/readyz"): (None, 200, 200, 200),
    ("GET", "/openapi.json"): (None, 200, 200, 200),
    ("GET", "/docs"): (None, 200, 200, 200),
    ("GET", "/"): (None, 200, 200, 200),
    ("GET", "/assets/{digest}/{name}"): (None, 404, 404, 404),
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
        form = {name: value.format_map(ids) for name, value in form.items()}
    return await client.request(method, path.format_map(ids), json=form)


async def test_every_route_has_a_row_and_every_row_a_route(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        assert await enumerate_routes(house) == set(TABLE)


@pytest.mark.parametrize(("method", "path"), TABLE)
async def test_who_may_what(tmp_path: Path, method: str, path: str) -> None:
    form, nobodys, owners, others = TABLE[method, path]
    async with House(tmp_path) as house:
        user_id = await house.register("ada")
        owner, aside = await house.log_in("ada"), await house.log_in("ada")
        ids = {"user_id": user_id, "session_id": await session_id(aside), "digest": "x", "name": "y"}
        for who, client, status in (
            (NOBODY, house.client(), nobodys),
            (OTHER, await house.log_in("bob"), others),
            (OWNER, owner, owners),
        ):
            answer = await ask(client, method, path, form, {**ids, "who": who})
            assert answer.status_code == status, (who, answer.text)
            assert_fenced(answer)
            await assert_documented(house.client(), method, path, answer)
            if who != OWNER:
                # Whatever others did, the owner's sessions are as they were.
                assert (await aside.get("/v1/me")).status_code == 200


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
    reference = content[media_type]["schema"]["$ref"]
    assert reference.startswith("#/components/schemas/")
    schema = document["components"]["schemas"][reference.rpartition("/")[2]]
    body = answer.json()
    assert set(schema.get("required", ())) <= set(body) <= set(schema["properties"])
    if answer.status_code >= 400:
        assert (body["status"], reference) == (answer.status_code, "#/components/schemas/Problem")


async def test_the_schema_says_which_routes_need_a_login_and_what_they_refuse(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        document = (await client.get("/openapi.json")).json()
    (scheme,) = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["in"], scheme["name"]) == ("apiKey", "cookie", "__Host-session")
    for (method, path), (form, nobody, _, _) in TABLE.items():
        operation = document["paths"].get(path, {}).get(method.lower())
        if operation is None:
            continue
        answers = operation["responses"]
        assert ("security" in operation) is (nobody == 401), path
        assert ("401" in answers) is (nobody == 401 or path == "/v1/login"), path
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
