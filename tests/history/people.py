"""People who use a service from two devices each: log in, write, read, log out and try again, on random nodes.

All that they ask and are told goes into the history. Leaves judging to `checker`, processes to `nodes`.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.history.model import COUNTER, Kind, Operation, Outcome
from tests.history.nodes import Node, NodeGone

__all__ = ["Person"]

_LIVES = (0.3, 1.2)
"""Seconds from a login to the end of its session."""
_THINKING = (0.0, 0.06)
_AFTERWARDS = 0.12
"""Seconds for which an ended session is tried on every node at once, and how often."""
_EACH = 0.004
_REMEMBERED = 50


class Person:
    """One user. `seed` decides what is done, not when."""

    def __init__(self, name: str, nodes: Callable[[], Sequence[Node]], history: list[Operation], seed: int) -> None:
        self.name = name
        self.devices = [Device(self, f"{name}-{number}", seed * 10 + number) for number in range(2)]
        self.nodes = nodes
        self.history = history
        self.live: dict[str, str] = {}
        """Tokens of sessions that nobody has ended yet, by session."""
        self.over: list[tuple[str, str]] = []
        """Sessions that have ended, and their tokens."""
        self.stopping = False

    def bury(self, session: str) -> None:
        token = self.live.pop(session, None)
        if token is not None:
            self.over.append((session, token))
            del self.over[:-_REMEMBERED]

    async def run(self) -> None:
        """Live until `stop`; sessions that are there then are left."""
        await asyncio.gather(*(device.run() for device in self.devices))

    def stop(self) -> None:
        self.stopping = True

    async def last_look(self) -> None:
        """Ask every node once more for all that is left and all that has ended."""
        asker = self.devices[0]
        for node in self.nodes():
            for session, token in [*self.live.items(), *self.over]:
                await asker.ask("read", node, session, token=token)
            for session, token in self.live.items():
                await asker.ask("look", node, session, token=token)


class Device:
    """What one of a person's devices does, one session after the other."""

    def __init__(self, owner: Person, name: str, seed: int) -> None:
        self._owner = owner
        self._name = name
        self._random = random.Random(seed)

    async def run(self) -> None:
        while not self._owner.stopping:
            session = await self._log_in()
            if not session:
                await asyncio.sleep(0.05)
                continue
            token = self._owner.live[session]
            until = time.monotonic() + self._random.uniform(*_LIVES)
            lanes = [asyncio.ensure_future(self._use(session, token, f"k{lane}", until)) for lane in range(2)]
            await asyncio.wait(lanes, timeout=max(0.0, until - time.monotonic() - 0.1))
            if not self._owner.stopping and session in self._owner.live:
                await self._end(session, token)  # while the lanes go on: what overlaps is where things go wrong
            await asyncio.gather(*lanes)
            if session not in self._owner.live:
                await self._try_again(session, token)

    def _node(self) -> Node:
        return self._random.choice(self._owner.nodes())

    async def _log_in(self) -> str:
        made = await self.ask("login", self._node(), "", user=self._owner.name)
        return made.session if made.outcome == "ok" else ""

    async def _use(self, session: str, token: str, key: str, until: float) -> None:
        number = 0
        while time.monotonic() < until and not self._owner.stopping:
            what = self._random.random()
            if what < 0.4:
                number += 1
                await self.ask("write", self._node(), session, token=token, key=key, number=number)
            elif what < 0.5:
                await self.ask("add", self._node(), session, token=token, key=COUNTER)
            elif what < 0.6:
                await self.ask("look", self._node(), session, token=token)
            else:
                await self.ask("read", self._node(), session, token=token)
            await asyncio.sleep(self._random.uniform(*_THINKING))

    async def _end(self, session: str, token: str) -> None:
        """End it, by whatever way, and go on trying while that fails."""
        what = self._random.random()
        while not self._owner.stopping and session in self._owner.live:
            if what < 0.5:
                done = await self.ask("logout", self._node(), session, token=token)
            elif what < 0.8:
                done = await self.ask("end", self._node(), session)
            else:
                begun = list(self._owner.live)
                keep = self._random.choice(["", session])
                done = await self.ask("end_user", self._node(), "", user=self._owner.name, keep=keep)
                if done.outcome == "ok":
                    for each in begun:
                        if each != keep:
                            self._owner.bury(each)
                what = 0.0  # if this one was kept, it logs out
                continue
            if done.outcome != "failed":
                self._owner.bury(session)
            else:
                await asyncio.sleep(0.1)

    async def _try_again(self, session: str, token: str) -> None:
        until = time.monotonic() + _AFTERWARDS

        async def try_on(node: Node) -> None:
            while time.monotonic() < until:
                await self.ask("read", node, session, token=token)
                await asyncio.sleep(_EACH)

        await asyncio.gather(*(try_on(node) for node in self._owner.nodes()))
        if self._owner.over:
            old, old_token = self._random.choice(self._owner.over)
            await self.ask(self._random.choice(["read", "look"]), self._node(), old, token=old_token)

    async def ask(self, kind: Kind, node: Node, session: str, **what: Any) -> Operation:
        """Ask a node for something, and write down what was asked and told."""
        name = node.name
        sending = {"session": session} if kind == "end" else {}
        sent = time.monotonic()
        try:
            told = await node.ask(kind, **sending, **what)
        except NodeGone as error:
            told = {"outcome": "failed", "note": str(error)}
        received = time.monotonic()
        outcome: Outcome = told["outcome"] if told["outcome"] != "broken" else "failed"
        assert told["outcome"] != "broken", told["note"]
        if kind == "login" and outcome == "ok":
            session = told["session"]
            self._owner.live[session] = told["token"]
        done = Operation(
            client=self._name,
            node=name,
            kind=kind,
            sent=sent,
            received=received,
            outcome=outcome,
            user=self._owner.name,
            session=session,
            keep=what.get("keep", ""),
            key=what.get("key", ""),
            number=told.get("number", what.get("number", 0)),
            seen_session=told.get("session", ""),
            seen_user=told.get("user", ""),
            seen=told.get("seen", {}),
            marks=frozenset(told.get("marks", ())),
            note=told.get("note", ""),
        )
        self._owner.history.append(done)
        return done
