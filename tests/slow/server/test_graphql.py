"""What may be asked and done by GraphQL: the same as by REST, in the same words, and nothing twice."""

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from graphql import GraphQLEnumType, GraphQLNonNull, GraphQLScalarType
from starlette.requests import Request
from starlette.responses import Response

from coatcheck import Sessions
from coatcheck.accounts.activity import KINDS
from coatcheck.server.connection_facts import ConnectionFacts
from coatcheck.server.graphql import limits
from coatcheck.server.graphql.context import Context
from coatcheck.server.graphql.schema import schema
from coatcheck.server.graphql.types import SessionEventKind
from coatcheck.server.schemes import SCHEME
from coatcheck.server.services import Services
from coatcheck.testing import GatedStore
from coatcheck.testing.clients import log_in
from tests.core.server.house import COOKIE, ORIGIN, PASSWORD, House, bearer, cookie_of, session_id

WRONG = "incorrect horse"
LOGIN = """mutation ($username: String!, $password: String!, $remember: Boolean! = false, $mode: LoginMode! = COOKIE) {
  login(username: $username, password: $password, remember: $remember, mode: $mode) {
    user { id name username }
    session { id current createdAt authenticatedAt lastSeenAt expiresAt kind name method address userAgent }
    tokens { accessToken tokenType expiresIn refreshToken }
  }
}"""


async def enter(house: House, username: str = "ada") -> httpx.AsyncClient:
    """A client that is logged in, as `House.log_in` gives it, but without a password's costs."""
    user = await house.accounts.find(username)
    user_id = await house.register(username) if user is None else user.id
    client = house.client()
    await log_in(client, house.sessions, user_id, about={SCHEME: "https", "username": username})
    return client


async def ask(client: httpx.AsyncClient, query: str, **variables: Any) -> Any:
    """The whole answer to a POST."""
    answer = await client.post("/graphql", json={"query": query, "variables": variables})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def data(client: httpx.AsyncClient, query: str, **variables: Any) -> Any:
    answer = await ask(client, query, **variables)
    assert "errors" not in answer, answer
    return answer["data"]


async def refusal(client: httpx.AsyncClient, query: str, **variables: Any) -> tuple[int, str, str]:
    """Status, code and message of the one error."""
    (error,) = (await ask(client, query, **variables))["errors"]
    return error["extensions"]["status"], error["extensions"]["code"], error["message"]


def snake(shown: Any) -> Any:
    """An answer of GraphQL as REST writes it."""
    if isinstance(shown, dict):
        return {
            "".join(f"_{c.lower()}" if c.isupper() else c for c in key): snake(value) for key, value in shown.items()
        }
    return [snake(one) for one in shown] if isinstance(shown, list) else shown


# ---- the same as REST


async def test_a_login_sets_the_cookie_that_rest_knows_and_says_what_rest_says(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client, house.client() as other:
        await house.register("ada", "Ada L.")
        answer = await client.post(
            "/graphql", json={"query": LOGIN, "variables": {"username": "ADA", "password": PASSWORD, "remember": True}}
        )
        by_rest = await other.post("/v1/login", json={"username": "ada", "password": PASSWORD, "remember": True})
        shown = answer.json()["data"]["login"]
        assert shown.pop("tokens") is None
        expected = by_rest.json()
        assert snake(shown)["user"] == expected["user"]
        own = {"id": shown["session"]["id"], "kind": "COOKIE"}
        assert {**snake(shown)["session"], "connections": []} == {**expected["session"], **own}  # what REST alone tells
        names = [[line.split("=")[0] for line in each.headers.get_list("set-cookie")] for each in (answer, by_rest)]
        assert names[0] == names[1] == ["__Host-device", COOKIE]
        tails = [
            [line.partition("; ")[2] for line in each.headers.get_list("set-cookie")] for each in (answer, by_rest)
        ]
        assert tails[0] == tails[1]
        assert answer.headers["cache-control"] == "no-store"
        assert (await client.get("/v1/me")).json() == expected["user"]
        assert snake(await data(client, "{ me { id name username } }")) == {"me": expected["user"]}


async def test_sessions_are_those_that_rest_lists_and_can_be_named_and_ended(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client, other = await house.log_in("ada"), await house.log_in("ada")
        fields = "id current createdAt authenticatedAt lastSeenAt expiresAt kind name method address userAgent"
        listed = snake(await data(client, f"{{ sessions {{ {fields} }} }}"))["sessions"]
        by_rest = (await client.get("/v1/sessions")).json()["sessions"]
        assert [{**one, "kind": one["kind"].lower(), "connections": []} for one in listed] == by_rest
        theirs = await session_id(other)
        renamed = await data(
            client, 'mutation ($id: ID!) { renameSession(id: $id, name: "Phone") { id name current } }', id=theirs
        )
        assert renamed == {"renameSession": {"id": theirs, "name": "Phone", "current": False}}
        assert await data(client, "mutation ($id: ID!) { endSession(id: $id) }", id=theirs) == {"endSession": True}
        assert (await other.get("/v1/me")).status_code == 401
        for _ in range(2):
            await house.log_in("ada")
        assert await data(client, "mutation { endOtherSessions }") == {"endOtherSessions": 2}
        assert await data(client, "{ sessions { current } }") == {"sessions": [{"current": True}]}


async def test_ending_this_session_deletes_its_cookie_as_logging_out_does(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        for query in ("mutation { logout }", "mutation ($id: ID!) { endSession(id: $id) }"):
            client = await house.log_in("ada")
            variables = {"id": await session_id(client)} if "$id" in query else {}
            answer = await client.post("/graphql", json={"query": query, "variables": variables})
            assert "errors" not in answer.json()
            assert cookie_of(answer) == ""
            assert (await client.get("/v1/me")).status_code == 401
            assert await data(client, "mutation { logout }") == {"logout": True}


async def test_tokens_are_those_that_rest_gives(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        await house.register("ada")
        answer = await client.post(
            "/graphql", json={"query": LOGIN, "variables": {"username": "ada", "password": PASSWORD, "mode": "TOKEN"}}
        )
        assert "set-cookie" not in answer.headers
        login = answer.json()["data"]["login"]
        assert login["session"]["kind"] == "TOKEN"
        assert login["session"]["current"] is True
        tokens = login["tokens"]
        assert (tokens["tokenType"], tokens["expiresIn"]) == ("Bearer", 300)
        client.headers.update(bearer(tokens["accessToken"]))
        assert (await data(client, "{ me { username } }"))["me"] == {"username": "ada"}
        assert await refusal(client, LOGIN, username="ada", password=PASSWORD) == (
            400,
            "BAD_REQUEST",
            "With an access token no cookie is set: leave it out, or say mode token.",
        )
        again = await data(
            client,
            "mutation ($p: String!) { reauthenticate(password: $p) { tokens { accessToken refreshToken } } }",
            p=PASSWORD,
        )
        assert (await client.get("/v1/me")).status_code == 401, "the token of the old secret"
        client.headers.update(bearer(again["reauthenticate"]["tokens"]["accessToken"]))
        assert await data(client, "mutation { logout }") == {"logout": True}
        assert (await client.get("/v1/me")).status_code == 401
        del client.headers["authorization"]
        refresh = {"refresh_token": again["reauthenticate"]["tokens"]["refreshToken"]}
        assert (await client.post("/v1/token/refresh", json=refresh)).status_code == 400


async def test_a_changed_password_ends_the_other_sessions_and_keeps_this_one_under_a_new_secret(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client, other = await house.log_in("ada"), await house.log_in("ada")
        old = client.cookies[COOKIE]
        change = "mutation ($old: String!, $new: String!) { changePassword(currentPassword: $old, newPassword: $new) { session { id } } }"
        assert (await refusal(client, change, old=WRONG, new="new horse"))[:2] == (403, "FORBIDDEN")
        assert (await refusal(client, change, old=PASSWORD, new="ada"))[:2] == (422, "BAD_USER_INPUT")
        assert (await other.get("/v1/me")).status_code == 200
        changed = await data(client, change, old=PASSWORD, new="new horse")
        assert changed["changePassword"]["session"]["id"] == await session_id(client)
        assert client.cookies[COOKIE] != old
        assert (await other.get("/v1/me")).status_code == 401
        assert (await refusal(house.client(), LOGIN, username="ada", password=PASSWORD))[0] == 401
        assert await data(house.client(), LOGIN, username="ada", password="new horse")


async def test_registering_is_what_it_is_by_rest(tmp_path: Path) -> None:
    register = 'mutation ($u: String!, $p: String! = "correct horse", $n: String! = "") { register(username: $u, password: $p, name: $n) { id name username } }'
    async with House(tmp_path) as house, house.client() as client:
        made = await data(client, register, u="ada", n="Ada L.")
        assert (made["register"]["username"], made["register"]["name"]) == ("ada", "Ada L.")
        assert await data(client, "{ connection { protocol } }"), "and logs nobody in"
        assert (await refusal(client, "{ me { id } }"))[0] == 401
        taken = await ask(client, register, u="ADA")
        assert taken["errors"][0]["extensions"] == {
            "code": "CONFLICT",
            "status": 409,
            "errors": [{"field": "username", "detail": taken["errors"][0]["message"]}],
        }
        short = await ask(client, register, u="bob", p="short")
        assert short["errors"][0]["extensions"]["errors"][0]["field"] == "password"
    (tmp_path / "closed").mkdir()
    async with House(tmp_path / "closed", registration="closed") as house, house.client() as client:
        assert await refusal(client, register, u="ada") == (
            403,
            "FORBIDDEN",
            "Accounts are made by the operator here, not by visitors.",
        )


async def test_guesses_are_counted_with_those_by_rest_and_a_known_device_has_its_own(tmp_path: Path) -> None:
    throttling = {"account_attempts": 4, "account_period": 300}
    async with House(tmp_path, throttling=throttling) as house, house.client() as client:
        owner = await house.log_in("ada")
        device = house.client(headers={"cookie": f"__Host-device={owner.cookies['__Host-device']}"})
        for number in range(4):
            if number % 2:
                answer = await client.post("/v1/login", json={"username": "ada", "password": WRONG})
                assert answer.status_code == 401
            else:
                assert (await refusal(client, LOGIN, username="ada", password=WRONG))[0] == 401
        refused = await ask(client, LOGIN, username="ada", password=PASSWORD)
        by_rest = await client.post("/v1/login", json={"username": "ada", "password": PASSWORD})
        assert by_rest.status_code == 429
        assert refused["errors"][0]["message"] == by_rest.json()["detail"]
        extensions = refused["errors"][0]["extensions"]
        assert extensions == {
            "code": "TOO_MANY_REQUESTS",
            "status": 429,
            "retryAfter": int(by_rest.headers["retry-after"]),
        }
        assert await data(device, LOGIN, username="ada", password=PASSWORD)


async def test_right_passwords_are_not_counted(tmp_path: Path) -> None:
    async with House(tmp_path, throttling={"account_attempts": 2}) as house, house.client() as client:
        await house.register("ada")
        for _ in range(4):
            client.cookies.clear()
            assert await data(client, LOGIN, username="ada", password=PASSWORD)


async def test_an_unknown_user_and_a_wrong_password_are_answered_alike(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        await house.register("ada")
        wrong = await refusal(client, LOGIN, username="ada", password=WRONG)
        assert wrong == await refusal(client, LOGIN, username="nobody", password=PASSWORD)
        assert wrong == (401, "UNAUTHENTICATED", "Username or password is not right.")


async def test_a_logout_everywhere_that_runs_during_a_login_wins(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        ada = await house.register("ada")
        assert isinstance(house.store, GatedStore)
        gate = house.store.hold("create", "before")
        logging_in = asyncio.ensure_future(refusal(client, LOGIN, username="ada", password=PASSWORD))
        async with asyncio.timeout(5):
            await gate.arrived.wait()
        await house.sessions.end_user(ada)
        gate.release()
        status, code, _ = await logging_in
        assert (status, code) == (401, "UNAUTHENTICATED")
        assert COOKIE not in client.cookies


async def test_two_mutations_in_one_request_are_done_one_after_the_other(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        await house.register("ada")
        both = f'mutation {{ login(username: "ada", password: "{PASSWORD}") {{ session {{ id }} }} endOtherSessions }}'
        assert (await data(client, both))["endOtherSessions"] == 0
        other = await house.log_in("ada")
        answer = await client.post("/graphql", json={"query": "mutation { endOtherSessions logout }"})
        assert answer.json()["data"] == {"endOtherSessions": 1, "logout": True}
        assert cookie_of(answer) == ""
        assert (await other.get("/v1/me")).status_code == 401


# ---- what goes wrong


async def test_a_store_and_accounts_that_cannot_be_asked_are_503_in_the_words_of_rest(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        house.store.down = True
        refused = await ask(client, "{ me { username } sessions { id } }")
        assert refused["data"] == {"me": {"username": "ada"}, "sessions": None}
        (error,) = refused["errors"]
        assert error["message"] == (await client.get("/v1/sessions")).json()["detail"]
        assert error["extensions"] == {"code": "SERVICE_UNAVAILABLE", "status": 503, "retryAfter": 1}
        house.store.down = False


async def test_an_account_that_is_gone_is_401(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        ada = await house.accounts.find("ada")
        assert ada is not None
        await house.accounts.set_disabled(ada.id, True)
        assert (await refusal(client, "{ me { id } }"))[2] == (await client.get("/v1/me")).json()["detail"]


async def test_what_nobody_expected_is_masked_and_logged_without_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with House(tmp_path) as house, house.client() as client:

        async def broken(*_: object) -> None:
            raise ZeroDivisionError("postgres://admin:secret@db")

        monkeypatch.setattr(house.accounts, "find", broken)
        with caplog.at_level(logging.DEBUG):
            answer = await ask(
                client, 'mutation { login(username: "ada", password: "hunter2hunter2") { user { id } } }'
            )
    assert answer["data"] == {"login": None}
    (error,) = answer["errors"]
    assert error["message"] == "The server failed to answer this request. What happened is in its log."
    assert error["extensions"] == {"code": "INTERNAL_SERVER_ERROR", "status": 500}
    assert "ZeroDivisionError" in caplog.text
    assert "hunter2" not in caplog.text


async def test_what_a_field_gives_that_its_type_does_not_take_is_no_fault_of_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with House(tmp_path) as house, house.client() as client:
        monkeypatch.setattr(ConnectionFacts, "requests", lambda _: 2**40)
        (error,) = (await ask(client, "{ connection { requests } }"))["errors"]
        assert error["extensions"] == {"code": "INTERNAL_SERVER_ERROR", "status": 500}
        assert str(2**40) not in error["message"]
        assert "['connection', 'requests']" in caplog.text


async def test_an_argument_that_is_found_wrong_only_when_it_is_used_is_the_clients(tmp_path: Path) -> None:
    late = 'mutation ($r: Boolean = true) { login(username: "a", password: "s3cr3t", remember: $r) { user { id } } }'
    async with House(tmp_path) as house, house.client() as client:
        (error,) = (await ask(client, late, r=None))["errors"]
        assert error["extensions"] == {"code": "GRAPHQL_VALIDATION_FAILED", "status": 400}
        assert "s3cr3t" not in error["message"]


CANARY = "s3cr3t"


def documents_with_a_canary() -> list[tuple[str, dict[str, Any]]]:
    """Every argument of every field given something that it does not take, as a literal and as a variable."""
    literals = [
        f'["{CANARY}"]',
        f'{{x: "{CANARY}"}}',
        f"{CANARY}x",
        '"""s3cr3t',
        f'"{CANARY}',
        f'"\\{CANARY}"',
        "1s3cr3t",
    ]
    literals += [f"'{CANARY}'", f'"a" "{CANARY}"', f'{{"{CANARY}": 1}}', "31337.5"]
    values: list[Any] = [[CANARY], {"x": CANARY}, {CANARY: CANARY}, 31337.5, [[31337]], {"a": {"b": [CANARY]}}]
    found: list[tuple[str, dict[str, Any]]] = []
    graphql = schema(introspection=True)._schema
    for kind, root in (("query", graphql.query_type), ("mutation", graphql.mutation_type)):
        assert root is not None
        for name, field in root.fields.items():
            for wanted, argument in field.args.items():
                inner = argument.type.of_type if isinstance(argument.type, GraphQLNonNull) else argument.type
                assert isinstance(inner, GraphQLScalarType | GraphQLEnumType)
                own = [*literals, f'"{CANARY}"'] if inner.name in ("LoginMode", "Boolean") else literals
                found += [(f"{kind} {{ {name}({wanted}: {literal}) {{ id }} }}", {}) for literal in own]
                own_values = [*values, CANARY] if inner.name in ("LoginMode", "Boolean") else values
                asked = f"{kind} ($v: {argument.type}) {{ {name}({wanted}: $v) {{ id }} }}"
                found += [(asked, {"v": value}) for value in own_values]
                found.append((f'{kind} ($v: {argument.type} = ["{CANARY}"]) {{ {name}({wanted}: $v) {{ id }} }}', {}))
    return found


async def test_no_error_repeats_a_value_that_was_sent(caplog: pytest.LogCaptureFixture) -> None:
    documents = documents_with_a_canary()
    assert len(documents) > 150
    sessions = Sessions("memory://")
    # No document gets as far as a field, which would need the services.
    request = Request({"type": "http", "session": await sessions.load(None)})
    context = Context(cast("Services", None), request, Response())
    with caplog.at_level(logging.DEBUG):
        for query, variables in documents:
            result = await schema(introspection=True).execute(query, variables, context)
            assert result.errors, query
            for error in result.errors:
                told = json.dumps([error.message, error.extensions])
                assert CANARY not in told, (query, variables, told)
                assert "31337" not in told, (query, variables, told)
                assert (error.extensions or {})["status"] == 400, (query, variables, told)
    assert CANARY not in caplog.text
    assert "Traceback" not in caplog.text
    await sessions.close()


async def test_errors_still_say_where_and_what_is_wrong(tmp_path: Path) -> None:
    told = {
        "{ me { id }": "Syntax error: Expected Name.",
        "{ me { age } }": "Cannot query field 'age' on type 'Me'.",
        '{ user(id: "x") }': "Field 'user' of type 'Person' must have a selection of subfields.",
        "{ user { id } }": "Argument 'Query.user(id:)' of type 'ID!' is required, but it was not provided.",
        "{ user(id: [1]) { id } }": "ID cannot represent a non-string and non-integer value.",
        'mutation { login(username: "a", password: "b", mode: MAYBE) { user { id } } }': "This value does not exist in 'LoginMode' enum.",
        "query ($a: ID!) { user(id: $a) { id } }": "Variable '$a' has invalid value: Expected a value of non-null type 'ID!' to be provided.",
        "{ ...F } fragment F on Query { ...F }": "Cannot spread fragment 'F' within itself.",
        "query A { __typename } query B { __typename }": "The document has no such operation, or several and none was named.",
        "{" * 300: "Syntax error: Expected Name.",
        "{a" * 160 + "}" * 160: "Selections are nested 20 deep here at most.",
        f"{{ user(id: {'[' * 240}{']' * 240}) {{ id }} }}": "Syntax error: Document is nested too deeply. Parsing aborted.",
        "{" + " a" * 600 + "}": "Syntax error: Document contains more than 500 tokens. Parsing aborted.",
    }
    async with House(tmp_path) as house, house.client() as client:
        for query, message in told.items():
            error = (await ask(client, query))["errors"][0]
            assert error["message"].split(" Did you mean")[0] == message, query
            assert error["extensions"]["status"] == 400


async def test_a_message_is_never_long(tmp_path: Path) -> None:
    names = [f"F{number}{'x' * 300}" for number in range(60)]
    chain = " ".join(
        f"fragment {one} on Query {{ ...{two} }}" for one, two in zip(names, names[1:] + names[:1], strict=True)
    )
    async with House(tmp_path) as house, house.client() as client:
        for query in (f"{{ ...{names[0]} }} {chain}", f"{{ {'y' * 50_000} }}"):
            answer = await client.post("/graphql", json={"query": query})
            assert len(answer.content) < 40_000
            assert all(len(error["message"]) <= 200 for error in answer.json()["errors"])


async def test_text_that_is_no_unicode_is_refused_and_odd_text_is_kept(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        lone = b'{"query": "mutation ($u: String!) { login(username: $u, password: $u) { user { id } } }", "variables": {"u": "\\ud800"}}'
        answer = await client.post("/graphql", content=lone, headers={"content-type": "application/json"})
        assert answer.status_code == 400
        literal = r'mutation { login(username: "\uD800", password: "x") { user { id } } }'
        assert (await refusal(client, literal))[0] == 400
        made = await data(
            client, 'mutation { register(username: "zoë", password: "correct horse", name: "🧥") { name } }'
        )
        assert made == {"register": {"name": "🧥"}}


# ---- limits


@pytest.mark.parametrize(
    "query",
    [
        'mutation { a: login(username: "ada", password: "x") { user { id } } b: login(username: "ada", password: "y") { user { id } } }',
        'mutation { login(username: "ada", password: "x") { user { id } } reauthenticate(password: "y") { user { id } } }',
        'mutation { ...F b: login(username: "ada", password: "y") { user { id } } } fragment F on Mutation { login(username: "ada", password: "x") { user { id } } }',
    ],
)
async def test_of_several_guesses_in_one_request_none_is_looked_at(tmp_path: Path, query: str) -> None:
    async with (
        House(tmp_path, throttling={"account_attempts": 1, "account_period": 300}) as house,
        house.client() as client,
    ):
        await house.register("ada")
        for _ in range(3):
            assert (await refusal(client, query))[:2] == (400, "BAD_REQUEST")
        assert await data(client, LOGIN, username="ada", password=PASSWORD), "and none was counted"


async def test_no_document_of_the_longest_kind_takes_long(tmp_path: Path) -> None:
    fields = "a " * 490
    nested = "me{" * 100 + "id" + "}" * 100
    doubling = " ".join(f"fragment F{n} on Query {{ ...F{n + 1} ...F{n + 1} }}" for n in range(45))
    fragments = " ".join(f"fragment F{n} on Query {{ connection {{ protocol }} }}" for n in range(33))
    documents = [
        f"{{ {fields} }}",
        "{ " + "__typename " * limits.MOST_COST + "}",
        "{ " + " ".join(f"...F{n}" for n in range(60)) + f" }} {fragments}",
        "{ " + " ".join(f"{'y' * 200}{n}" for n in range(200)) + " }",
        f"{{ {nested} }}",
        f"{{ ...F0 }} {doubling} fragment F45 on Query {{ me {{ id }} }}",
        "{ " + " ".join("me { id }" for _ in range(120)) + " }",
        "query (" + " ".join(f"$v{n}: Int" for n in range(120)) + ") { __typename }",
        "{ __typename " + "@skip(if: true) " * 70 + "}",
        '{ user(id: "' + "x" * 60_000 + '") { id } }',
        "{ " + "#\n" * 30_000 + " __typename }",
    ]
    async with House(tmp_path) as house, house.client() as client:
        await ask(client, "{ __typename }")
        for document in documents:
            begun = time.process_time()
            await client.post("/graphql", json={"query": document})
            assert time.process_time() - begun < 0.5, document[:60]


# ---- introspection


async def test_the_schema_is_told_on_loopback_and_beyond_only_if_it_is_set(tmp_path: Path) -> None:
    beyond = {"host": "192.0.2.1", "public_origins": [ORIGIN]}
    told = {"loopback": {}, "set": {**beyond, "introspection": True}}
    kept = {"beyond": beyond, "unset": {"introspection": False}}
    for name, settings in {**told, **kept}.items():
        (tmp_path / name).mkdir()
        async with House(tmp_path / name, **settings) as house, house.client() as client:
            answer = await ask(client, "{ __schema { queryType { name } } __typename }")
            typo = (await ask(client, "{ meh { id } }"))["errors"][0]["message"]
            if name in told:
                assert answer["data"]["__schema"] == {"queryType": {"name": "Query"}}
                assert "Did you mean 'me'?" in typo
            else:
                assert answer["errors"][0]["extensions"]["status"] == 400
                assert "__schema" in answer["errors"][0]["message"]
                assert typo == "Cannot query field 'meh' on type 'Query'."
                for document in ("{ user(ib: 1) { id } }", "query ($a: Stirng) { __typename }"):
                    assert "Did you mean" not in str(await ask(client, document))
                assert (await data(client, "{ __typename }")) == {"__typename": "Query"}


def test_whatever_may_happen_to_a_session_has_a_kind_of_event() -> None:
    own = {"begin", "reset", "heartbeat"}
    assert {kind.value for kind in SessionEventKind} == KINDS | own


def test_every_type_and_field_says_what_it_is() -> None:
    graphql = schema(introspection=True)._schema
    for name in ("Query", "Mutation", "Subscription"):
        kind: Any = graphql.type_map[name]
        assert kind.description
        assert all(field.description for field in kind.fields.values()), name
    for kind in graphql.type_map.values():
        if not kind.name.startswith("__") and kind.name not in ("String", "Boolean", "Int", "Float", "ID"):
            assert kind.description, kind.name
