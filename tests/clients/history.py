"""What clients did and what they were told, and whether a server that keeps its promises can have told it.

A history is a list of operations, each with the moments (seconds, one monotonic clock) between which it happened. Nothing
is assumed of the order of two that overlap, nor of what became of one that was not answered. Knows nothing of HTTP.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["login", "logout", "write", "read"]
Outcome = Literal["ok", "refused", "failed", "unsent"]
"""`refused`: the session is not accepted. `failed`: no proper answer, so it may have happened or not. `unsent`: it
cannot have happened, because no server was given it."""

BOUND = 2.0
"""Seconds for which what was ended or written may be unknown somewhere, at worst (P1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One request. A write adds one to a number that the session holds, a read asks for that number."""

    client: str
    kind: Kind
    began: float
    ended: float
    outcome: Outcome
    session: str
    """The session whose credential was sent; for a login that went well, the one it began."""
    user: str
    """Who the client is, and to whom the session belongs."""
    seen_session: str | None = None
    """What the answer said the session is."""
    seen_user: str | None = None
    value: int | None = None
    """What the answer said the number is, for a write after it."""
    connected: float | None = None
    """When the connection was opened that it was sent on."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was done to the server. What is under way on what was harmed may fail, and nothing else."""

    name: str
    began: float
    over: float
    """From when on nothing can have been given to what was harmed."""
    excuses: bool = True
    """Whether anything at all may fail because of it."""
    connections: bool = False
    """Whether what was harmed held the clients' connections: then what is sent on one of those may fail later, too, for
    over UDP a client is told nothing of the other side's death."""

    def excuse(self, operation: "Operation") -> bool:
        """Whether that one may have failed because of this."""
        if self.connections and operation.connected is not None and operation.connected <= self.over:
            return True
        return self.excuses and operation.began <= self.over


@dataclass
class Verdict:
    """What is wrong with a history, in sentences, and figures about it."""

    wrong: list[str] = field(default_factory=list[str])
    counts: Counter[str] = field(default_factory=Counter[str])
    latest: float = 0.0
    """Seconds after its end was answered at which a session was still accepted, at most."""

    def __str__(self) -> str:
        shown = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        return f"{shown}; an ended session was accepted for {self.latest * 1000:.0f} ms at most"


def check(history: Iterable[Operation], *, bound: float = BOUND) -> Verdict:
    """Look for sessions lost, risen, or in wrong hands, and for writes lost or made twice."""
    verdict = Verdict()
    sessions: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in history:
        verdict.counts[f"{operation.kind} {operation.outcome}"] += 1
        if operation.outcome == "ok" and operation.kind != "logout" and operation.seen_user != operation.user:
            verdict.wrong.append(
                f"{_said(operation)}: {operation.user}'s request was taken for {operation.seen_user}'s"
            )
        if operation.session:
            sessions[operation.session].append(operation)
    for operations in sessions.values():
        operations.sort(key=lambda each: each.began)
        _check_life(operations, bound, verdict)
        _check_hands(operations, verdict)
        _check_number(operations, bound, verdict)
    return verdict


def _check_life(operations: Sequence[Operation], bound: float, verdict: Verdict) -> None:
    """From login to logout it is accepted, after that it is not; what is refused once stays so."""
    ends = [each for each in operations if each.kind == "logout" and each.outcome in ("ok", "failed")]
    may_end = min((each.began for each in ends), default=float("inf"))
    ended = min((each.ended for each in ends if each.outcome == "ok"), default=float("inf"))
    used = [each for each in operations if each.kind in ("read", "write")]
    for each in used:
        if each.outcome == "refused" and each.ended < may_end:
            verdict.wrong.append(f"{_said(each)}: a session that nobody ended was refused")
        if each.outcome == "ok" and each.began > ended:
            late = each.began - ended
            verdict.latest = max(verdict.latest, late)
            if late > bound:
                verdict.wrong.append(f"{_said(each)}: accepted {late:.3f} s after its end was answered")
    refused = min((each.ended for each in used if each.outcome == "refused"), default=float("inf"))
    for each in used:
        if each.outcome == "ok" and each.began > refused + bound and each.began <= ended + bound:
            verdict.wrong.append(f"{_said(each)}: accepted {each.began - refused:.3f} s after it had been refused")


def _check_hands(operations: Sequence[Operation], verdict: Verdict) -> None:
    logins = [each for each in operations if each.kind == "login" and each.outcome == "ok"]
    for again in logins[1:]:
        verdict.wrong.append(f"{_said(again)}: a login was given a session that another had been given")
    for each in operations:
        if each.outcome == "ok" and each.kind in ("read", "write") and each.seen_session != each.session:
            verdict.wrong.append(f"{_said(each)}: the answer was about session {each.seen_session}")


def _check_number(operations: Sequence[Operation], bound: float, verdict: Verdict) -> None:
    """The number is at least what had been acknowledged, and at most what had been asked for."""
    acknowledged = [each for each in operations if each.kind == "write" and each.outcome == "ok"]
    asked = [each for each in operations if each.kind == "write" and each.outcome in ("ok", "failed")]
    times = Counter(each.value for each in acknowledged)
    for each in acknowledged:
        if times[each.value] > 1:
            verdict.wrong.append(f"{_said(each)}: the number {each.value} came of {times[each.value]} writes")
    for each in operations:
        if each.outcome != "ok" or each.kind not in ("read", "write"):
            continue
        # A write is made on what the store has. What is read may be a copy, as old as P1 allows.
        settled = each.began if each.kind == "write" else each.began - bound
        own = 1 if each.kind == "write" else 0
        least = sum(1 for write in acknowledged if write.ended <= settled) + own
        most = sum(1 for write in asked if write.began <= each.ended)
        if each.value is None or each.value < least:
            verdict.wrong.append(f"{_said(each)}: the number is {each.value}, though {least} writes were acknowledged")
        elif each.value > most:
            verdict.wrong.append(f"{_said(each)}: the number is {each.value}, though {most} writes were asked for")


@dataclass
class Failures:
    """What failed from one fault to the next."""

    fault: Fault | None
    """None: before the first."""
    requests: int = 0
    """That ended in this time."""
    failed: list[Operation] = field(default_factory=list[Operation])
    unexcused: list[Operation] = field(default_factory=list[Operation])
    """Those of `failed` that were not under way on what was harmed."""

    def __str__(self) -> str:
        name = self.fault.name if self.fault is not None else "before any fault"
        return f"{name}: {len(self.failed)} of {self.requests} requests failed, {len(self.unexcused)} without excuse"


def failures(history: Iterable[Operation], faults: Sequence[Fault]) -> list[Failures]:
    """Which requests failed after which fault. `faults` are in the order of time."""
    found = [Failures(None), *(Failures(fault) for fault in faults)]
    for operation in history:
        if operation.outcome == "unsent":
            continue
        before = [each for each in reversed(found[1:]) if each.fault and each.fault.began <= operation.ended]
        if operation.outcome != "failed":
            (before or found)[0].requests += 1
            continue
        excuse = next((each for each in before if each.fault and each.fault.excuse(operation)), None)
        of = excuse or (before or found)[0]
        of.requests += 1
        of.failed.append(operation)
        if excuse is None:
            of.unexcused.append(operation)
    return found


def _said(operation: Operation) -> str:
    return (
        f"{operation.client} {operation.kind} {operation.note} [{operation.began:.3f}, {operation.ended:.3f}] "
        f"of session {operation.session}"
    )
