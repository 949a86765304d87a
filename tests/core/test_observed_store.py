"""What is asked of the store is counted and timed, and made spans of where somebody collects them."""

import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from coatcheck import Sessions, StoreUnavailable
from coatcheck.stores.memory import MemoryStore
from coatcheck.testing import GatedStore


async def test_steps_are_counted_and_timed_and_only_a_store_that_is_away_is_a_failure() -> None:
    store = GatedStore(MemoryStore())
    async with Sessions(store) as sessions:
        assert sessions.store.inner is store
        session = await sessions.load(None)
        await session.log_in("user")
        token = session.cookie_change
        assert token is not None
        sessions.cache.clear()
        assert (await sessions.load((token.token or "").encode())).user_id == "user"
        assert not await sessions.end("A" * 22), "an answer, though a negative one"
        store.down = True
        sessions.cache.clear()
        with pytest.raises(StoreUnavailable):
            await sessions.load((token.token or "").encode())
        store.down = False
        observed = sessions.store
        assert {step: count for step, count in observed.calls.items() if count} == {
            "create": 1, "epoch": 1, "list_user": 1, "read": 2, "end": 1,
        }  # fmt: skip
        assert {step for step, count in observed.failures.items() if count} == {"read"}
        assert observed.seconds["create"] > 0


async def test_each_step_is_a_span_that_names_no_session() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    before = trace._TRACER_PROVIDER
    trace._TRACER_PROVIDER = provider
    try:
        sessions = Sessions("memory://")
    finally:
        trace._TRACER_PROVIDER = before
    async with sessions:
        session = await sessions.load(None)
        await session.log_in("ada-s-id")
    spans = {span.name: dict(span.attributes or {}) for span in exporter.get_finished_spans()}
    assert spans["coatcheck.store.create"] == {"db.system.name": "memory", "db.operation.name": "create"}
    said = repr([span.to_json() for span in exporter.get_finished_spans()])
    assert session.id is not None
    assert session.id not in said
    assert "ada-s-id" not in said


def test_without_opentelemetry_everything_works_and_nothing_is_imported() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import asyncio\n"
        "from coatcheck import Sessions\n"
        "async def main():\n"
        "    async with Sessions('memory://') as sessions:\n"
        "        await (await sessions.load(None)).log_in('user')\n"
        "        print(sessions.store.calls['create'], sessions.store._tracer)\n"
        "asyncio.run(main())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "1 None\n"
