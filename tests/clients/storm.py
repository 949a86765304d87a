"""Steady load on a running server, what is done to it meanwhile, and the history that comes of it.

Each actor is one person: logs in over one HTTP version, reads and writes over all three at once, logs out, tries again
with what should be worthless now, and begins anew. Leaves judging to `history`, connections to `lanes`.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.clients.history import BOUND, Fault, Kind, Operation, Outcome, Verdict, check, failures
from tests.clients.lanes import VERSIONS, Answer, FailedError, Lane, NotSentError, lane
from tests.clients.serving import RunningServer, spawn_server, start_server

APP = "tests.clients.load_app:create_app"
OPTIONS = ("--workers", "2")
FAULTS = ("kill_worker", "kill_edge", "stop_worker", "reload", "restart")
PASSWORD = "a password nobody else has"
COOKIE = "__Host-session="
_LIVES = (0.5, 2.0)
"""Seconds from an actor's login to logout."""
_THINKING = (0.0, 0.12)
_SLOW = 0.1
"""The part of requests that take a while in the worker."""


class Actor:
    """One person with a connection for each HTTP version. `seed` decides what is done, not when."""

    def __init__(self, server: RunningServer, name: str, history: list[Operation], seed: int) -> None:
        self.name = name
        self.history = history
        self.user = ""
        self.token = ""
        self.session = ""
        self._random = random.Random(seed)
        self._lanes = {version: lane(version, server.https_port, server.ca) for version in VERSIONS}
        self._stop = asyncio.Event()

    async def register(self) -> None:
        body = json.dumps({"username": self.name, "password": PASSWORD, "name": self.name}).encode()
        answer = await self._lanes["1.1"].request("POST", "/v1/users", [JSON], body)
        assert answer.status == 201, answer.body
        self.user = json.loads(answer.body)["id"]

    async def run(self) -> None:
        """Live one life after the other until told to stop; what is under way then still ends."""
        while not self._stop.is_set():
            if not await self._log_in():
                await asyncio.sleep(0.05)
                continue
            end = time.monotonic() + self._random.uniform(*_LIVES)
            await asyncio.gather(*(self._use(version, end) for version in VERSIONS))
            if self._stop.is_set():
                return  # with a session that must be there whatever comes
            # While the others go on, for what overlaps is where things go wrong.
            await asyncio.gather(
                *(self._use(version, time.monotonic() + 0.1) for version in VERSIONS[1:]),
                self._ask("logout", self._lanes["1.1"], "POST", "/v1/logout"),
            )
            for version in VERSIONS:
                await self._ask("read", self._lanes[version], "GET", "/test/number")

    def stop(self) -> None:
        self._stop.set()

    async def last_look(self) -> None:
        """Whether what was written is still there, over every version."""
        if self.token:
            for each in self._lanes.values():
                await self._ask("read", each, "GET", "/test/number")

    async def close(self) -> None:
        for each in self._lanes.values():
            await each.close()

    async def _log_in(self) -> bool:
        self.token = self.session = ""
        version = self._random.choice(VERSIONS)
        body = json.dumps({"username": self.name, "password": PASSWORD}).encode()
        await self._ask("login", self._lanes[version], "POST", "/v1/login", [JSON], body)
        return bool(self.token)

    async def _use(self, version: str, end: float) -> None:
        while time.monotonic() < end and not self._stop.is_set():
            target = "/test/number"
            if self._random.random() < _SLOW:
                target += f"?seconds={self._random.uniform(0.1, 0.6):.2f}"
            if self._random.random() < 0.5:
                await self._ask("write", self._lanes[version], "POST", target)
            else:
                await self._ask("read", self._lanes[version], "GET", target)
            await asyncio.sleep(self._random.uniform(*_THINKING))

    async def _ask(
        self,
        kind: Kind,
        on: Lane,
        method: str,
        path: str,
        headers: list[tuple[str, str]] | None = None,
        body: bytes = b"",
    ) -> None:
        sent = [("cookie", COOKIE + self.token)] if self.token else []
        session = self.session
        began = time.monotonic()
        seen_session = seen_user = value = None
        note = f"HTTP/{VERSIONS[[type(each) for each in self._lanes.values()].index(type(on))]}"
        outcome: Outcome
        try:
            answer = await on.request(method, path, [*(headers or []), *sent], body)
        except NotSentError as error:
            outcome, note = "unsent", f"{note}, {error}"
            await asyncio.sleep(0.05)  # it may not be there yet
        except FailedError as error:
            outcome, note = "failed", f"{note}, {error}"
        else:
            outcome = "refused" if answer.status == 401 else "ok" if answer.status in (200, 204) else "failed"
            if outcome == "failed":
                note = f"{note}, {answer.status} {answer.body[:200]!r}"
            elif outcome == "ok" and kind == "login":
                told = json.loads(answer.body)
                session, seen_user = told["session"]["id"], told["user"]["id"]
                self.session, self.token = session, _token(answer)
            elif outcome == "ok" and kind != "logout":
                told = json.loads(answer.body)
                seen_session, seen_user, value = told["session"], told["user"], told["number"]
        self.history.append(
            Operation(
                client=self.name,
                kind=kind,
                began=began,
                ended=time.monotonic(),
                outcome=outcome,
                session=session,
                user=self.user,
                seen_session=seen_session,
                seen_user=seen_user,
                value=value,
                note=note,
                connected=on.opened,
            )
        )


JSON = ("content-type", "application/json")


def _token(answer: Answer) -> str:
    return next(
        value.removeprefix(COOKIE).partition(";")[0]
        for name, value in answer.headers
        if name == "set-cookie" and value.startswith(COOKIE)
    )


class Storm:
    """Load on one server, and faults; made by `storm`."""

    def __init__(self, server: RunningServer, actors: int, seed: int) -> None:
        self.server = server
        self.history: list[Operation] = []
        self.faults: list[Fault] = []
        self.actors = [Actor(server, f"actor{number}", self.history, seed + number) for number in range(actors)]

    async def kill_worker(self) -> None:
        """kill -9 on one worker, until there are two again."""
        await self._kill("kill -9 of a worker", random.choice(self.server.workers()))

    async def kill_edge(self) -> None:
        """kill -9 on Envoy, until there is another."""
        await self._kill("kill -9 of the edge", self.server.edge(), connections=True)

    async def stop_worker(self) -> None:
        """SIGSTOP on one worker, until it was found and replaced."""
        pid = random.choice(self.server.workers())
        began = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        await _until(lambda: not _alive(pid), 30)
        self.faults.append(Fault("SIGSTOP of a worker", began, time.monotonic() + _TEARDOWN))
        await self._whole()

    async def reload(self) -> None:
        """SIGHUP, until every worker was replaced."""
        before = self.server.workers()
        count = self.server.said().count(_REPLACED)
        began = time.monotonic()
        self.faults.append(Fault("reload", began, began, excuses=False))
        self.server.process.send_signal(signal.SIGHUP)
        await _until(lambda: self.server.said().count(_REPLACED) > count, 60, 0.1)
        assert not set(before) & set(self.server.workers())

    async def restart(self) -> None:
        """SIGTERM, until the server has ended; then another on the same ports and data."""
        began = time.monotonic()
        self.faults.append(Fault("SIGTERM", began, began, excuses=False))
        self.server.process.send_signal(signal.SIGTERM)
        await _until(lambda: self.server.process.poll() is not None, 40)
        assert self.server.process.returncode == 0, self.server.said()
        old = self.server
        self.server = spawn_server(old.output.parent, old.http_port, old.https_port, *OPTIONS, app=APP)
        await _until(lambda: "Ctrl-C" in self.server.said(), 40, 0.1)

    async def _kill(self, name: str, pid: int, *, connections: bool = False) -> None:
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        # The process is not gone when this call comes back, and until then its sockets take requests.
        await _until(lambda: not _alive(pid), 5)
        self.faults.append(Fault(name, began, time.monotonic() + _TEARDOWN, connections=connections))
        await self._whole()

    async def _whole(self) -> None:
        """Until both workers answer through the edge."""
        asking = lane("1.1", self.server.https_port, self.server.ca)
        seen: set[int] = set()
        async with asyncio.timeout(40):
            while len(seen) < 2:
                with contextlib.suppress(NotSentError, FailedError):
                    answer = await asking.request("GET", "/v1/connection", [], b"")
                    if answer.status == 200:
                        seen.add(json.loads(answer.body)["worker"])
                await asyncio.sleep(0.02)
        await asking.close()

    def verdict(self) -> Verdict:
        return check(self.history)

    def report(self) -> str:
        """Figures by fault, for people."""
        return "\n".join([*(f"  {each}" for each in failures(self.history, self.faults)), f"  {self.verdict()}"])

    def summary(self) -> str:
        """Figures by kind of fault, for long runs."""
        found: dict[str, tuple[int, int, int, int]] = {}
        for each in failures(self.history, self.faults):
            name = each.fault.name if each.fault is not None else "before any fault"
            times, requests, failed, unexcused = found.get(name, (0, 0, 0, 0))
            found[name] = (
                times + 1,
                requests + each.requests,
                failed + len(each.failed),
                unexcused + len(each.unexcused),
            )
        lines = [
            f"  {name} ({times} times): {failed} of {requests} requests failed, {unexcused} without excuse"
            for name, (times, requests, failed, unexcused) in found.items()
        ]
        return "\n".join([*lines, f"  {self.verdict()}"])

    def wrong(self) -> list[str]:
        """Everything that must not be: broken promises, and failures without an excuse."""
        found = self.verdict().wrong
        for each in failures(self.history, self.faults):
            found += [f"{each.fault.name if each.fault else 'no fault'}: {one}" for one in each.unexcused]
        return found


_TEARDOWN = 0.05
"""Seconds from a process's end to the moment when the edge must have heard of it, on a busy machine."""
_REPLACED = "every worker was replaced"


@asynccontextmanager
async def storm(directory: Path, *, actors: int = 4, seed: int = 0) -> AsyncIterator[Storm]:
    """A server in that directory, under load from the block's beginning to its end; then everybody looks once more."""
    found = Storm(await asyncio.to_thread(start_server, directory, *OPTIONS, app=APP), actors, seed)
    running: list[asyncio.Task[None]] = []
    try:
        for actor in found.actors:
            await actor.register()
        running += [asyncio.create_task(actor.run()) for actor in found.actors]
        yield found
        for actor in found.actors:
            actor.stop()
        await asyncio.gather(*running)
        # Longer than anything may be unknown somewhere.
        await asyncio.sleep(BOUND)
        for actor in found.actors:
            await actor.last_look()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for actor in found.actors:
            await actor.close()
        status = await asyncio.to_thread(found.server.stop)
    assert status == 0, found.server.said()


async def suffer(found: Storm, faults: Sequence[str], seconds: float) -> None:
    """Each of the faults, and so many seconds of calm after it."""
    for fault in faults:
        await getattr(found, fault)()
        await calm(seconds)


async def calm(seconds: float) -> None:
    """Load, and nothing else."""
    await asyncio.sleep(seconds)


async def _until(true: Callable[[], bool], within: float, each: float = 0.005) -> None:
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        await asyncio.sleep(each)


def _alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
