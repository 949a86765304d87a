"""The error tree: what the docstring draws is what the classes are, and each error tells whose fault it is."""

import inspect
import re

import pytest

from coatcheck import errors
from coatcheck.errors import (
    CoatcheckError,
    CookiePolicyError,
    MissingDependency,
    SessionEnded,
    SessionRefused,
    SessionsNotStarted,
    StoreUnavailable,
    UsageError,
    WrongEventLoop,
)


def _drawn() -> dict[str, str | None]:
    """Gives each class of the docstring's drawing with the class above it."""
    above: list[str] = []
    drawn: dict[str, str | None] = {}
    for line in (errors.__doc__ or "").splitlines():
        found = re.fullmatch(r"((?:│   |    )*(?:├── |└── )?)([A-Z]\w+)(?:  .*)?", line)
        if found is not None:
            depth = len(found[1]) // 4
            above[depth:] = [found[2]]
            drawn[found[2]] = above[depth - 1] if depth else None
    return drawn


def _classes() -> dict[str, type[BaseException]]:
    return {
        name: member
        for name, member in inspect.getmembers(errors, inspect.isclass)
        if issubclass(member, BaseException) and member.__module__ == errors.__name__
    }


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    drawn = _drawn()
    assert drawn["CoatcheckError"] is None
    real = {
        name: next((base.__name__ for base in kind.__bases__ if base.__name__ in _classes()), None)
        for name, kind in _classes().items()
    }
    assert drawn == real


def test_every_error_is_exported_and_says_what_it_means() -> None:
    assert sorted(_classes()) == sorted(errors.__all__)
    for name, kind in _classes().items():
        assert kind.__dict__.get("__doc__"), f"{name} has no docstring"


def test_one_except_clause_catches_everything() -> None:
    assert all(issubclass(kind, CoatcheckError) for kind in _classes().values())


@pytest.mark.parametrize(
    ("error", "standard"),
    [
        (CookiePolicyError, ValueError),
        (SessionsNotStarted, RuntimeError),
        (WrongEventLoop, RuntimeError),
        (MissingDependency, ImportError),
    ],
)
def test_code_that_expects_the_standard_error_catches_ours_too(
    error: type[Exception], standard: type[Exception]
) -> None:
    assert issubclass(error, standard)
    assert issubclass(error, UsageError)


def test_a_refusal_is_neither_a_mistake_nor_an_outage() -> None:
    assert not issubclass(SessionEnded, UsageError | StoreUnavailable)
    assert not issubclass(StoreUnavailable, UsageError | SessionRefused)


def test_an_absent_package_is_named_with_the_install_that_mends_it() -> None:
    message = str(MissingDependency("apsw", "sqlite", "the store sqlite://"))
    assert message == "the store sqlite:// needs the package apsw: pip install 'coatcheck[sqlite]'"


def test_an_outage_says_when_to_come_back() -> None:
    assert StoreUnavailable("away").retry_after == 1
    assert StoreUnavailable("away", retry_after=30).retry_after == 30
    assert str(StoreUnavailable("away", retry_after=30)) == "away"
