"""One node as a process of its own: `Sessions` on a store, asked over loopback in lines of JSON. Ends with its standard input.

    python -m tests.history.node STORE_URL MAX_STALENESS [FORMAT]

With FORMAT it reads and writes records as another release (`formats`).

Prints its port when it is ready. Everything that a request needs goes through what applications use; the clock can be set.
"""

import asyncio
import contextlib
import json
import secrets
import sys
import time
from typing import Any

from coatcheck import Session, Sessions
from coatcheck.errors import LoginRefused, SessionEnded, StoreUnavailable
from tests.history.formats import speak


class SteppedClock:
    """The real clocks, of which the one that may step was set so many seconds wrong."""

    def __init__(self) -> None:
        self.wrong = 0.0

    def time(self) -> float:
        return time.time() + self.wrong

    def monotonic(self) -> float:
        return time.monotonic()


class Node:
    def __init__(self, sessions: Sessions, clock: SteppedClock) -> None:
        self._sessions = sessions
        self._clock = clock

    async def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked, and say what came of it; whatever goes wrong in another way is said, too."""
        try:
            return await getattr(self, f"do_{asked.pop('do')}")(**asked)
        except StoreUnavailable as error:
            return {"outcome": "failed", "note": str(error), "retry_after": error.retry_after}
        except (SessionEnded, LoginRefused) as error:
            return {"outcome": "refused", "note": str(error)}
        except Exception as error:
            return {"outcome": "broken", "note": repr(error)}

    async def do_login(self, user: str) -> dict[str, Any]:
        session = await self._sessions.load(None)
        await session.log_in(user)
        change = session.cookie_change
        assert change is not None
        return {**_seen(session), "token": change.token}

    async def do_read(self, token: str) -> dict[str, Any]:
        return _seen(await self._sessions.load(token.encode()))

    async def do_look(self, token: str) -> dict[str, Any]:
        session = await self._sessions.load(token.encode())
        if session.is_authenticated:
            await session.reload()
        return _seen(session)

    async def do_write(self, token: str, key: str, number: int, size: int = 0) -> dict[str, Any]:
        session = await self._sessions.load(token.encode())
        if session.is_authenticated:
            session[key] = [session.id, number, *([secrets.token_hex(size // 2)] if size else [])]
            await session.save()
        return _seen(session)

    async def do_add(self, token: str, key: str) -> dict[str, Any]:
        session = await self._sessions.load(token.encode())
        if not session.is_authenticated:
            return _seen(session)
        number = await session.modify(key, lambda old: (old or 0) + 1)
        return {**_seen(session), "number": number}

    async def do_logout(self, token: str) -> dict[str, Any]:
        session = await self._sessions.load(token.encode())
        answer = _seen(session)
        if session.is_authenticated:
            await session.log_out()
        return answer

    async def do_end(self, session: str) -> dict[str, Any]:
        return {"outcome": "ok", "ended": await self._sessions.end(session)}

    async def do_end_user(self, user: str, keep: str) -> dict[str, Any]:
        return {"outcome": "ok", "ended": await self._sessions.end_user(user, keep=keep or None)}

    async def do_step(self, seconds: float) -> dict[str, Any]:
        """Set the wall clock so many seconds on or back."""
        self._clock.wrong += seconds
        return {"outcome": "ok"}

    async def do_figures(self) -> dict[str, Any]:
        """What a collector of metrics would read, and whether copies are believed now."""
        lease = self._sessions.cache.lease_until - time.monotonic()
        return {
            "outcome": "ok",
            "lease": lease if lease > -1e9 else -1e9,
            "failing": self._sessions.feed_failing,
            "cached": len(self._sessions.cache),
            "misses": self._sessions.cache.misses,
        }


def _seen(session: Session) -> dict[str, Any]:
    if not session.is_authenticated:
        return {"outcome": "refused"}
    seen: dict[str, int] = {}
    marks: set[str] = set()
    for key, value in session.items():
        if isinstance(value, list):
            marks.add(value[0])
            seen[key] = value[1]
        else:
            seen[key] = value
    return {"outcome": "ok", "session": session.id, "user": session.user_id, "seen": seen, "marks": sorted(marks)}


async def main(url: str, max_staleness: float) -> None:
    clock = SteppedClock()
    async with Sessions(url, max_staleness=max_staleness, clock=clock, max_per_user=None) as sessions:
        node = Node(sessions, clock)
        tasks: set[asyncio.Task[None]] = set()

        async def take(line: bytes, writer: asyncio.StreamWriter) -> None:
            asked = json.loads(line)
            number = asked.pop("ask")
            answer = await node.answer(asked)
            writer.write(json.dumps({"ask": number, **answer}).encode() + b"\n")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                task = asyncio.ensure_future(take(line, writer))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**24)
        print(server.sockets[0].getsockname()[1], flush=True)
        over = asyncio.Event()
        asyncio.get_running_loop().add_reader(sys.stdin, over.set)  # whoever started this says nothing, and ends
        await over.wait()
        server.close()


if __name__ == "__main__":
    if len(sys.argv) > 3:
        speak(sys.argv[3])
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1], float(sys.argv[2])))
