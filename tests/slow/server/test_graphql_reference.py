"""The reference of GraphQL says what the schema, the limits and the codes are."""

import re
from pathlib import Path

from coatcheck.server.graphql import limits, websockets
from coatcheck.server.graphql.errors import CODES
from coatcheck.server.graphql.schema import schema

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "graphql.md").read_text()


def test_the_schema_in_the_reference_is_the_one_that_is_served() -> None:
    block = re.search(r"```graphql\n(.*?)\n```", PAGE, re.DOTALL)
    assert block is not None
    assert block[1] == schema(introspection=True).as_str()


def test_the_limits_in_the_reference_are_those_that_hold() -> None:
    for row in (
        f"| tokens in a document | {limits.MOST_TOKENS} |",
        f"| selections inside of selections, fragments included | {limits.MOST_DEPTH} |",
        f"| aliases, fragments unfolded | {limits.MOST_ALIASES} |",
        f"| cost, fragments unfolded | {limits.MOST_COST}: ",
        f"that take a password {limits.PASSWORD}, ",
        f"| operations under way on one WebSocket | {websockets.MOST_OPERATIONS} |",
        f"| messages from one WebSocket | {websockets.BURST:g} at once and {websockets.PACE:g} a second ",
        f"no `connection_init` within {websockets.INIT_TIMEOUT:g} seconds",
    ):
        assert row in PAGE, row


def test_every_code_is_in_the_reference() -> None:
    for status, code in CODES.items():
        assert re.search(rf"\| .*`{code}`.* \| {status} \|", PAGE), code
