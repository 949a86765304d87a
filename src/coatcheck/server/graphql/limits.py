"""What one GraphQL document may ask for: how deep, how often, how dear. Pure; leaves its tokens to the parser.

Fragments are looked at once each, however often they are spread: what a document would unfold to is computed, never made.
"""

from collections.abc import Mapping
from typing import NamedTuple

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
)

__all__ = [
    "COSTS",
    "MOST_ALIASES",
    "MOST_COST",
    "MOST_DEPTH",
    "MOST_TOKENS",
    "NO_OPERATION",
    "PASSWORD",
    "check",
]

MOST_TOKENS = 500
"""Tokens in a document; the query by which tools ask for the whole schema has about 200."""
MOST_DEPTH = 20
"""Selections inside of selections, fragments included. No answer of ours is deeper than four; the schema's description is."""
MOST_ALIASES = 15
"""Fields under another name, fragments unfolded."""
MOST_COST = 250
"""What all fields of an operation cost together, fragments unfolded: each 1 but for those of COSTS."""

NO_OPERATION = "The document has no such operation, or several and none was named."

PASSWORD = MOST_COST // 2 + 1
COSTS: Mapping[str, int] = {
    # At most one of these in a request, so that aliases do not multiply guesses.
    "login": PASSWORD,
    "reauthenticate": PASSWORD,
    "changePassword": PASSWORD,
    "register": PASSWORD,
    # Each asks a database.
    "me": 5,
    "user": 10,
    "sessions": 20,
    "endSession": 20,
    "endOtherSessions": 20,
    "renameSession": 20,
    "sessionEvents": 20,
}
"""Of fields on the first level."""


class _Measure(NamedTuple):
    depth: int = 0
    aliases: int = 0
    cost: int = 0

    def beside(self, other: "_Measure") -> "_Measure":
        # Bounded, or numbers would grow with each fragment to twice their length.
        return _Measure(
            max(self.depth, other.depth),
            min(self.aliases + other.aliases, MOST_ALIASES + 1),
            min(self.cost + other.cost, MOST_COST + 1),
        )


def check(document: DocumentNode, *, named: bool = True) -> str | None:
    """Give a sentence that says what keeps the document from being executed, or None.

    `named`: the request says which operation is meant; else there may be but one (GraphQL, section 6.1).
    """
    walk = _Walk(document)
    operations = [one for one in document.definitions if isinstance(one, OperationDefinitionNode)]
    if len(operations) > 1 and not named:
        return NO_OPERATION
    for operation in operations:
        found = walk.selections(operation.selection_set, root=True)
        if found.depth > MOST_DEPTH:
            return f"Selections are nested {MOST_DEPTH} deep here at most."
        if found.aliases > MOST_ALIASES:
            return f"A request has at most {MOST_ALIASES} aliases here."
        if found.cost > MOST_COST:
            return "This request asks for too much at once: send it in parts, each password in a request of its own."
    return None


class _Walk:
    def __init__(self, document: DocumentNode) -> None:
        self._fragments = {
            definition.name.value: definition
            for definition in document.definitions
            if isinstance(definition, FragmentDefinitionNode)
        }
        self._known: dict[tuple[str, bool], _Measure] = {}

    def selections(self, node: SelectionSetNode | None, *, root: bool) -> _Measure:
        found = _Measure()
        if node is None:
            return found
        for selection in node.selections:
            if isinstance(selection, FieldNode):
                one = self.selections(selection.selection_set, root=False)
                cost = COSTS.get(selection.name.value, 1) if root else 1
                own = _Measure(aliases=selection.alias is not None, cost=cost)
                found = found.beside(one.beside(own))
            elif isinstance(selection, FragmentSpreadNode):
                found = found.beside(self._fragment(selection.name.value, root))
            else:
                assert isinstance(selection, InlineFragmentNode)
                found = found.beside(self.selections(selection.selection_set, root=root))
        return found._replace(depth=found.depth + 1)

    def _fragment(self, name: str, root: bool) -> _Measure:
        key = name, root
        if key not in self._known:
            # While it is being measured it counts for nothing: a fragment within itself is refused by validation.
            self._known[key] = _Measure()
            fragment = self._fragments.get(name)
            if fragment is not None:
                self._known[key] = self.selections(fragment.selection_set, root=root)
        return self._known[key]
