"""GraphQL over HTTP: methods, media types and status codes; and the stream of events, which ends with its session."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from coatcheck.accounts import AccountsUnavailable
from tests.core.graphql_client import GraphQLStream
from tests.core.server.house import COOKIE, PASSWORD, House, log_in_for_tokens, session_id
from tests.slow.server.test_graphql import ask, data, enter
from tests.slow.server.test_rest_who_may_what import assert_fenced

GRAPHQL = "application/graphql-response+json"
ANY = (
    "application/graphql-response+json, application/graphql+json, application/json, text/event-stream, multipart/mixed"
)


async def post(client: httpx.AsyncClient, query: str, accept: str | None = None, **more: Any) -> httpx.Response:
    headers = {} if accept is None else {"accept": accept}
    return await client.post("/graphql", json={"query": query, **more}, headers=headers)


def error_of(answer: httpx.Response) -> Any:
    (error,) = answer.json()["errors"]
    return error


# ---- requests


async def test_a_query_by_get_is_answered_and_a_mutation_by_get_is_405_and_does_nothing(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await enter(house)
        query = {"query": "query A($id: ID!) { user(id: $id) { name } }", "operationName": "A"}
        ada = await house.accounts.find("ada")
        assert ada is not None
        asked = {**query, "variables": json.dumps({"id": ada.id})}
        answer = await client.get("/graphql", params=asked)
        assert answer.json() == {"data": {"user": {"name": "ada"}}}
        assert_fenced(answer)
        head = await client.head("/graphql", params=asked)
        assert (head.status_code, head.content) == (200, b"")
        for document in ("mutation { logout }", "query A { __typename } mutation B { logout }"):
            refused = await client.get(
                "/graphql", params={"query": document, "operationName": "B"} if "B" in document else {"query": document}
            )
            assert refused.status_code == 405
            assert refused.headers["allow"] == "POST"
            assert error_of(refused)["extensions"] == {"code": "METHOD_NOT_ALLOWED", "status": 405}
        assert (await client.get("/v1/me")).status_code == 200


async def test_no_other_method_is_known(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"):
            answer = await client.request(method, "/graphql", json={"query": "{ __typename }"})
            assert answer.status_code == 405, method
            assert answer.headers["allow"] == "GET, HEAD, POST"


async def test_a_page_of_another_site_can_send_nothing_and_its_get_changes_nothing(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await enter(house)
        for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}, {"origin": "null"}):
            refused = await client.post("/graphql", json={"query": "mutation { logout }"}, headers=headers)
            assert refused.status_code == 403
            assert refused.headers["content-type"] == "application/problem+json"
            by_get = await client.get("/graphql", params={"query": "mutation { logout }"}, headers=headers)
            assert by_get.status_code == 405
        form = await client.post("/graphql", data={"query": "mutation { logout }"})
        assert form.status_code == 415
        plain = await client.post(
            "/graphql", content='{"query": "mutation { logout }"}', headers={"content-type": "text/plain"}
        )
        assert plain.status_code == 415
        assert (await client.get("/v1/me")).status_code == 200


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_that_is_too_long_is_413(tmp_path: Path, declared: bool) -> None:
    async def pieces() -> Any:
        for _ in range(9):
            yield b" " * 8192

    async with House(tmp_path) as house, house.client() as client:
        content = b" " * 73_728 if declared else pieces()
        answer = await client.post("/graphql", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_browser_that_comes_by_is_told_what_this_is(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client(headers={"accept": "text/html,*/*;q=0.8"}) as client:
        answer = await client.get("/graphql")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert "POST a JSON object" in answer.text
        assert_fenced(answer)
        assert (await client.get("/graphql?query={__typename}")).json() == {"data": {"__typename": "Query"}}
    async with House(tmp_path) as house, house.client() as client:
        assert (await client.get("/graphql")).status_code == 400


# ---- answers


async def test_the_answer_is_of_the_type_that_is_wanted(tmp_path: Path) -> None:
    wanted = {
        "*/*": "application/json",
        GRAPHQL: GRAPHQL,
        ANY: GRAPHQL,
        f"application/json, {GRAPHQL}": "application/json",
        None: "application/json",
    }
    async with House(tmp_path) as house, house.client() as client:
        for accept, kind in wanted.items():
            if accept is None:
                del client.headers["accept"]
            answer = await post(client, "{ __typename }", accept)
            assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
            assert answer.json() == {"data": {"__typename": "Query"}}
            assert "Accept" in answer.headers.get_list("vary")
            assert answer.headers["cache-control"] == "no-store"


async def test_whoever_takes_none_of_the_types_gets_406(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        answer = await post(client, "{ __typename }", "application/xml")
        assert answer.status_code == 406
        assert error_of(answer)["extensions"]["code"] == "NOT_ACCEPTABLE"


NOT_EXECUTED: list[dict[str, Any]] = [
    {"query": "{"},
    {"query": "{ nothing }"},
    {"query": "query ($id: ID!) { __typename }", "variables": {"id": None}},
    {"query": "query ($id: ID!) { user(id: $id) { id } }", "variables": {}},
    {"query": "query A { __typename } query B { __typename }"},
    {"query": "query A { __typename }", "operationName": "B"},
    {"query": "fragment F on Query { __typename }"},
    {"query": "{ " + "a: __typename " * 16 + "}"},
]


async def test_what_was_not_executed_has_no_data_and_is_400_where_the_type_allows_it(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        for body in NOT_EXECUTED:
            for accept, status in ((GRAPHQL, 400), ("application/json", 200)):
                answer = await client.post("/graphql", json=body, headers={"accept": accept})
                assert answer.status_code == status, body
                assert set(answer.json()) == {"errors"}
                assert answer.json()["errors"][0]["extensions"]["status"] == 400


async def test_what_was_executed_is_200_though_a_field_was_refused(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        answer = await post(client, "{ me { id } }", GRAPHQL)
        assert answer.status_code == 200
        assert answer.json()["data"] == {"me": None}


async def test_what_is_malformed_is_400_for_both_types(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        for accept in (GRAPHQL, "application/json"):
            headers = {"content-type": "application/json", "accept": accept}
            for content in ("", "{", "[]", '[{"query": "{ __typename }"}]', "{}", '{"query": 7}'):
                answer = await client.post("/graphql", content=content, headers=headers)
                assert answer.status_code == 400, content
                assert answer.headers["content-type"].startswith(accept)
                assert error_of(answer)["extensions"] == {"code": "BAD_REQUEST", "status": 400}


async def test_requests_do_not_see_each_others_sessions(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        clients = {name: await enter(house, name) for name in ("ada", "bob")}
        asked = [(name, ask(client, "{ me { username } }")) for name, client in clients.items() for _ in range(20)]
        answers = await asyncio.gather(*(answer for _, answer in asked))
        for (name, _), answer in zip(asked, answers, strict=True):
            assert answer["data"]["me"]["username"] == name


async def test_the_first_requests_wait_for_the_schema_together(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        answers = await asyncio.gather(*(data(client, "{ __typename }") for _ in range(5)))
        assert answers == [{"__typename": "Query"}] * 5


# ---- streams


def cookie(client: httpx.AsyncClient) -> tuple[bytes, bytes]:
    return b"cookie", f"{COOKIE}={client.cookies[COOKIE]}".encode()


EVENTS = "subscription { sessionEvents { kind sessionId current reason name address } }"


async def test_a_subscription_that_is_not_asked_for_as_a_stream_is_406(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await enter(house)
        for accept in ("*/*", "application/json", GRAPHQL):
            answer = await post(client, EVENTS, accept)
            assert answer.status_code == 406
            assert "text/event-stream" in error_of(answer)["message"]


async def test_a_stream_tells_what_happens_and_ends_with_its_session(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client, other = await house.log_in("ada"), await house.log_in("ada")
        stream = GraphQLStream(house.app, EVENTS, cookie(client), accept=ANY.encode())
        headers = await stream.started()
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert headers["cache-control"] == "no-store"
        _, begin = await stream.event() or ("", None)
        assert begin["data"]["sessionEvents"]["kind"] == "BEGIN"
        theirs = await session_id(other)
        assert (await other.post("/v1/logout")).status_code == 204
        while True:
            _, told = await stream.event() or ("", None)
            event = told["data"]["sessionEvents"]
            if event["kind"] == "ENDED":
                break
        assert (event["sessionId"], event["current"], event["reason"]) == (theirs, False, "logout")
        await client.post("/v1/logout")
        while (last := await stream.event()) is not None and last[0] == "next":
            pass
        assert last == ("session-ended", {"reason": "logout"})
        assert await stream.event() is None
        await asyncio.wait_for(stream.task, 5)
        assert len(house.sessions.connections) == house.activity.followers == 0


async def test_a_stream_goes_on_from_an_event_and_only_for_the_same_user(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        ada, bob = await enter(house, "ada"), await enter(house, "bob")
        first = GraphQLStream(house.app, "subscription { sessionEvents { id kind } }", cookie(ada))
        await first.started()
        _, begin = await first.event() or ("", None)
        await first.leave()
        place = begin["data"]["sessionEvents"]["id"]
        await house.log_in("ada")
        await house.activity.flush()
        again = f'subscription {{ sessionEvents(after: "{place}") {{ kind }} }}'
        for client, expected in ((ada, ["BEGIN", "CREATED"]), (bob, ["RESET"])):
            stream = GraphQLStream(house.app, again, cookie(client))
            await stream.started()
            kinds = []
            while len(kinds) < len(expected):
                _, told = await stream.event() or ("", None)
                kind = told["data"]["sessionEvents"]["kind"]
                if kind not in ("OPENED", "CLOSED"):
                    kinds.append(kind)
            assert kinds == expected
            await stream.leave()


async def test_a_client_that_goes_leaves_nothing_behind(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await enter(house)
        for headers in (
            [cookie(client)],
            [(b"authorization", f"Bearer {(await log_in_for_tokens(house.client(), 'ada'))['access_token']}".encode())],
        ):
            stream = GraphQLStream(house.app, EVENTS, *headers)
            await stream.started()
            await stream.event()
            assert house.activity.followers == len(house.sessions.connections) == 1
            await stream.leave()
            assert len(house.sessions.connections) == house.activity.followers == 0


async def test_a_worker_that_leaves_ends_its_streams_and_no_session(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await enter(house)
        stream = GraphQLStream(house.app, EVENTS, cookie(client))
        await stream.started()
        await stream.event()
        house.worker.leave()
        while await stream.event() is not None:
            pass
        assert stream.over
        await asyncio.wait_for(stream.task, 5)
        assert (await client.get("/v1/me")).status_code == 200


async def test_a_stream_that_is_cut_while_its_client_does_not_read_leaves_nothing_behind(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await enter(house)
        stream = GraphQLStream(house.app, EVENTS, cookie(client))
        await stream.started()
        stream.reading.clear()
        await house.log_in("ada")
        while not stream.blocked:
            await asyncio.sleep(0.001)
        stream.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stream.task
        assert len(house.sessions.connections) == house.activity.followers == 0


async def test_head_for_a_stream_is_answered_without_one(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await enter(house)
        answer = await client.head("/graphql", params={"query": EVENTS}, headers={"accept": "text/event-stream"})
        assert (answer.status_code, answer.content) == (200, b"")
        assert house.activity.followers == 0


async def test_a_stream_by_get_is_what_a_browsers_event_source_asks_for(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await enter(house)
        refused = await client.get(
            "/graphql", params={"query": "mutation { logout }"}, headers={"accept": "text/event-stream"}
        )
        assert refused.status_code == 405
        anonymous = house.client(headers={"accept": "text/event-stream"})
        answer = await anonymous.get("/graphql", params={"query": EVENTS})
        assert answer.text.startswith('event: next\ndata: {"errors":[{"message":"Nobody is logged in."')
        assert answer.text.endswith("event: complete\ndata: \n\n")


async def test_a_mutation_for_which_only_a_stream_is_taken_still_sets_its_cookie(tmp_path: Path) -> None:
    async with House(tmp_path) as house, house.client() as client:
        await house.register("ada")
        login = f'mutation {{ login(username: "ada", password: "{PASSWORD}") {{ user {{ name }} }} }}'
        answer = await post(client, login, "text/event-stream")
        assert (
            answer.text
            == 'event: next\ndata: {"data":{"login":{"user":{"name":"ada"}}}}\n\nevent: complete\ndata: \n\n'
        )
        assert (await client.get("/v1/me")).status_code == 200


async def test_a_subscription_whose_database_is_away_says_so_and_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: object) -> None:
        raise AccountsUnavailable("the disk is gone")

    async with House(tmp_path) as house:
        client = await enter(house)
        monkeypatch.setattr(house.accounts.database, "run", away)
        stream = GraphQLStream(house.app, EVENTS, cookie(client))
        await stream.started()
        _, told = await stream.event() or ("", None)
        assert told["errors"][0]["extensions"] == {"code": "SERVICE_UNAVAILABLE", "status": 503, "retryAfter": 1}
        assert "disk" not in told["errors"][0]["message"]
        assert await stream.event() == ("complete", None)
        monkeypatch.undo()
