"""The parts of the repository's own tools that are easy to get subtly wrong."""

from collections import Counter
from pathlib import Path

import pytest

from scripts.check import MACHINE_PATH
from scripts.test_tiers import TIERS, line_of

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("text", ["|work|main|x", "see |root|.cache", "`|tmp|abc|jar`", "=|Users|ann|src"])
def test_a_path_of_somebodys_machine_is_found(text: str) -> None:
    # Written with bars: this file is searched for such paths too.
    assert MACHINE_PATH.search(text.replace("|", "/"))


@pytest.mark.parametrize(
    "text", ["https://example.com/work/list", "$HOME/work/", "src/root/x", "./work/x", "/workers/1", "/tmp is full"]
)
def test_other_paths_are_left_alone(text: str) -> None:
    assert not MACHINE_PATH.search(text)


def test_the_last_line_tells_skips_only_when_there_are_any() -> None:
    assert line_of(Counter(passed=3)) == "3 passed, 0 failed"
    assert line_of(Counter(passed=3, failed=1, skipped=2)) == "3 passed, 1 failed, 2 skipped"


def test_every_folder_of_tests_is_a_tier_that_is_run() -> None:
    folders = {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").rglob("test_*.py")}
    assert folders <= set(TIERS)
