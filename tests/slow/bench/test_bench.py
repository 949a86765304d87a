"""The benchmark measures what it says, and its verdict follows from its figures."""

import asyncio
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

from bench import comparison, in_process, page, quotes, report, rounds, statistics, stores, tokens
from bench.__main__ import misses

ROOT = Path(__file__).resolve().parents[3]


def test_an_estimate_is_the_median_within_an_interval_that_narrows_with_the_rounds() -> None:
    draw = random.Random(7)
    few = statistics.estimate([draw.gauss(5, 1) for _ in range(50)])
    many = statistics.estimate([draw.gauss(5, 1) for _ in range(2000)])
    for found in (few, many):
        assert found.low < found.median < found.high
    assert many.low < 5 < many.high
    assert many.high - many.low < few.high - few.low


def test_an_estimate_of_equal_samples_has_no_width_and_a_few_samples_are_enough() -> None:
    assert statistics.estimate([3.0, 3.0, 3.0]) == (3.0, 3.0, 3.0)


def test_neighbours_that_resemble_each_other_widen_the_interval() -> None:
    draw = random.Random(7)
    apart = [draw.gauss(5, 1) for _ in range(1000)]
    moods = sorted(apart[:500]) + sorted(apart[500:])
    wide, narrow = statistics.estimate(moods), statistics.estimate(apart)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_ratios_are_taken_round_by_round_over_the_bare_application() -> None:
    assert statistics.ratios([3, 5], [5, 5], [1, 1]) == [0.5, 1.0]
    assert statistics.differences([3, 5], [1, 1]) == [2, 4]


def test_a_round_in_which_the_other_cost_nothing_counts_as_the_worst() -> None:
    assert statistics.ratios([3], [1], [1]) == [math.inf]


async def test_every_contender_runs_in_every_round_and_the_first_rounds_are_left_out() -> None:
    runs = {"one": 0, "other": 0}

    def block(name: str) -> rounds.Block:
        async def run(size: int) -> None:
            runs[name] += size

        return run

    samples = await rounds.measure({name: block(name) for name in runs}, rounds=20, size=3, seed=1)
    assert {name: len(values) for name, values in samples.items()} == {"one": 20, "other": 20}
    assert runs == {"one": 66, "other": 66}


def figures(ours: float) -> report.Samples:
    item = next(item for item in in_process.ITEMS if item.share is not None)
    return {
        item.name: {
            in_process.BARE: [1.0] * 50,
            in_process.STARLETTE: [10.0] * 50,
            in_process.SQLITE: [ours] * 50,
        }
    }


def test_the_verdict_asks_that_the_whole_interval_lies_below_the_target() -> None:
    assert report.misses(report.summarise(figures(3.9), in_process.ITEMS)) == []
    missed = report.misses(report.summarise(figures(4.1), in_process.ITEMS))
    assert len(missed) == 1
    assert "Coatcheck, SQLite costs up to 0.344" in missed[0]


def test_the_table_shows_each_contender_with_its_share() -> None:
    text = report.table(report.summarise(figures(3.7), in_process.ITEMS))
    assert "2.70 [2.70, 2.70]" in text
    assert "0.300 [0.300, 0.300]" in text
    assert "target: at most 0.333" in text


async def test_a_request_that_was_not_warm_spoils_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_cached(self: object, token: bytes) -> None:
        return None

    monkeypatch.setattr(in_process.CountedSessions, "load_cached", not_cached)
    with pytest.raises(RuntimeError, match="not warm"):
        await in_process.run(tmp_path, rounds=1, size=1, seed=1, collect=False, tell=lambda item: None)


def token_figures(warm: float) -> report.Samples:
    return {
        tokens.ALONE.name: {
            tokens.NOTHING: [0.0] * 50,
            tokens.PYJWT: [100.0] * 50,
            tokens.COLD: [110.0] * 50,
            tokens.WARM: [warm] * 50,
        }
    }


def test_a_warm_verification_is_judged_and_a_cold_one_is_not() -> None:
    assert report.misses(report.summarise(token_figures(4.9), tokens.ITEMS)) == []
    [missed] = report.misses(report.summarise(token_figures(5.1), tokens.ITEMS))
    assert missed.startswith(
        "verification of an access token: Coatcheck, a token seen before costs up to 0.051 of PyJWT"
    )


async def test_a_contender_that_takes_any_token_spoils_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def believe(self: tokens.Site, token: str) -> dict[str, str]:
        return {"sub": "user123"}

    monkeypatch.setattr(tokens.Site, "joserfc", believe)
    with pytest.raises(RuntimeError, match="joserfc, ES256 took a token that was not signed"):
        await tokens.run(tmp_path, rounds=1, size=1, seed=1, collect=False, tell=lambda item: None)


async def test_a_request_by_bearer_that_was_not_warm_spoils_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_cached(self: object, *claims: object) -> None:
        return None

    monkeypatch.setattr(in_process.CountedSessions, "load_bearer_cached", not_cached)
    with pytest.raises(RuntimeError, match="not warm"):
        await tokens.run(tmp_path, rounds=1, size=1, seed=1, collect=False, tell=lambda item: None)


def test_a_quick_run_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "bench", "--only", "middleware", "--rounds", "20", "--json", str(file)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    found = json.loads(file.read_text())
    assert [item["item"] for item in found["items"]] == [item.name for item in (*in_process.ITEMS, *tokens.ITEMS)]
    contenders = {item["item"]: item["contenders"] for item in found["items"]}
    for item in in_process.ITEMS:
        assert {in_process.STARLETTE, in_process.SQLITE, in_process.MEMORY} <= contenders[item.name].keys()
    assert {tokens.PYJWT, tokens.PYJWT_HS256, tokens.JOSERFC, tokens.COLD, tokens.WARM} == contenders[
        tokens.ALONE.name
    ].keys()
    assert {tokens.PYJWT_REQUEST, tokens.COOKIE, tokens.BEARER} == contenders[tokens.IN_REQUEST.name].keys()
    for item in found["items"]:
        assert item["item"] in run.stdout
        for contender in item["contenders"].values():
            assert contender["microseconds_over_bare"]["median"] > 0
    assert "Python" in found["about"]["python"]


def test_the_committed_report_is_what_its_figures_make_and_the_readme_quotes_it() -> None:
    folder = ROOT / "bench" / "results"
    found = [json.loads((place / "results.json").read_text()) for place in (folder, folder / "full")]
    for place, results in zip((folder, folder / "full"), found, strict=True):
        assert (place / "REPORT.md").read_text() == page.markdown(results) + "\n"
        assert (place / "report.html").read_text() == page.html_page(results)
    results, full = found
    for store in stores.STORES:
        assert full["stores"][store]["scale"][-1]["stored"] == 10_000_000
    assert misses(results) + misses(full) == [], "a committed report misses a target"
    figures = quotes.quotes(results)
    for name in quotes.DOCUMENTS:
        text = (ROOT / name).read_text()
        assert "<!-- =" in text, name
        assert quotes.requote(text, figures) == text, f"{name} quotes what was not measured: python -m bench --quote"


def test_a_figure_is_quoted_between_its_marks_and_one_that_nobody_measured_is_an_error() -> None:
    text = "a <!-- =read.ours -->4.2 µs<!-- / --> b <!-- =read.share -->?<!-- / --> <!-- plain -->"
    quoted = quotes.requote(text, {"read.ours": "3.9 µs", "read.share": "0.31"})
    assert quoted == "a <!-- =read.ours -->3.9 µs<!-- / --> b <!-- =read.share -->0.31<!-- / --> <!-- plain -->"
    with pytest.raises(KeyError, match=r"read\.other"):
        quotes.requote("<!-- =read.other -->1<!-- / -->", {"read.ours": "3.9 µs"})


async def test_each_contender_has_as_many_requests_as_take_the_same_time() -> None:
    runs = {"quick": 0.0, "slow": 0.004}

    def block(name: str) -> rounds.Block:
        async def run(size: int) -> None:
            await asyncio.sleep(size * runs[name])

        return run

    found = await rounds.sizes({name: block(name) for name in runs}, seconds=0.012, most=50)
    assert found["quick"] == 50
    assert 1 <= found["slow"] <= 3
    samples = await rounds.measure({name: block(name) for name in runs}, rounds=10, size=found, seed=1)
    assert {name: len(values) for name, values in samples.items()} == {"quick": 10, "slow": 10}
    assert min(samples["slow"]) > 3900 > max(samples["quick"])


def test_a_share_over_its_target_is_a_miss_and_one_below_is_none() -> None:
    bares = {"bare": None, "Coatcheck, SQLite": "bare", "Coatcheck, Redis": "bare", "starsessions, Redis": "bare"}
    samples = {"bare": [1.0] * 40, "Coatcheck, SQLite": [3.0] * 40, "Coatcheck, Redis": [3.0] * 40}

    def missed(theirs: float) -> list[str]:
        read = {**samples, "starsessions, Redis": [theirs] * 40}
        found = {"bares": bares, "samples": {comparison.READ: read}}
        judged = comparison.summarise(
            found, targets=((comparison.READ, "Coatcheck, Redis", "starsessions, Redis", 1 / 30),)
        )
        return comparison.misses(judged)

    assert missed(1 + 61.0) == []
    assert len(missed(1 + 59.0)) == 1
