"""Nodes on each store under load, and everything that can be done to it, in random order; a store stopped for ten seconds."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.history.checker import Verdict
from tests.history.stage import STORES, faults_of, under_load

FORGETFUL = {
    "redis-snapshots": "appendonly no: Redis goes back to its last snapshot",
    "redis-nothing": "appendonly no: Redis goes back to its last snapshot",
}
MAY_FORGET = {
    "cluster": {"wait_replicas=0: replication is asynchronous"},
    "cluster-waits": {"changes do not wait for replicas"},
    "postgres-async": {"synchronous_commit off: a crash takes the last 0.6 s"},
    "postgres-unlogged": {"unlogged tables are empty after a crash"},
    **{store: {setting} for store, setting in FORGETFUL.items()},
}
"""All others keep whatever they have acknowledged."""


def suffered(
    store: str,
    faults: list[str] | None,
    directory: Path,
    template: Path,
    capsys: pytest.CaptureFixture[str],
    away: float = 1.5,
) -> Verdict:
    seed = random.SystemRandom().randrange(2**32)

    async def run() -> Verdict:
        served = STORES[store](template)
        named = list(faults_of(served)) if faults is None else faults
        async with asyncio.timeout(250), under_load(served, directory, seed=seed, away=away) as stage:
            await asyncio.sleep(1)
            for fault in random.Random(seed).sample(named, len(named)):
                await stage.suffer(fault)
                await asyncio.sleep(1)
        with capsys.disabled():
            print(f"\nseed {seed}\n{stage.report()}")
        return stage.verdict()

    return asyncio.run(run())


@pytest.mark.parametrize("store", STORES)
def test_whatever_is_done_to_a_store_its_nodes_keep_their_promises(
    store: str, tmp_path: Path, postgres_template: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = suffered(store, None, tmp_path, postgres_template, capsys)
    assert verdict.wrong == []
    assert set(verdict.lost) <= MAY_FORGET.get(store, set())
    if store in ("redis", *FORGETFUL):
        assert (verdict.counts["witness forgotten"] > 0) == (store in FORGETFUL), (
            "what may forget does, and that was seen"
        )
    assert verdict.counts["write ok"] > 100
    assert verdict.counts["logout ok"] + verdict.counts["end ok"] > 10
    assert len(verdict.ends) > 10


@pytest.mark.parametrize("store", ["redis", "postgres"])
def test_a_store_that_is_stopped_for_ten_seconds_costs_time_and_nothing_else(
    store: str, tmp_path: Path, postgres_template: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = suffered(store, ["freeze"], tmp_path, postgres_template, capsys, away=10.0)
    assert verdict.wrong == []
    assert verdict.lost == {}
    assert sum(count for name, count in verdict.counts.items() if name.endswith(" failed")) > 5


@pytest.mark.parametrize("store", ["redis", "postgres", "sqlite"])
def test_nodes_of_three_releases_on_one_store_keep_their_promises_to_one_another(
    store: str, tmp_path: Path, postgres_template: Path
) -> None:
    """The first one's format, what a next one may write, and this one's; a session goes from one to the other."""

    async def run() -> Verdict:
        served = STORES[store](postgres_template)
        async with asyncio.timeout(60), under_load(served, tmp_path, releases=["first", "coming"]) as stage:
            assert [node.release for node in stage.nodes] == ["first", "coming", ""]
            await asyncio.sleep(4)
        return stage.verdict()

    verdict = asyncio.run(run())
    assert verdict.wrong == []
    assert verdict.counts["write ok"] > 100
    assert len(verdict.ends) > 10


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("deaf", "s after its end was answered"),
        ("undoing", "was acknowledged by"),
        ("deathless", "accepted by the node that had ended it"),
    ],
)
def test_a_node_that_breaks_a_promise_is_found_out(wrong: str, words: str, tmp_path: Path) -> None:
    """That nothing is wrong with the others means something only if this is seen."""

    async def run() -> Verdict:
        async with asyncio.timeout(60), under_load(STORES["sqlite"](tmp_path), tmp_path, releases=[wrong]) as stage:
            await asyncio.sleep(8)  # what ended more than a second ago is tried again by the last look
        return stage.verdict()

    found = asyncio.run(run()).wrong
    assert any(words in each for each in found), found[:5]
