"""Other processes for the SQLite store's tests: one with a store of ours, and one that types SQL by hand.

By hand always means another process: two SQLite libraries on one file in one process lose POSIX locks.
"""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from types import TracebackType
from typing import Any

from coatcheck.record import SessionRecord

__all__ = ["Peer", "by_hand", "record", "run_python"]

_PEER = """
import asyncio, json, sys, textwrap, time
from coatcheck import errors
from coatcheck.record import *
from coatcheck.stores.sqlite import SQLiteStore
from tests.stores.sqlite_peer import record

async def main():
    names = dict(globals())
    for line in iter(sys.stdin.readline, ""):
        code = "async def _asked():\\n" + textwrap.indent(json.loads(line), "  ")
        exec(code, names)
        try:
            answer = {"answer": await names["_asked"]()}
        except errors.CoatcheckError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(answer), flush=True)

asyncio.run(main())
"""

_BY_HAND = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=5, isolation_level=None)
for statement in sys.argv[2:]:
    rows = connection.execute(statement).fetchall()
print(repr((time.monotonic(), rows)))
"""


class Peer:
    """A process that runs the lines it is given. `store` is a started store on the same file."""

    def __init__(self, path: Path, **options: object) -> None:
        self._path = path
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        settings = "".join(f", {name}={value!r}" for name, value in options.items())
        self.run(f"global store\nstore = SQLiteStore({str(path)!r}{settings})\nawait store.start()")

    def send(self, code: str) -> None:
        """Have lines run; `answer` waits for what came of them."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(textwrap.dedent(code)) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the other process died"
        answer = json.loads(line)
        if "error" in answer:
            raise AssertionError(f"{answer['error']}: {answer['message']}")
        return answer["answer"]

    def run(self, code: str) -> Any:
        """Have lines run, and give what they return."""
        self.send(code)
        return self.answer()

    def stop(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def run_python(code: str, *arguments: object, timeout: float = 30) -> str:
    """Run a program to its end; give what it printed. It must end well."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def by_hand(path: Path, *statements: str) -> tuple[float, list[tuple[Any, ...]]]:
    """Type statements into Python's own sqlite3, in another process; give the time of their end and the last one's rows."""
    return eval(run_python(_BY_HAND, path, *statements))


def record(session_id: str, **fields: Any) -> SessionRecord:
    """A record with an ordinary life."""
    times = {"created_at": 1000.0, "last_seen_at": 1000.0, "expires_at": 9e9}
    return SessionRecord(**({"id": session_id, "secret_hash": session_id.encode() * 2, **times} | fields))
