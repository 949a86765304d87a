"""Where each connection and request stands in the picture of a run. Pure: milliseconds in, milliseconds out.

Every version's run begins at 0, so that they can be compared; within one connection, requests that overlap get rows of
their own. Leaves drawing to `terminal` and `svg`.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeAlias

from coatcheck.probe.trace import ConnectionTrace

__all__ = ["Bar", "Group", "Lane", "Picture", "lay_out"]

Run: TypeAlias = Literal["in turn", "at once"]


class Bar(NamedTuple):
    """One request, from sending to its last byte."""

    begin: float
    end: float
    row: int
    number: int
    status: int | None
    failed: bool


class Lane(NamedTuple):
    """One connection: the handshake from `begin` to `ready`, then requests."""

    number: int
    begin: float
    ready: float | None
    resumed: bool
    bars: tuple[Bar, ...]
    end: float
    rows: int
    ended: str
    """Who ended it and how, in a few words."""


class Group(NamedTuple):
    """One version's connections."""

    version: str
    lanes: tuple[Lane, ...]


class Picture(NamedTuple):
    """All versions of one run, on one scale of `span` milliseconds."""

    run: Run
    groups: tuple[Group, ...]
    span: float


def lay_out(timeline: Iterable[ConnectionTrace], run: Run) -> Picture:
    """Arrange one run's connections."""
    by_version: dict[str, list[ConnectionTrace]] = {}
    for connection in timeline:
        # Of a version that is not spoken there is nothing to be seen.
        if connection.purpose == run and any(request.status is not None for request in connection.requests):
            by_version.setdefault(connection.version, []).append(connection)
    groups = [Group(version, tuple(_lanes(connections))) for version, connections in sorted(by_version.items())]
    span = max((lane.end for group in groups for lane in group.lanes), default=0.0)
    return Picture(run, tuple(groups), span)


def _lanes(connections: list[ConnectionTrace]) -> list[Lane]:
    # While we watch whether a server ends a connection, nothing happens: such gaps are cut out.
    zero = 0.0
    until: float | None = None
    lanes: list[Lane] = []
    for connection in sorted(connections, key=lambda each: each.opened_ms):
        gap = connection.opened_ms - until if until is not None else connection.opened_ms
        if until is None or gap > 0:
            zero += gap
        bars, rows = _bars(connection, zero)
        begin = connection.opened_ms - zero
        ready = None if connection.ready_ms is None else connection.ready_ms - zero
        end = max([bar.end for bar in bars] + [ready or begin])
        lanes.append(
            Lane(connection.number, begin, ready, bool(connection.resumed), bars, end, rows, _ended(connection))
        )
        until = max(until or 0.0, end + zero)
    return lanes


def _bars(connection: ConnectionTrace, zero: float) -> tuple[tuple[Bar, ...], int]:
    free: list[float] = []
    """When each row is free again."""
    bars: list[Bar] = []
    for request in connection.requests:
        begin = request.began_ms - zero
        end = (request.ended_ms if request.ended_ms is not None else request.first_byte_ms or request.began_ms) - zero
        row = next((number for number, at in enumerate(free) if at <= begin), len(free))
        if row == len(free):
            free.append(end)
        else:
            free[row] = end
        bars.append(Bar(begin, end, row, request.number, request.status, request.failure is not None))
    return tuple(bars), len(free)


def _ended(connection: ConnectionTrace) -> str:
    if connection.closed_by is None:
        return ""
    who = {"server": "ended by the server", "us": "ended by us", "both": "ended silently"}[connection.closed_by]
    return f"{who} ({connection.how})"
