"""Whether nodes that keep their promises can have given these answers. Pure: a history in, a verdict out.

Proves from when each request was sent and answered, and from nothing else: of two that overlap, either may have been first,
and of what was not answered nothing is known. Each objection is a sentence; what a store's documented setting allows to be
lost is counted under that setting's name.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.history.model import BACK, COUNTER, EXACT, Fault, Loss, Operation, Part

__all__ = ["QUIET", "Verdict", "check"]

QUIET = 0.05
"""Seconds within which an end or a change is known on every node while its feed is live, but for one in a hundred (P1)."""

_FEW = 2
"""So many may be late in any history, however short: a machine may be busy for a moment."""


@dataclass
class Verdict:
    """What is wrong with a history, in sentences, and figures about it."""

    wrong: list[str] = field(default_factory=list[str])
    counts: Counter[str] = field(default_factory=Counter[str])
    lost: defaultdict[str, set[tuple[str, ...]]] = field(default_factory=lambda: defaultdict(set))
    """What was acknowledged and is gone, and what had ended and was back, by the setting that allows it."""
    latest: float = 0.0
    """Seconds after the answer to its end at which a session was still accepted somewhere, at most."""
    oldest: float = 0.0
    """Seconds by which what was read was behind what had been acknowledged, at most."""
    ends: list[float] = field(default_factory=list[float])
    """The same in quiet times, for each end that was looked for on another node: 0 where none was accepted."""
    reads: list[float] = field(default_factory=list[float])
    """The same in quiet times, for each read that another node's write came before."""

    def __str__(self) -> str:
        shown = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        lines = [
            f"{shown}",
            f"accepted after its end: {_ms(self.latest)} at most; in quiet times, of {len(self.ends)}: "
            f"p50 {_ms(_quantile(self.ends, 0.5))}, p99 {_ms(_quantile(self.ends, 0.99))}",
            f"read behind what was acknowledged: {_ms(self.oldest)} at most; in quiet times, of {len(self.reads)}: "
            f"p99 {_ms(_quantile(self.reads, 0.99))}",
        ]
        for setting, found in sorted(self.lost.items()):
            kinds = Counter(each[0] for each in found)
            lines.append(f"lost by {setting}: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
        return "\n".join(lines)


def check(
    history: Iterable[Operation], faults: Sequence[Fault] = (), losses: Sequence[Loss] = (), *, stale: float = 2.0
) -> Verdict:
    """Judge a history. `stale`: the nodes' `max_staleness` in seconds."""
    operations = sorted(history, key=lambda each: each.sent)
    verdict = Verdict()
    sessions: defaultdict[str, list[Operation]] = defaultdict(list)
    everybody: defaultdict[str, list[Operation]] = defaultdict(list)
    for each in operations:
        verdict.counts[f"{each.kind} {each.outcome}"] += 1
        if each.kind == "end_user":
            everybody[each.user].append(each)
        elif each.session:
            sessions[each.session].append(each)
    for used in sessions.values():
        _Life(used, everybody[used[0].user], faults, losses, stale, verdict).check()
    _check_failures(operations, faults, stale, verdict)
    for what, found in (("ends were", verdict.ends), ("reads were", verdict.reads)):
        late = [each for each in found if each > QUIET]
        if len(late) > max(_FEW, math.ceil(len(found) / 100)):
            verdict.wrong.append(
                f"{len(late)} of {len(found)} {what} behind by more than {_ms(QUIET)} while nothing was the matter, "
                f"{_ms(max(late))} at most"
            )
    return verdict


class _Life:
    """One session, from its login on."""

    def __init__(
        self,
        operations: list[Operation],
        everybody: Sequence[Operation],
        faults: Sequence[Fault],
        losses: Sequence[Loss],
        stale: float,
        verdict: Verdict,
    ) -> None:
        self._all = operations
        self._faults = faults
        self._losses = losses
        self._stale = stale
        self._verdict = verdict
        self._login = next((each for each in operations if each.kind == "login"), None)
        self._ends = [each for each in operations if each.kind in BACK and each.outcome != "refused"]
        self._uses = [each for each in operations if each.kind not in BACK and each.kind != "login"]
        session = operations[0].session
        for each in everybody:
            # One that began it meanwhile may have been before or after: then nothing is sure.
            begun = self._login is not None and self._login.received <= each.sent
            if each.keep != session and each.outcome != "refused" and self._login is not None:
                if begun:
                    self._ends.append(each)
                elif self._login.sent <= each.received:
                    self._ends.append(_unsure(each))

    def check(self) -> None:
        self._check_hands()
        self._check_acceptance()
        self._check_refusals()
        self._check_numbers()
        self._check_counter()

    def _object(self, operation: Operation, what: str) -> None:
        self._verdict.wrong.append(f"{_said(operation)}: {what}")

    def _allowed(self, part: Part, acknowledged: float, seen: float, *what: str) -> bool:
        """Whether what is missing may be; then it is counted."""
        for loss in self._losses:
            if loss.takes(part, acknowledged, seen):
                self._verdict.lost[loss.setting].add(what)
                return True
        return False

    def _quiet(self, began: float, ended: float, *nodes: str) -> bool:
        return not any(
            fault.touches(began, ended) and any(fault.concerns(node) for node in nodes) for fault in self._faults
        )

    def _check_hands(self) -> None:
        logins = [each for each in self._all if each.kind == "login" and each.outcome == "ok"]
        for again in logins[1:]:
            self._object(again, "a login was given a session that another had been given")
        if self._uses and self._login is None:
            self._object(self._uses[0], "a session that no login had begun")
        for each in self._all:
            if each.outcome != "ok" or each.kind in BACK:
                continue
            if each.seen_user != each.user:
                self._object(each, f"{each.user}'s request was taken for {each.seen_user or 'nobody'}'s")
            if each.seen_session != each.session:
                self._object(each, f"the answer was about session {each.seen_session}")
            foreign = each.marks - {each.session}
            if foreign:
                self._object(each, f"it showed what session {min(foreign)} had written")

    def _check_acceptance(self) -> None:
        """After its end is answered a session is accepted nowhere beyond the bound; after a refusal, never again."""
        accepted = [each for each in self._uses if each.outcome == "ok"]
        for end in self._ends:
            if end.outcome != "ok":
                continue
            session = self._all[0].session
            elsewhere = 0.0
            looked = False
            for each in self._uses:
                late = each.sent - end.received
                if late < 0:
                    continue
                quiet = (
                    each.node != end.node and each.kind == "read" and self._quiet(end.sent, each.received, each.node)
                )
                looked = looked or quiet
                if each.outcome != "ok" or self._allowed("ends", end.received, each.received, "ends", session):
                    continue
                bound = 0.0 if each.node == end.node or each.kind in EXACT else self._stale
                self._verdict.latest = max(self._verdict.latest, late)
                if quiet:
                    elsewhere = max(elsewhere, late)
                if late > bound:
                    where = "the node that had ended it" if each.node == end.node else "another node"
                    self._object(each, f"accepted by {where} {late:.3f} s after its end was answered")
            if looked:
                self._verdict.ends.append(elsewhere)
        sure = min((each.received for each in self._ends if each.outcome == "ok"), default=math.inf)
        refusals = [each.received for each in self._uses if each.outcome == "refused"]
        for each in accepted:
            # Beyond its bound after an end, it has been objected to already.
            before = [refused for refused in refusals if refused + self._stale < each.sent]
            if not before or sure + self._stale < each.sent:
                continue
            if not self._allowed("ends", before[0], each.received, "ends", each.session):
                self._object(each, f"accepted {each.sent - before[0]:.3f} s after it had been refused")

    def _check_refusals(self) -> None:
        """A session that nobody may have ended is not refused."""
        may_end = min((each.sent for each in self._ends), default=math.inf)
        begun = self._login.received if self._login is not None else -math.inf
        for each in self._all:
            if each.outcome != "refused" or each.kind in ("login", "end") or each.received >= may_end:
                continue
            if not self._allowed("logins", begun, each.received, "logins", each.session):
                self._object(each, "a session that nobody had ended was refused")

    def _settled(self, write: Operation, read: Operation) -> float:
        """From when on an answer must show what was written."""
        exact = read.kind in EXACT or read.node == write.node
        return write.received if exact else write.received + self._stale

    def _check_numbers(self) -> None:
        """Each key shows its last acknowledged number, a little later elsewhere, and none that was never asked for."""
        writes = [each for each in self._uses if each.kind == "write"]
        for key in {each.key for each in writes}:
            asked = [each for each in writes if each.key == key]
            acknowledged = [each for each in asked if each.outcome == "ok"]
            for each in self._uses:
                if each.outcome != "ok" or each.kind == "add":
                    continue
                seen = each.seen.get(key, 0)
                if seen > max((write.number for write in asked if write.sent <= each.received), default=0):
                    self._object(each, f"{key} is {seen}, which nobody had written yet")
                if each.kind == "write" and each.key == key and seen != each.number:
                    self._object(each, f"{key} is {seen} in the answer to the writing of {each.number}")
                self._check_missed(each, key, seen, acknowledged)

    def _check_missed(self, each: Operation, key: str, seen: int, acknowledged: Sequence[Operation]) -> None:
        behind = 0.0
        compared = False
        for write in acknowledged:
            if write.received > each.sent:
                continue
            quiet = each.node != write.node and each.kind == "read"
            quiet = quiet and self._quiet(write.sent, each.received, each.node)
            compared = compared or quiet
            if write.number <= seen:
                continue
            if self._allowed("writes", write.received, each.received, "writes", each.session, key, str(write.number)):
                continue
            age = each.sent - write.received
            self._verdict.oldest = max(self._verdict.oldest, age)
            if quiet:
                behind = max(behind, age)
            if each.sent > self._settled(write, each):
                self._object(
                    each, f"{key} is {seen}, {age:.3f} s after {write.number} was acknowledged by {write.node}"
                )
        if compared:
            self._verdict.reads.append(behind)

    def _check_counter(self) -> None:
        """What all add to is at least what was acknowledged and at most what was asked for, and each sum came once."""
        adds = [each for each in self._uses if each.kind == "add" and each.outcome != "refused"]
        acknowledged = [each for each in adds if each.outcome == "ok"]
        times = Counter(each.number for each in acknowledged)
        for each in acknowledged:
            same = [one for one in acknowledged if one.number == each.number]
            if times[each.number] > 1 and not any(
                self._allowed("writes", one.received, each.received, "writes", each.session, COUNTER, str(one.number))
                for one in same
                if one is not each and one.received <= each.received
            ):
                if any(one is not each and one.received <= each.received for one in same):
                    self._object(each, f"the sum {each.number} came of {times[each.number]} additions")
        for each in self._uses:
            if each.outcome != "ok" or (each.kind != "add" and COUNTER not in each.seen and not acknowledged):
                continue
            seen = each.number if each.kind == "add" else each.seen.get(COUNTER, 0)
            least = 1 if each.kind == "add" else 0
            for one in acknowledged:
                if one is not each and self._settled(one, each) < each.sent:
                    least += 1
            missing = least - seen
            if missing > 0:
                gone = [
                    one
                    for one in acknowledged
                    if one is not each
                    and one.received < each.sent
                    and self._allowed(
                        "writes", one.received, each.received, "writes", each.session, COUNTER, str(one.number)
                    )
                ]
                if len(gone) < missing:
                    self._object(each, f"the sum is {seen}, though {least} additions were acknowledged")
            if seen > sum(1 for one in adds if one.sent <= each.received):
                self._object(each, f"the sum is {seen}, and fewer additions had been asked for")


def _check_failures(operations: Sequence[Operation], faults: Sequence[Fault], stale: float, verdict: Verdict) -> None:
    """Only what a fault excuses may fail; and with the store away nobody is let in for longer than copies may be believed."""
    for each in operations:
        if each.outcome == "failed" and not any(
            fault.excuses and fault.concerns(each.node) and fault.touches(each.sent, each.received) for fault in faults
        ):
            verdict.wrong.append(f"{_said(each)}: failed while nothing was the matter")
        if each.outcome != "ok":
            continue
        for fault in faults:
            if fault.away is None or not fault.concerns(each.node):
                continue
            began, ended = fault.away
            if each.sent > began + stale and each.received < ended:
                late = each.sent - began
                verdict.wrong.append(f"{_said(each)}: answered {late:.3f} s after {fault.name} took the store away")


def _unsure(end: Operation) -> Operation:
    """The same, of which nobody knows whether it ended this one."""
    return Operation(
        client=end.client,
        node=end.node,
        kind=end.kind,
        sent=end.sent,
        received=end.received,
        outcome="failed",
        user=end.user,
        keep=end.keep,
    )


def _quantile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1)] if ordered else 0.0


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.0995 or seconds == 0 else f"{seconds * 1000:.1f} ms"


def _said(operation: Operation) -> str:
    note = f" ({operation.note})" if operation.note else ""
    return (
        f"{operation.client} {operation.kind} at {operation.node} [{operation.sent:.3f}, {operation.received:.3f}] "
        f"of session {operation.session or '-'}{note}"
    )
