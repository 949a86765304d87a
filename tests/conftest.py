"""Lets every test be a plain `async def`: each runs to its end on an event loop of its own, within its module's TIMEOUT."""

import asyncio
import inspect
from typing import Any

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names: tuple[str, ...] = pyfuncitem._fixtureinfo.argnames
    arguments: dict[str, Any] = {name: pyfuncitem.funcargs[name] for name in names}
    seconds = getattr(pyfuncitem.module, "TIMEOUT", 60)
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), timeout=seconds))
    return True
