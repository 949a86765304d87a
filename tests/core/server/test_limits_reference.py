"""The reference of limits says what the defaults are, and forgets none."""

import re
import tomllib
from pathlib import Path

from coatcheck.server.settings import Limits

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "limits.md").read_text()


def test_the_file_in_the_reference_holds_every_default() -> None:
    block = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    assert tomllib.loads(block[1])["limits"] == Limits().model_dump()


def test_what_happens_beyond_each_limit_is_said() -> None:
    table = PAGE.split("| beyond |")[1].split("\n\n")[0]
    unsaid = {name for name in Limits.model_fields if f"`{name}`" not in table}
    assert unsaid == {"buffer_kb", "drain_timeout"}  # nobody is refused for these
