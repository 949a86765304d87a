"""From an HTTP request to a GraphQL request, and the media type of its answer; and what one document may ask for."""

import json
import time
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from graphql import get_introspection_query, parse

from coatcheck.server.graphql import limits
from coatcheck.server.graphql.requests import (
    GRAPHQL,
    JSON,
    Accepted,
    GraphQLRequest,
    accepted,
    of_body,
    of_query_string,
)
from coatcheck.server.graphql.schema import Mutation, Query, Subscription
from coatcheck.server.problems import ProblemError

# ---- which media type

ACCEPTS: dict[str | None, Accepted] = {
    None: Accepted(JSON, stream=False),
    "*/*": Accepted(JSON, stream=False),
    "application/*": Accepted(JSON, stream=False),
    "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": Accepted(JSON, stream=False),
    "application/json": Accepted(JSON, stream=False),
    "APPLICATION/JSON": Accepted(JSON, stream=False),
    "application/graphql-response+json": Accepted(GRAPHQL, stream=False),
    "application/graphql-response+json, application/json": Accepted(GRAPHQL, stream=False),
    "application/json, application/graphql-response+json": Accepted(JSON, stream=False),
    "application/json;q=0.5, application/graphql-response+json;q=0.9": Accepted(GRAPHQL, stream=False),
    "application/graphql-response+json;charset=utf-8, application/json;charset=utf-8": Accepted(GRAPHQL, stream=False),
    "application/graphql-response+json;charset=latin-1, application/json": Accepted(JSON, stream=False),
    "application/graphql-response+json;q=0.1, */*": Accepted(JSON, stream=False),
    "application/json;q=0, */*": Accepted(None, stream=False),
    "application/graphql-response+json;q=0": Accepted(None, stream=False),
    "text/event-stream": Accepted(None, stream=True),
    "text/event-stream;q=0": Accepted(None, stream=False),
    "application/graphql-response+json, application/json, text/event-stream, multipart/mixed": Accepted(
        GRAPHQL, stream=True
    ),
    "text/html": Accepted(None, stream=False),
    "": Accepted(None, stream=False),
    "application/json;q=nonsense": Accepted(None, stream=False),
    "application/json;q=nan": Accepted(None, stream=False),
    ",;,=;q": Accepted(None, stream=False),
}


@pytest.mark.parametrize("accept", ACCEPTS)
def test_the_answers_media_type_is_the_one_that_is_wanted_most(accept: str | None) -> None:
    assert accepted(accept) == ACCEPTS[accept]


def test_a_header_of_many_ranges_is_read_in_no_time() -> None:
    begun = time.process_time()
    accepted("a/b;q=0.1;x=y," * 5000)
    assert time.process_time() - begun < 0.1


# ---- what is asked


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"']
)
def test_json_in_utf_8_is_taken(content_type: str) -> None:
    body = json.dumps({"query": "{ é }", "variables": {"a": 1}, "operationName": "A", "extensions": {}, "id": 7})
    assert of_body(content_type, body.encode()) == GraphQLRequest("{ é }", {"a": 1}, "A")


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/json; charset=utf-16",
        "application/graphql",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "application/jsonp",
    ],
)
def test_any_other_kind_of_body_is_415(content_type: str | None) -> None:
    with pytest.raises(ProblemError) as refused:
        of_body(content_type, b'{"query": "{ me { id } }"}')
    assert refused.value.status == 415


BAD_BODIES = [
    b"",
    b"{",
    b'{"query": "\xff"}',
    b'{"query": "\\ud800"}',
    b'{"query": NaN}',
    b"[" * 60_000,
    b"null",
    b"7",
    b'"{ me }"',
    b"[]",
    b'[{"query": "{ __typename }"}]',
    *(
        json.dumps(body).encode()
        for body in [
            {},
            {"query": None},
            {"query": ""},
            {"query": "  "},
            {"query": 7},
            {"query": ["{ a }"]},
            {"query": "{ a }", "variables": []},
            {"query": "{ a }", "variables": "{}"},
            {"query": "{ a }", "operationName": 7},
            {"query": "{ a }", "extensions": []},
        ]
    ),
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_a_malformed_body_is_400(body: bytes) -> None:
    with pytest.raises(ProblemError) as refused:
        of_body("application/json", body)
    assert refused.value.status == 400


def test_a_query_in_the_address_is_what_a_body_is() -> None:
    asked = {
        "query": "query A($a: Int) { é }",
        "variables": '{"a": 1}',
        "operationName": "A",
        "extensions": "{}",
        "x": "y",
    }
    expected = GraphQLRequest("query A($a: Int) { é }", {"a": 1}, "A")
    assert of_query_string(urlencode(asked).encode()) == expected
    assert of_query_string(b"query={a}&variables=&operationName=") == GraphQLRequest("{a}", None, None)


@pytest.mark.parametrize(
    "query_string",
    [
        "",
        "query=",
        "query={a}&query={b}",
        "query={a}&variables=1&variables=2",
        "query={a}&variables=[]",
        "query={a}&variables={",
        f"query={{a}}&variables={quote('[' * 5000)}",
        "query={a}&extensions=7",
        "query=%ff",
        "variables={}",
        "&".join(["x=1"] * 101),
    ],
)
def test_a_malformed_address_is_400(query_string: str) -> None:
    with pytest.raises(ProblemError) as refused:
        of_query_string(query_string.encode())
    assert refused.value.status == 400


# ---- what one document may ask for


def check(document: str) -> str | None:
    return limits.check(parse(document))


def many(count: int, text: str) -> str:
    return " ".join(text.format(number=number) for number in range(count))


def test_what_clients_ask_for_is_within_the_limits() -> None:
    assert (
        check("{ me { id name username } sessions { id current createdAt userAgent } connection { protocol } }") is None
    )
    assert (
        check('mutation { login(username: "a", password: "b") { user { id } session { id } tokens { accessToken } } }')
        is None
    )
    whole = get_introspection_query(
        specified_by_url=True,
        directive_is_repeatable=True,
        schema_description=True,
        input_value_deprecation=True,
        one_of=True,
    )
    assert check(whole) is None
    parse(whole, max_tokens=limits.MOST_TOKENS)


PASSWORDS = [name for name, cost in limits.COSTS.items() if cost == limits.PASSWORD]


@pytest.mark.parametrize("field", PASSWORDS)
def test_passwords_come_one_at_a_time(field: str) -> None:
    one = f'{field}(password: "x") {{ id }}'
    assert check(f"mutation {{ {one} }}") is None
    refused = {
        f"mutation {{ a: {one} b: {one} }}",
        f'mutation {{ {one} {field}(password: "y") {{ id }} }}',
        f"mutation {{ {one} ...F }} fragment F on Mutation {{ b: {one} }}",
        f"mutation {{ ...F ...G }} fragment F on Mutation {{ a: {one} }} fragment G on Mutation {{ b: {one} }}",
        f"mutation {{ {one} ... on Mutation {{ b: {one} }} }}",
        f"mutation {{ {one} ... @include(if: true) {{ ... {{ b: {one} }} }} }}",
        f"query A {{ me {{ id }} }} mutation B {{ a: {one} b: {one} }}",
        *(f'mutation {{ {one} b: {other}(password: "x") {{ id }} }}' for other in PASSWORDS),
    }
    for document in refused:
        assert "each password in a request of its own" in (check(document) or ""), document


def test_every_field_that_takes_a_password_is_one_of_them() -> None:
    takes = {
        field.name
        for kind in (Query, Mutation, Subscription)
        for field in kind.__strawberry_definition__.fields  # type: ignore[attr-defined]
        if any("password" in argument.python_name for argument in field.arguments)
    }
    camel = {"".join([name.split("_")[0], *(part.title() for part in name.split("_")[1:])]) for name in takes}
    assert camel == set(PASSWORDS)


def test_aliases_and_depth_and_cost_are_bounded_however_they_are_written() -> None:
    assert check(f"{{ {many(limits.MOST_ALIASES, 'a{number}: __typename')} }}") is None
    assert "aliases" in (check(f"{{ {many(limits.MOST_ALIASES + 1, 'a{number}: __typename')} }}") or "")
    assert "aliases" in (check(f"{{ {many(8, '...F')} }} fragment F on Query {{ a: __typename b: __typename }}") or "")
    depth = limits.MOST_DEPTH
    assert check("{a" * depth + "}" * depth) is None
    assert "nested" in (check("{a" * (depth + 1) + "}" * (depth + 1)) or "")
    assert "nested" in (check("{...{a" * depth + "}}" * depth) or "")
    assert check(f"{{ {many(11, 'sessions {{ id }}')} }}") is None
    assert "too much" in (check(f"{{ {many(12, 'sessions {{ id }}')} }}") or "")


def test_fragments_that_double_each_other_are_measured_in_no_time() -> None:
    chain = " ".join(f"fragment F{number} on Query {{ ...F{number + 1} ...F{number + 1} }}" for number in range(60))
    begun = time.process_time()
    refused = check(f"{{ ...F0 }} {chain} fragment F60 on Query {{ me {{ id }} }}")
    assert time.process_time() - begun < 0.1
    assert refused is not None


@pytest.mark.parametrize(
    "document",
    [
        "{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }",
        "{ ...A } fragment A on Query { a: __typename ...A }",
        "{ ...Missing }",
        "fragment A on Query { __typename }",
        "type Query { me: Int }",
    ],
)
def test_what_validation_refuses_anyway_does_not_keep_it_from_being_measured(document: str) -> None:
    assert check(document) is None


def test_costs_name_fields_that_there_are() -> None:
    there: set[str] = set()
    for kind in (Query, Mutation, Subscription):
        definition: Any = kind.__strawberry_definition__  # type: ignore[attr-defined]
        for field in definition.fields:
            first, *rest = field.python_name.split("_")
            there.add("".join([first, *(part.title() for part in rest)]))
    assert set(limits.COSTS) <= there
