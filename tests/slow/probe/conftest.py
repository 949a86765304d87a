"""What these tests have in common: servers that hang, stall and cut connections on purpose, each on a loop of its own."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A loop may end while a connection to a server that hangs is still being closed, on both sides. The collector then
    # says so, in whichever test comes next.
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
