"""What is wrong with a history of nodes on one store is found: a good one passes, and each planted violation does not."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.history.checker import check
from tests.history.model import COUNTER, Fault, Kind, Loss, Operation, Outcome

History = list[Operation]


def op(
    kind: Kind,
    sent: float,
    *,
    node: str = "a",
    took: float = 0.01,
    outcome: Outcome = "ok",
    session: str = "s",
    user: str = "ann",
    **given: Any,
) -> Operation:
    seen = {"seen_session": session, "seen_user": user} if outcome == "ok" else {}
    return Operation(
        client="phone",
        node=node,
        kind=kind,
        sent=sent,
        received=sent + took,
        outcome=outcome,
        session="" if kind == "end_user" else session,
        user=user,
        **{**seen, **given},
    )


def good() -> History:
    """Two people; a fault at 10; answers of every kind that are as they should be, the oldest that may be among them."""
    return [
        op("login", 0),
        op("write", 1, key="k", number=1, seen={"k": 1}),
        op("write", 2, node="b", key="k", number=2, seen={"k": 2}, took=0.5),
        op("read", 2.2, seen={"k": 2}, marks=frozenset("s")),  # while it is written
        op("read", 2.3, seen={"k": 1}),
        op("read", 2.52, seen={"k": 1}, node="a"),  # a copy, 10 ms old
        op("look", 2.6, seen={"k": 2}),
        op("add", 3, number=1, key=COUNTER),
        op("add", 3, number=2, key=COUNTER, node="b"),
        op("read", 3.1, seen={"k": 2, COUNTER: 2}),
        op("login", 4, session="t"),
        op("read", 4.1, session="t"),
        op("login", 4, session="u", user="bob"),
        op("end_user", 5, keep="s"),
        op("read", 5, session="t", node="b"),  # while it is ended
        op("read", 5.03, session="t", node="b"),  # a copy, 20 ms old
        op("read", 5.2, session="t", node="b", outcome="refused"),
        op("read", 5.2, seen={"k": 2, COUNTER: 2}),
        op("read", 5.2, session="u", user="bob"),
        op("write", 10, key="k", number=3, outcome="failed", took=1.0),
        op("read", 11, seen={"k": 2, COUNTER: 2}, node="b"),
        op("write", 12, key="k", number=4, seen={"k": 4, COUNTER: 2}),
        op("read", 12.5, seen={"k": 2, COUNTER: 2}, node="b"),  # a copy from before the fault
        op("end", 13, outcome="failed", took=0.3),
        op("logout", 14),
        op("read", 14.02, node="b", seen={"k": 4, COUNTER: 2}),
        op("look", 14.02, node="b", outcome="refused"),
        op("read", 14.02, outcome="refused"),
        op("read", 20, outcome="refused", node="b"),
        op("read", 20, session="u", user="bob", node="b"),
    ]


FAULT = Fault(name="SIGSTOP", began=10, over=13.5, away=(10, 10.5))


def test_a_history_as_it_should_be_is_found_good() -> None:
    verdict = check(good(), [FAULT], stale=2.0)
    assert verdict.wrong == []
    assert verdict.counts["read ok"] == 13
    assert verdict.latest == pytest.approx(0.02)
    assert verdict.oldest == pytest.approx(0.49)
    assert verdict.ends == pytest.approx([0.01, 0.02])
    assert max(verdict.reads) == pytest.approx(0.02)
    assert "accepted after its end: 20.0 ms at most" in str(verdict)
    assert verdict.lost == {}


def changed(which: int, **given: Any) -> Callable[[History], History]:
    """One operation of it is another."""
    return lambda history: [*history[:which], replace(history[which], **given), *history[which + 1 :]]


def also(*operations: Operation) -> Callable[[History], History]:
    return lambda history: [*history, *operations]


PLANTED = {
    "an ended session is accepted beyond the staleness": (
        also(op("read", 16.1, node="b")),
        "accepted by another node 2.090 s after its end",
    ),
    "an ended session is accepted on the node that ended it": (
        also(op("read", 14.5)),
        "accepted by the node that had ended it 0.490 s after",
    ),
    "an ended session is written to": (
        also(op("write", 14.5, node="b", key="k", number=5, seen={"k": 5})),
        "accepted by another node 0.490 s after",
    ),
    "one of a user's sessions outlives the end of all": (
        also(op("read", 9, session="t", node="b")),
        "accepted by another node 3.990 s after its end",
    ),
    "many are accepted for longer than the feed takes": (
        also(
            op("login", 6, session="v"),
            op("logout", 7, session="v"),
            op("read", 7.1, session="v", node="b"),
            op("read", 14.4, node="b", seen={"k": 4, COUNTER: 2}),
            op("read", 5.1, node="b", session="t"),
        ),
        "3 of 3 ends were behind by more than 50.0 ms",
    ),
    "a session comes back whose end was never acknowledged": (
        lambda history: [
            *(each for each in history if each.kind != "logout"),
            op("read", 17, node="b", seen={"k": 4, COUNTER: 2}),
        ],
        "after it had been refused",
    ),
    "a session is refused that nobody ended": (
        also(op("read", 6, user="bob", session="u", outcome="refused")),
        "a session that nobody had ended was refused",
    ),
    "a session that was to be kept is refused": (
        also(op("look", 6, outcome="refused")),
        "a session that nobody had ended was refused",
    ),
    "an acknowledged write is lost": (
        also(op("look", 13, seen={"k": 3, COUNTER: 2})),
        "k is 3, 0.990 s after 4 was acknowledged",
    ),
    "a change to one key undoes one to another": (
        also(
            op("write", 6, key="x", number=1, seen={"x": 1, "k": 2, COUNTER: 2}),
            op("write", 7, key="y", number=1, seen={"y": 1, "k": 2, COUNTER: 2}, node="b"),
        ),
        "x is 0",
    ),
    "a read is older than it may be": (
        also(op("read", 9, node="a", seen={"k": 1, COUNTER: 2})),
        "k is 1, 6.500 s after 2 was acknowledged by b",
    ),
    "a node does not know what it wrote itself": (
        also(op("read", 2.6, node="b", seen={"k": 1})),
        "k is 1, 0.100 s after 2 was acknowledged by b",
    ),
    "many reads are older than the feed takes": (
        also(*(op("read", 3.2 + n / 100, node="a", seen={"k": 1, COUNTER: 2}) for n in range(5))),
        "reads were behind by more than 50.0 ms",
    ),
    "a number that nobody wrote": (changed(3, seen={"k": 7}), "k is 7, which nobody had written yet"),
    "a number before it was written": (changed(1, seen={"k": 2}), "k is 2, which nobody had written yet"),
    "an answer without what was written": (changed(2, seen={"k": 1}), "k is 1 in the answer to the writing of 2"),
    "an addition is lost": (
        also(op("add", 6, number=2, key=COUNTER)),
        "the sum is 2, though 3 additions were acknowledged",
    ),
    "an addition is made twice": (changed(9, seen={"k": 2, COUNTER: 3}), "fewer additions had been asked for"),
    "two additions come to the same": (changed(8, number=1), "the sum 1 came of 2 additions"),
    "a session in another user's hands": (changed(11, seen_user="bob"), "ann's request was taken for bob's"),
    "a request that is nobody's and yet accepted": (changed(11, seen_user=""), "taken for nobody's"),
    "another session than was asked for": (changed(11, seen_session="s"), "the answer was about session s"),
    "two logins are given one session": (changed(12, session="t", seen_session="t"), "that another had been given"),
    "what another session had written": (
        changed(18, marks=frozenset("s")),
        "it showed what session s had written",
    ),
    "a failure while nothing was the matter": (
        also(op("read", 8, outcome="failed")),
        "failed while nothing was the matter",
    ),
    "an answer that outlives the lease while the store is away": (
        also(op("read", 12.2, took=0.1, seen={"k": 4, COUNTER: 2})),
        "answered 2.200 s after SIGSTOP took the store away",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_violation_is_found(name: str) -> None:
    plant, words = PLANTED[name]
    faults = [FAULT]
    if "outlives the lease" in name:
        faults = [replace(FAULT, away=(10, 12.9))]
    wrong = check(plant(good()), faults, stale=2.0).wrong
    assert any(words in each for each in wrong), wrong


LOST = Loss(setting="no append-only file", since=11.0, at=13.0)
AFTER_A_LOSS = [op("look", 13.2, seen={"k": 2, COUNTER: 2}, node="b"), op("look", 13.3, seen={"k": 2, COUNTER: 2})]


def test_what_a_setting_allows_to_be_lost_is_counted_under_its_name_and_nothing_else_is_excused() -> None:
    history = [*good()[:24], *AFTER_A_LOSS]
    verdict = check(history, [FAULT], [LOST])
    assert verdict.wrong == []
    assert verdict.lost == {"no append-only file": {("writes", "s", "k", "4")}}
    assert "lost by no append-only file: 1 writes" in str(verdict)
    for losses in (
        [],
        [replace(LOST, parts=frozenset({"ends"}))],
        [replace(LOST, since=12.5)],
        [replace(LOST, at=11.5)],
    ):
        assert any("k is 2" in each for each in check(history, [FAULT], losses).wrong)


def test_an_end_that_a_store_may_forget_is_counted_and_one_from_before_is_not() -> None:
    back = [*good()[:25], op("read", 20, node="b", seen={"k": 4, COUNTER: 2})]
    loss = Loss(setting="asynchronous replication", since=13.9, at=15.0)
    verdict = check(back, [FAULT], [loss])
    assert verdict.wrong == []
    assert verdict.lost["asynchronous replication"] == {("ends", "s")}
    assert check(back, [FAULT], [replace(loss, since=14.5)]).wrong
    assert check(back, [FAULT], [replace(loss, parts=frozenset({"writes", "logins"}))]).wrong
    gone = [*good()[:12], op("read", 6, outcome="refused")]
    loss = Loss(setting="unlogged tables", since=0.0, at=5.0, parts=frozenset({"logins", "writes"}))
    verdict = check(gone, [], [loss])
    assert (verdict.wrong, verdict.lost["unlogged tables"]) == ([], {("logins", "s")})


def test_a_fault_excuses_failures_of_its_nodes_in_its_time_and_no_others() -> None:
    cut = Fault(name="cut", began=1, over=3, nodes=frozenset("b"))
    failed = op("read", 2, node="b", outcome="failed")
    begun = [op("login", 0)]
    assert check([*begun, failed], [cut]).wrong == []
    assert check([*begun, replace(failed, sent=0.5, received=1.2)], [cut]).wrong == []
    assert check([*begun, replace(failed, node="a")], [cut]).wrong
    assert check([*begun, replace(failed, sent=3.1, received=3.2)], [cut]).wrong
    assert check([*begun, failed], [replace(cut, excuses=False)]).wrong


def test_of_a_login_and_an_end_of_all_at_the_same_time_either_may_have_been_first() -> None:
    history = [
        op("login", 1, took=0.5),
        op("end_user", 1.2, node="b", keep=""),
        op("end_user", 1.2, node="b", keep="", user="bob"),
    ]
    assert check([*history, op("read", 5, outcome="refused")]).wrong == []
    assert check([*history, op("read", 5)]).wrong == []
    assert check([*history, op("read", 2, outcome="refused"), op("read", 5)]).wrong
