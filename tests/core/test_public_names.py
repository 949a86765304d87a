"""What users import is exact: nothing slips in, nothing slips out, and each of it is documented."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

import coatcheck
import coatcheck.stores
import coatcheck.testing

PUBLIC = [
    "CoatcheckError",
    "CookiePolicy",
    "CookiePolicyError",
    "Key",
    "LoginRefused",
    "MissingDependency",
    "Session",
    "SessionEnded",
    "SessionEvent",
    "SessionInfo",
    "SessionMiddleware",
    "SessionRefused",
    "Sessions",
    "SessionsNotStarted",
    "StoreUnavailable",
    "Tickets",
    "TokenRefused",
    "TooManyConnections",
    "UsageError",
    "WrongEventLoop",
    "current_session",
    "session_of",
]

# The library proper: what the base install needs, each importable without any optional package.
CORE = [
    "asgi",
    "asgi.headers",
    "asgi.live",
    "asgi.middleware",
    "asgi.refusals",
    "asgi.responses",
    "asgi.websocket",
    "cache",
    "clock",
    "connections",
    "cookies",
    "credentials",
    "errors",
    "feed",
    "ids",
    "manager",
    "origin",
    "record",
    "session",
    "stores",
    "stores.contract",
    "stores.memory",
    "testing",
    "testing.clock",
    "testing.stores",
    "tickets",
    "values",
]


def test_the_public_names_are_exactly_these() -> None:
    assert PUBLIC == coatcheck.__all__


def test_the_public_names_are_sorted_and_there() -> None:
    assert coatcheck.__all__ == sorted(coatcheck.__all__)
    assert [name for name in coatcheck.__all__ if not hasattr(coatcheck, name)] == []


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(coatcheck, name))


@pytest.mark.parametrize("name", [name for name in PUBLIC if inspect.isclass(getattr(coatcheck, name))])
def test_every_public_method_of_a_public_class_is_documented(name: str) -> None:
    missing = [
        member
        for member, value in vars(getattr(coatcheck, name)).items()
        if not member.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, property))
        and not inspect.getdoc(value)
    ]
    assert missing == []


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"coatcheck.{name}")


@pytest.mark.parametrize("name", CORE)
def test_a_module_names_what_it_exports_and_says_what_it_is_for(name: str) -> None:
    module = _module(name)
    exported: list[str] = module.__all__
    assert len(set(exported)) == len(exported)
    assert [each for each in exported if not hasattr(module, each)] == []
    assert module.__doc__


def _modules() -> Iterator[str]:
    for found in pkgutil.iter_modules(coatcheck.__path__):
        yield found.name


def test_no_module_of_the_library_goes_unlisted() -> None:
    above = {"accounts", "cli", "integrations", "server", "probe", "tokens", "sealed", "__main__"}
    listed = {name.partition(".")[0] for name in CORE}
    assert {name for name in _modules() if not name.startswith("_")} - above <= listed


def test_importing_the_library_needs_msgspec_only() -> None:
    code = (
        "import sys, coatcheck, coatcheck.stores.memory\n"
        "known = set(sys.stdlib_module_names) | {'coatcheck', 'msgspec', 'typing_extensions'}\n"  # msgspec takes the last where it is there
        "print(sorted({name.partition('.')[0] for name in sys.modules} - known - before))"
    )
    start = "import sys; before = {name.partition('.')[0] for name in sys.modules}\n"
    result = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
