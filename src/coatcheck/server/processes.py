"""Child processes that are started, watched, restarted with back-off, and never left behind.

A Child knows how to start one kind of process; what it is for, and when it must stop, is the supervisor's business.
"""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence

from coatcheck.server.errors import StartError
from coatcheck.server.lifeline import READY, die_with_parent

__all__ = ["Child"]

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 10.0
_STABLE_AFTER = 30.0
"""A process that lived this many seconds is restarted at once when it dies; sooner deaths double the pause."""


class Child:
    """One process that should be running. `argv` is asked anew at each start, so it may name new files.

    `patience` is how many seconds it has to come up, at each start; then it is killed. `probe`, if given, returns once the
    process serves; without it the process says so over its lifeline, whose descriptor is appended to `argv`.
    """

    def __init__(
        self,
        name: str,
        argv: Callable[[], Sequence[str]],
        *,
        patience: float,
        probe: Callable[[], Awaitable[None]] | None = None,
        pass_fds: Sequence[int] = (),
        log: Callable[[str], None],
        quiet_stderr: Callable[[str], str | None] | None = None,
    ) -> None:
        self.name = name
        self.process: asyncio.subprocess.Process | None = None
        self.ready: asyncio.Event = asyncio.Event()
        self.ending: bool = False
        """Whether it was told to end, or is to end, and so will not be started again."""
        self.restarts: int = 0
        self._argv = argv
        self._patience = patience
        self._probe = probe
        self._pass_fds = tuple(pass_fds)
        self._log = log
        self._quiet_stderr = quiet_stderr
        self._replacing = False
        self._hurry = asyncio.Event()
        """Set to end the pause before a restart."""
        self._came: asyncio.Future[bool] | None = None
        """Whether the process that is started next, or was started last, came up."""
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start, and come back when it serves. Raises StartError if it does not come to that."""
        self.ending = False
        self._came = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.name}")
        await self._coming()

    async def replace(self, within: float) -> None:
        """End the running process politely, killing it `within` seconds later; then start a new one.

        Raises StartError if that does not come up; it goes on being started again all the same.
        """
        assert self._keeper is not None
        self._came = asyncio.get_running_loop().create_future()
        self._replacing = True
        self.ready.clear()
        old = self.process
        self._hurry.set()
        self.send(signal.SIGTERM)
        if old is not None:
            try:
                async with asyncio.timeout(within):
                    await old.wait()
            except TimeoutError:
                self._log(f"{self.name} did not end within {within:g} s and is killed")
                self.send(signal.SIGKILL)
        await self._coming()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if there is a process to send it to."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def stop(self, number: signal.Signals, within: float) -> None:
        """Let it end politely, kill it `within` seconds later, and return when it is gone."""
        self.ending = True
        self._hurry.set()
        self.send(number)
        if self._keeper is None:
            return
        done, _ = await asyncio.wait({self._keeper}, timeout=within)
        if not done:
            self._log(f"{self.name} did not end within {within:g} s and was killed")
            self.send(signal.SIGKILL)
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
            if self.process is not None:
                await self.process.wait()

    async def _coming(self) -> None:
        assert self._came is not None and self._keeper is not None
        await asyncio.wait({self._came, self._keeper}, return_when=asyncio.FIRST_COMPLETED)
        if not (self._came.done() and self._came.result()):
            raise StartError(f"{self.name} did not come up; what it said stands above")

    # -- keeping it alive ----------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Start it, and again whenever it ends, unless it was told to, or never came up at all."""
        loop = asyncio.get_running_loop()
        pause, ever = _FIRST_PAUSE, False
        while True:
            born = loop.time()
            came_up, how = await self._live()
            ever = ever or came_up
            if self.ending or not ever:
                return
            if self._replacing:
                pause = _FIRST_PAUSE
                continue
            pause = _FIRST_PAUSE if loop.time() - born > _STABLE_AFTER else pause
            self._log(f"{self.name} {how}; starting it again in {pause:g} s")
            self._hurry.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            self.restarts += 1
            if self.ending:
                return

    async def _live(self) -> tuple[bool, str]:
        """One life, from start to end: whether it came up, and how it ended."""
        exited: asyncio.Task[int] | None = None
        how = ""
        try:
            exited = await self._spawn()
        except OSError as error:  # no memory, no processes, no disk to write its files on
            how = f"could not be started ({error.strerror or error})"
        # If its replacement was asked for meanwhile, this is it.
        self._replacing, came = False, self._came
        if exited is None:
            self._tell(came, False)
            return False, how
        ready = asyncio.create_task(self.ready.wait())
        try:
            await asyncio.wait({ready, exited}, timeout=self._patience, return_when=asyncio.FIRST_COMPLETED)
            up = ready.done()
        finally:
            ready.cancel()
        if up:
            self._tell(came, True)
        elif not exited.done() and not self._replacing:
            self._log(f"{self.name} was not ready within {self._patience:g} s and is killed")
            self.send(signal.SIGKILL)
        status = await exited
        self._tell(came, False)
        return up, _how(status)

    @staticmethod
    def _tell(came: asyncio.Future[bool] | None, up: bool) -> None:
        if came is not None and not came.done():
            came.set_result(up)

    async def _spawn(self) -> asyncio.Task[int]:
        self.ready.clear()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                argv = list(self._argv())
                fds = self._pass_fds
                if self._probe is None:
                    argv += ["--lifeline-fd", str(theirs.fileno())]
                    fds = (*fds, theirs.fileno())
                self.process = await asyncio.create_subprocess_exec(
                    *argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE if self._quiet_stderr else None,
                    pass_fds=fds,
                    # Ctrl-C in a terminal is for the supervisor; it knows the order in which to stop.
                    start_new_session=True,
                    preexec_fn=die_with_parent if sys.platform == "linux" else None,
                )
            except BaseException:
                ours.close()
                raise
        return asyncio.create_task(self._watch(self.process, ours), name=f"watch {self.name}")

    async def _watch(self, process: asyncio.subprocess.Process, lifeline: socket.socket) -> int:
        """Until the process has ended; meanwhile finds out when it is ready. The lifeline stays open as long."""
        told = asyncio.create_task(self._become_ready(lifeline))
        said = asyncio.create_task(self._relay(process))
        try:
            return await process.wait()
        finally:
            told.cancel()
            await asyncio.wait({told})
            with contextlib.suppress(Exception):
                await asyncio.wait_for(said, 1.0)
            self.ready.clear()
            lifeline.close()

    async def _become_ready(self, lifeline: socket.socket) -> None:
        if self._probe is not None:
            await self._probe()
        else:
            lifeline.setblocking(False)
            if await asyncio.get_running_loop().sock_recv(lifeline, 1) != READY:
                return
        self.ready.set()

    async def _relay(self, process: asyncio.subprocess.Process) -> None:
        if process.stderr is None or self._quiet_stderr is None:
            return
        while line := await _line(process.stderr):
            shown = self._quiet_stderr(line.decode("utf-8", "replace").rstrip("\n"))
            if shown:
                self._log(shown)


async def _line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError:  # longer than the reader's limit; what was read of it is dropped
        return b"(a line too long to show)\n"


def _how(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"
