"""The checker of histories: quiet about what may happen, and it objects to each thing that may not."""

from typing import Any

import pytest

from tests.clients.history import Fault, Operation, check, failures


def op(kind: Any, began: float, ended: float | None = None, outcome: Any = "ok", **given: Any) -> Operation:
    user = given.pop("user", "ann")
    session = given.pop("session", "s")
    seen = {} if outcome != "ok" else {"seen_user": user, "seen_session": session}
    return Operation(
        client="c",
        kind=kind,
        began=began,
        ended=began + 0.1 if ended is None else ended,
        outcome=outcome,
        session=session,
        user=user,
        **{**seen, **given},
    )


LOGIN = op("login", 0)


def test_a_life_as_it_should_be_is_found_good() -> None:
    verdict = check(
        [
            LOGIN,
            op("write", 1, value=1),
            op("read", 2, value=1),
            op("write", 3, outcome="failed"),  # did it happen?
            op("write", 4, value=2),  # no
            op("read", 4.05, value=1),  # at the same time
            op("read", 5, value=1),  # a copy
            op("logout", 10),
            op("read", 10.05, value=2),  # at the same time
            op("read", 10.5, value=2),  # a copy
            op("read", 11, outcome="refused"),
            op("login", 11, session="t"),
            op("read", 12, session="t", value=0),
            op("read", 13, session="t", outcome="unsent"),
        ]
    )
    assert verdict.wrong == []
    assert verdict.counts["read ok"] == 6
    assert verdict.latest == pytest.approx(0.4)
    assert "400 ms" in str(verdict)


def test_whether_an_unanswered_logout_or_write_happened_is_left_open() -> None:
    unanswered = [LOGIN, op("write", 1, outcome="failed"), op("logout", 2, outcome="failed")]
    assert check([*unanswered, op("read", 9, outcome="refused")]).wrong == []
    assert check([*unanswered, op("read", 9, value=1)]).wrong == []
    assert check([*unanswered, op("read", 9, value=0)]).wrong == []


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ([LOGIN, op("read", 1, outcome="refused")], "a session that nobody ended was refused"),
        ([LOGIN, op("logout", 1, outcome="unsent"), op("read", 2, outcome="refused")], "nobody ended was refused"),
        ([LOGIN, op("read", 1, 2, outcome="refused"), op("logout", 2.1)], "a session that nobody ended was refused"),
        ([LOGIN, op("logout", 1), op("read", 3.2, value=0)], "accepted 2.100 s after its end was answered"),
        ([LOGIN, op("logout", 1), op("write", 9, value=1)], "accepted 7.900 s after its end"),
        (
            [LOGIN, op("logout", 1, outcome="failed"), op("read", 2, outcome="refused"), op("read", 5, value=0)],
            "after it had been refused",
        ),
        ([op("login", 0, seen_user="bob")], "ann's request was taken for bob's"),
        ([LOGIN, op("read", 1, value=0, seen_user="bob")], "ann's request was taken for bob's"),
        ([LOGIN, op("write", 1, value=1, seen_session="t")], "the answer was about session t"),
        ([LOGIN, op("login", 5, user="bob")], "a session that another had been given"),
        ([LOGIN, op("write", 1, value=1), op("write", 2, value=1)], "the number 1 came of 2 writes"),
        ([LOGIN, op("write", 1, value=1), op("read", 4, value=0)], "is 0, though 1 writes were acknowledged"),
        ([LOGIN, op("write", 1, value=1), op("read", 4)], "is None, though"),
        ([LOGIN, op("write", 1, value=2)], "is 2, though 1 writes were asked for"),
        (
            [LOGIN, op("write", 1, outcome="failed"), op("write", 2, value=3)],
            "is 3, though 2 writes were asked for",
        ),
        ([LOGIN, op("read", 1, value=1), op("write", 2, value=1)], "is 1, though 0 writes were asked for"),
        ([LOGIN, op("write", 1, outcome="refused"), op("logout", 0.5), op("read", 1.2, value=1)], "0 writes were"),
    ],
)
def test_a_history_that_breaks_a_promise_is_objected_to(history: list[Operation], words: str) -> None:
    wrong = check(history).wrong
    assert any(words in each for each in wrong), wrong


def test_failures_are_told_by_fault_and_excused_only_where_they_were_under_way() -> None:
    faults = [Fault("kill", 10, 10.5), Fault("reload", 20, 30, excuses=False)]
    history = [
        op("read", 1, value=0),
        op("read", 9.9, 10.6, outcome="failed"),
        op("read", 10.4, 12, outcome="failed"),
        op("read", 10.6, 12, outcome="failed"),
        op("read", 15, outcome="unsent"),
        op("read", 19.9, 20.2, outcome="failed"),
        op("read", 21, value=0),
    ]
    before, kill, reload = failures(history, faults)
    assert (before.requests, before.failed, before.unexcused) == (1, [], [])
    assert kill.failed == history[1:4]
    assert kill.unexcused == history[3:4]
    assert reload.unexcused == [history[5]]
    assert str(kill) == "kill: 3 of 3 requests failed, 1 without excuse"
    assert str(reload) == "reload: 1 of 2 requests failed, 1 without excuse"
    assert failures([op("read", 1, outcome="failed")], faults)[0].unexcused
    edge = [Fault("kill the edge", 10, 10.5, connections=True), faults[1]]
    on_it = [op("read", 11, 22, outcome="failed", connected=began) for began in (9, 10.6)]
    _, kill, reload = failures(on_it, edge)
    assert (kill.failed, kill.unexcused) == (on_it[:1], [])
    assert (reload.failed, reload.unexcused) == (on_it[1:], on_it[1:])
