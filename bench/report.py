"""Turns the samples into estimates, and those into a table, JSON and a verdict."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from bench.statistics import Estimate, differences, estimate, ratios

__all__ = ["Measured", "misses", "summarise", "table"]

Samples = Mapping[str, Mapping[str, Sequence[float]]]
Summary = list[dict[str, Any]]


class Measured(Protocol):
    """An item of the benchmark.

    `bare` is the contender whose cost is taken off all others', `reference` the one they are compared with. Contenders
    whose names begin with `judged` must cost at most `share` of it.
    """

    @property
    def name(self) -> str: ...
    @property
    def share(self) -> float | None: ...
    @property
    def bare(self) -> str: ...
    @property
    def reference(self) -> str: ...
    @property
    def judged(self) -> str: ...


def summarise(samples: Samples, items: Iterable[Measured]) -> Summary:
    """Give, item by item, each contender's cost over the bare one and its share of the reference's."""
    return [_summary(item, samples[item.name]) for item in items if item.name in samples]


def _summary(item: Measured, samples: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    bare = samples[item.bare]
    contenders: dict[str, Any] = {}
    for name, values in samples.items():
        if name == item.bare:
            continue
        entry: dict[str, Any] = {"microseconds_over_bare": estimate(differences(values, bare))._asdict()}
        if name != item.reference:
            entry["share"] = estimate(ratios(values, samples[item.reference], bare))._asdict()
        contenders[name] = entry
    return {
        "item": item.name,
        "rounds": len(bare),
        "bare": item.bare,
        "reference": item.reference,
        "judged": item.judged,
        "target_share": item.share,
        "bare_microseconds": estimate(bare)._asdict(),
        "contenders": contenders,
    }


def misses(summary: Summary) -> list[str]:
    """Give each target that is not met with certainty: the whole interval must lie below it."""
    return [
        f"{item['item']}: {name} costs up to {entry['share']['high']:.3f} of {item['reference']}, "
        f"and the target is {item['target_share']:.3f}"
        for item in summary
        if item["target_share"] is not None
        for name, entry in item["contenders"].items()
        if name.startswith(item["judged"]) and entry["share"]["high"] > item["target_share"]
    ]


def table(summary: Summary) -> str:
    """Give the text that a person reads."""
    lines: list[str] = []
    for item in summary:
        target = "" if item["target_share"] is None else f"target: at most {item['target_share']:.3f}"
        over, share = f"µs over the {item['bare']}", f"share of {item['reference']}"
        lines += [
            "",
            f"{item['item']} ({item['rounds']} rounds)",
            f"  {'':34}{over:>32}{share:>36}  {target}".rstrip(),
            f"  {item['bare']:34}{_interval(item['bare_microseconds'], 2):>32}   (by itself)",
        ]
        for name, entry in item["contenders"].items():
            found = entry.get("share")
            lines.append(
                f"  {name:34}{_interval(entry['microseconds_over_bare'], 2):>32}"
                f"{'1' if found is None else _interval(found, 3):>36}"
            )
    return "\n".join(lines)


def _interval(values: Mapping[str, float], digits: int) -> str:
    found = Estimate(**values)
    return f"{found.median:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"
