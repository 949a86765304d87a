"""System calls of a warm request, counted by the kernel's own account: none of ours, whatever the store."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUESTS = 500
MARKS = "coatcheck counts from here", "coatcheck counts until here"
CHILD = f"""
import asyncio, os, sys
from tests.core.asgi.test_warm_requests import site_on

async def main(url):
    async with site_on(url) as site:
        for by in ("cookie", "bearer"):
            for _ in range(50):
                site.ask(by)
            os.access({MARKS[0]!r}, 0)
            for _ in range({REQUESTS}):
                site.ask(by)
            os.access({MARKS[1]!r}, 0)

asyncio.run(main(sys.argv[1]))
"""
# asyncio.get_running_loop asks for the process id each time before Python 3.12; and where the kernel cannot tell the time
# without a call (some virtual machines), clocks are calls.
ALLOWED = {"clock_gettime": 10.0} | ({"getpid": 2.0} if sys.version_info < (3, 12) else {})


@pytest.mark.parametrize("store", ["memory://", "sqlite:///{}/sessions.sqlite3"], ids=["memory", "sqlite"])
def test_a_warm_request_makes_no_system_call_of_its_own(store: str, tmp_path: Path) -> None:
    subprocess.run([ROOT / "scripts" / "need-debian", "strace=strace"], check=True)
    trace = tmp_path / "trace.txt"
    command = ["strace", "-o", str(trace), sys.executable, "-c", CHILD, store.format(tmp_path)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    counted: list[Counter[str]] = []
    counting = False
    for line in trace.read_text().splitlines():
        if MARKS[0] in line:
            counted.append(Counter())
            counting = True
        elif MARKS[1] in line:
            counting = False
        elif counting:
            counted[-1][line.partition("(")[0]] += 1
    assert len(counted) == 2, "once by cookie and once by bearer"
    for calls in counted:
        each = {name: count / REQUESTS for name, count in calls.items() if count > REQUESTS / 50}
        assert set(each) <= set(ALLOWED), each
        assert all(count <= ALLOWED[name] for name, count in each.items()), each
