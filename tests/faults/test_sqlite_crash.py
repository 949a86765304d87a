"""Killing processes of ours at any moment: what was acknowledged holds, and whoever lives on hears of it."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coatcheck.record import SessionRecord
from coatcheck.stores.contract import Change
from coatcheck.stores.sqlite import SQLiteStore
from tests.stores.sqlite_peer import by_hand

_WRITER = """
import asyncio, os, sys
from coatcheck.record import Changes
from coatcheck.stores import _sqlite_writer
from coatcheck.stores.sqlite import SQLiteStore
from tests.stores.sqlite_peer import record

_sqlite_writer._CHECKPOINT_PAGES = int(sys.argv[3])  # so that some are killed while they checkpoint

def say(*words):
    os.write(1, (" ".join(words) + "\\n").encode())

async def live(store, name):
    number = 0
    while True:
        number += 1
        session_id = f"{name}-{number}"
        await store.create(record(session_id, values={"big": bytes(500)}))
        say("created", session_id)
        for key in "xyz"[: number % 4]:
            await store.apply(session_id, Changes(set={key: b"1"}))
            say("applied", session_id, key)
        if number % 3 == 0:
            say("ending", session_id)
            assert await store.end([session_id], reason="x", now=1.0) == [session_id]
            say("ended", session_id)

async def main():
    store = SQLiteStore(sys.argv[1])
    await store.start()
    await asyncio.gather(*(live(store, f"{sys.argv[2]}-{number}") for number in range(12)))

asyncio.run(main())
"""


@pytest.mark.parametrize("checkpoint_pages", [20, 2000])
async def test_what_was_acknowledged_survives_kill_9_at_any_moment(tmp_path: Path, checkpoint_pages: int) -> None:
    path = tmp_path / "s.db"
    store = SQLiteStore(path)
    await store.start()
    stream = store.changes()
    heard: set[str] = set()

    def hear(change: Change) -> None:
        assert change.kind != "missed"
        if change.kind == "ended":
            heard.add(change.id)

    chance = random.Random(checkpoint_pages)
    values: dict[str, set[str]] = {}
    ending: set[str] = set()
    ended: set[str] = set()
    for run in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path), f"run{run}", str(checkpoint_pages)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        said = process.stdout.readline()  # it is at work: from now on any moment will do
        await asyncio.to_thread(time.sleep, chance.uniform(0, 0.25))
        os.kill(process.pid, signal.SIGKILL)
        said += process.stdout.read()
        process.stdout.close()
        process.wait()
        for line in said.decode().splitlines():
            word, session_id, *rest = line.split()
            if word == "created":
                values[session_id] = {"big"}
            elif word == "applied":
                values[session_id].update(rest)
            else:
                {"ending": ending, "ended": ended}[word].add(session_id)
        if run == 3:  # the last process to have it open dies, and the next one finds the log it left
            await store.close()
            await store.start()
            stream.poll(lambda change: None)
            # Whoever was away learns from the store what is gone, what had ended without being acknowledged too.
            heard.update(set(values) - set(await store.alive(values)))
        deadline = time.monotonic() + 0.05
        while time.monotonic() < deadline:
            await stream.wait()
            stream.poll(hear)
        here = set(await store.alive(values))
        assert not here & ended
        assert set(values) - ending <= here
        assert heard >= set(values) - here, "a session is gone and a process that lives on was not told"
    for session_id in here:
        stored = await store.read(session_id)
        assert isinstance(stored, SessionRecord)
        assert set(stored.values) >= values[session_id]
    assert by_hand(path, "PRAGMA integrity_check")[1] == [("ok",)]
    assert len(ended) > 50
    await store.close()
