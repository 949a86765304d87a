"""Turns the samples into estimates, and those into a table, JSON and a verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.in_process import BARE, ITEMS, STARLETTE, Item
from bench.statistics import Estimate, differences, estimate, ratios

__all__ = ["misses", "summarise", "table"]

Samples = Mapping[str, Mapping[str, Sequence[float]]]
Summary = list[dict[str, Any]]


def summarise(samples: Samples) -> Summary:
    """Give, item by item, each contender's cost over the bare application and its share of Starlette's."""
    return [_summary(item, samples[item.name]) for item in ITEMS if item.name in samples]


def _summary(item: Item, samples: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    bare = samples[BARE]
    contenders: dict[str, Any] = {}
    for name, values in samples.items():
        if name == BARE:
            continue
        entry: dict[str, Any] = {"microseconds_over_bare": estimate(differences(values, bare))._asdict()}
        if name != STARLETTE:
            entry["share_of_starlette"] = estimate(ratios(values, samples[STARLETTE], bare))._asdict()
        contenders[name] = entry
    return {
        "item": item.name,
        "rounds": len(bare),
        "target_share": item.share,
        "bare_microseconds": estimate(bare)._asdict(),
        "contenders": contenders,
    }


def misses(summary: Summary) -> list[str]:
    """Give each target that is not met with certainty: the whole interval must lie below it."""
    return [
        f"{item['item']}: {name} costs up to {entry['share_of_starlette']['high']:.3f} of what Starlette costs, "
        f"and the target is {item['target_share']:.3f}"
        for item in summary
        if item["target_share"] is not None
        for name, entry in item["contenders"].items()
        if name.startswith("Coatcheck") and entry["share_of_starlette"]["high"] > item["target_share"]
    ]


def table(summary: Summary) -> str:
    """Give the text that a person reads."""
    lines: list[str] = []
    for item in summary:
        target = "" if item["target_share"] is None else f"target: at most {item['target_share']:.3f}"
        lines += [
            "",
            f"{item['item']} ({item['rounds']} rounds)",
            f"  {'':34}{'µs over the bare application':>32}{'share of Starlette':>28}  {target}".rstrip(),
            f"  {BARE:34}{_interval(item['bare_microseconds'], 2):>32}   (by itself)",
        ]
        for name, entry in item["contenders"].items():
            share = entry.get("share_of_starlette")
            lines.append(
                f"  {name:34}{_interval(entry['microseconds_over_bare'], 2):>32}"
                f"{'1' if share is None else _interval(share, 3):>28}"
            )
    return "\n".join(lines)


def _interval(values: Mapping[str, float], digits: int) -> str:
    found = Estimate(**values)
    return f"{found.median:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"
