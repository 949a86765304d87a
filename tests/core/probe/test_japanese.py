"""The Japanese pages say what the English ones say: the same commands, figures and links, under as many headings."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LINK = re.compile(r"\]\((https?://[^)\s]+)\)")
CODE = re.compile(r"^```(console|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
FIGURE = re.compile(r"\d+(?:\.\d+)? (?:ms|µs)|\d+ → \d+")


@pytest.mark.parametrize("name", ["docs/http-connections"])
def test_a_translation_has_the_same_headings_figures_and_sources(name: str) -> None:
    english, japanese = ((ROOT / f"{name}{end}.md").read_text() for end in ("", ".ja"))
    assert japanese.count("\n#") == english.count("\n#")
    assert sorted(LINK.findall(japanese)) == sorted(LINK.findall(english))
    rows = [[line for line in text.splitlines() if line.startswith("| HTTP/")] for text in (english, japanese)]
    assert [FIGURE.findall(line) for line in rows[1]] == [FIGURE.findall(line) for line in rows[0]]
    assert CODE.findall(japanese) == CODE.findall(english)


def test_the_japanese_readme_runs_the_same_commands_as_the_english_one() -> None:
    english = CODE.findall((ROOT / "README.md").read_text())
    japanese = CODE.findall((ROOT / "README.ja.md").read_text())
    assert [block for block in english if block not in japanese] == []


@pytest.mark.parametrize(
    "page", ["README.ja.md", "docs/http-connections.md", "docs/http-connections.ja.md", "docs/reference/probe.md"]
)
def test_links_within_the_repository_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!https?:)([^)\s#]+)", text):
        assert ((ROOT / page).parent / target).exists(), target
