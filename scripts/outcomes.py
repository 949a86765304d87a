"""A pytest plugin that writes what became of each test to a JSON file.

It leaves all judgement to those who read the file: test_tiers.py counts, check_promises.py looks for skips.
"""

import json
from pathlib import Path

import pytest

# The worst that happened to a test in any of its phases is what became of it.
_ORDER = ["passed", "xfailed", "skipped", "failed"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", metavar="FILE", help="write what became of each test to FILE, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--outcomes")
    # Under xdist the workers hand their reports to the process that started them, and only that one writes.
    if file and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Outcomes(Path(file)))


class _Outcomes:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._outcomes: dict[str, str] = {}

    def _note(self, name: str, outcome: str) -> None:
        known = self._outcomes.get(name, "passed")
        self._outcomes[name] = max(known, outcome, key=_ORDER.index)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        expected = report.skipped and hasattr(report, "wasxfail")
        self._note(report.nodeid, "xfailed" if expected else report.outcome)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            self._note(report.nodeid, report.outcome)

    def pytest_sessionfinish(self) -> None:
        self._file.write_text(json.dumps(self._outcomes, indent=1, sort_keys=True) + "\n")
