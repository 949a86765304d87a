"""Coatcheck beside what people use today: starts Redis and PostgreSQL, has `bench.peers` measure, and makes tables of it.

Each contender is seen over the bare application of its own framework, in the same round; the shares are of what Coatcheck costs.
Redis and PostgreSQL are Debian's, on free ports of loopback, with what their packages come with but for the disk: Redis
writes nothing down, PostgreSQL does as always.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import machine
from bench.statistics import estimate, ratios

__all__ = ["POSTGRES", "TARGETS", "compare", "environment", "misses", "summarise", "table"]

POSTGRES: Mapping[str, Any] = {"durable": True, "on_disk": True, "shared_buffers": "128MB", "max_wal_size": "1GB"}
"""PostgreSQL as its package has it, where the tests' own saves memory and spares the disk."""
PEERS = machine.ROOT / "bench" / "peers"
OURS = "Coatcheck"
READ = "logged-in read of two keys"
TARGETS: tuple[tuple[str, str, str, float], ...] = (
    (READ, "Coatcheck, memory", "Starlette, signed cookie", 1 / 3),
    (READ, "Coatcheck, SQLite", "Starlette, signed cookie", 1 / 3),
    (READ, "Coatcheck, Redis", "Starlette, signed cookie", 1 / 3),
    (READ, "Coatcheck, PostgreSQL", "Starlette, signed cookie", 1 / 3),
    (READ, "Coatcheck, Redis", "starsessions, Redis", 1 / 30),
)
"""Item, who is judged, by whom, and the greatest share of its cost."""


def environment() -> Path:
    """Make the peers' locked environment, and give its Python."""
    home = PEERS / ".venv"
    settings = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(home)}
    settings.pop("VIRTUAL_ENV", None)
    command = [str(machine.ROOT / "scripts" / "uv"), "sync", "--frozen", "--quiet", "--project", str(PEERS)]
    subprocess.run(command, env=settings, check=True)
    return home / "bin" / "python"


def compare(*, rounds: int, seed: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure, and give the samples as `bench.peers.measure` writes them."""
    # The tests' own servers: real ones, in directories of their own.
    from tests.clients.postgres_server import PostgresServer, make_template
    from tests.clients.redis_server import RedisServer

    tell("the peers' environment")
    machine.need(machine.REDIS, machine.POSTGRES)
    python = environment()
    with tempfile.TemporaryDirectory(prefix="coatcheck-bench-") as directory, RedisServer() as redis:
        postgres = PostgresServer(make_template(Path(directory)), **POSTGRES)
        try:
            result = Path(directory) / "samples.json"
            command = [
                str(python),
                "-m",
                "bench.peers.measure",
                "--redis",
                f"redis://127.0.0.1:{redis.port}/0",
                "--postgres",
                postgres.url(),
            ]
            command += ["--rounds", str(rounds), "--seed", str(seed), "--json", str(result)]
            subprocess.run(command, cwd=machine.ROOT, check=True)
            return dict(json.loads(result.read_text()))
        finally:
            postgres.close()


def summarise(
    found: Mapping[str, Any], targets: Sequence[tuple[str, str, str, float]] = TARGETS
) -> list[dict[str, Any]]:
    """Give, item by item, what each contender costs over its bare application, and as a multiple of Coatcheck's on SQLite."""
    summary: list[dict[str, Any]] = []
    for item, samples in found["samples"].items():
        entries: dict[str, Any] = {}
        ours = _over(samples, found["bares"], f"{OURS}, SQLite")
        for name, bare in found["bares"].items():
            if name not in samples:
                continue
            if bare is None:
                entries[name] = {"microseconds": estimate(samples[name])._asdict()}
                continue
            over = _over(samples, found["bares"], name)
            entries[name] = {
                "microseconds_over_bare": estimate(over)._asdict(),
                "times_ours": estimate(ratios(over, ours, [0.0] * len(over)))._asdict(),
            }
        judged = [
            {
                "contender": one,
                "reference": other,
                "target": share,
                "share": estimate(
                    ratios(
                        _over(samples, found["bares"], one),
                        _over(samples, found["bares"], other),
                        [0.0] * len(samples[one]),
                    )
                )._asdict(),
            }
            for of, one, other, share in targets
            if of == item
        ]
        summary.append(
            {"item": item, "rounds": len(samples[f"{OURS}, SQLite"]), "contenders": entries, "judged": judged}
        )
    return summary


def _over(samples: Mapping[str, Sequence[float]], bares: Mapping[str, str | None], name: str) -> list[float]:
    bare = bares[name]
    assert bare is not None
    return [one - base for one, base in zip(samples[name], samples[bare], strict=True)]


def misses(summary: Sequence[Mapping[str, Any]]) -> list[str]:
    """Give each target that is not met with certainty: the whole interval must lie below it."""
    return [
        f"{item['item']}: {one['contender']} costs up to {one['share']['high']:.3f} of {one['reference']}, "
        f"and the target is {one['target']:.3f}"
        for item in summary
        for one in item["judged"]
        if one["share"]["high"] > one["target"]
    ]


def table(summary: Sequence[Mapping[str, Any]]) -> str:
    """Give it in Markdown."""
    lines: list[str] = []
    for item in summary:
        lines += [
            f"### {item['item'][0].upper()}{item['item'][1:]}",
            "",
            "| | µs over the bare application | times Coatcheck on SQLite |",
            "|---|---:|---:|",
        ]
        rows = [(name, entry) for name, entry in item["contenders"].items() if "microseconds_over_bare" in entry]
        for name, entry in sorted(rows, key=lambda row: row[1]["microseconds_over_bare"]["median"]):
            over, times = entry["microseconds_over_bare"], entry["times_ours"]
            shown = f"**{name}**" if name.startswith(OURS) else name
            lines.append(f"| {shown} | {_span(over, 1)} | {_span(times, 2)} |")
        bares = ", ".join(
            f"{name} {entry['microseconds']['median']:.0f}"
            for name, entry in item["contenders"].items()
            if "microseconds" in entry
        )
        lines += ["", f"{item['rounds']} rounds. Bare, in µs: {bares}.", ""]
        for one in item["judged"]:
            met = "met" if one["share"]["high"] <= one["target"] else "**missed**"
            lines.append(
                f"- {one['contender']}: {_span(one['share'], 3)} of what {one['reference']} costs; the target, "
                f"{one['target']:.3f}, is {met}."
            )
        if item["judged"]:
            lines.append("")
    return "\n".join(lines)


def _span(values: Mapping[str, float], digits: int) -> str:
    return f"{values['median']:,.{digits}f} [{values['low']:,.{digits}f}, {values['high']:,.{digits}f}]"
