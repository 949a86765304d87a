"""One store, nodes on it and what can be done to both: each store with every fault that it knows, under load.

Leaves the load to `people`, judging to `checker`. A fault lasts until every node was seen to serve again, which it must
within `BACK_WITHIN` seconds and without being started anew.
"""

import asyncio
import contextlib
import random
import resource
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from coatcheck.stores.postgres import PostgresStore
from tests.clients.line import Line
from tests.clients.postgres_server import PostgresServer
from tests.clients.redis_server import RedisCluster, RedisServer
from tests.history.checker import Verdict, check
from tests.history.model import Fault, Loss, Operation, Part
from tests.history.nodes import Node, NodeGone, nodes_on
from tests.history.people import Person

__all__ = ["STALE", "STORES", "Stage", "faults_of", "under_load"]

STALE = 1.0
"""The nodes' `max_staleness` here, in seconds: half of the default, so that less time is spent with waiting."""

BACK_WITHIN = 20.0
"""Seconds after the end of a fault within which every node must serve and believe its copies again."""

_TIME_OUTS = "timeout=0.5&connect_timeout=0.5"
_ROOM = 300_000
_BIG = 60_000
_LONGEST = 17 * 2**20
"""Bytes of the longest file while PostgreSQL's disk is full: its log's files have 16 MiB, and must find room."""

FaultOf = Callable[["Stage"], Awaitable[None]]


class Stage:
    """A store with three nodes on it, the first of them at the end of a line that can be cut."""

    def __init__(self, store: "Served", nodes: list[Node], line: Line | None, seed: int, away: float) -> None:
        self.store = store
        self.nodes = nodes
        self.line = line
        self.away = away
        """For how many seconds faults keep the store away that can choose."""
        self.history: list[Operation] = []
        self.faults: list[Fault] = []
        self.losses: list[Loss] = []
        self.random = random.Random(seed)
        self.people = [Person(f"user{number}", lambda: self.nodes, self.history, seed + number) for number in range(3)]
        self.forgotten = 0
        """Sessions, begun for that alone, that a store which may forget has forgotten."""
        self.back: dict[str, float] = {}
        """Seconds from the end of each fault until all served again."""

    async def suffer(self, fault: str) -> None:
        """Have one thing happen, by its name."""
        await faults_of(self.store)[fault](self)

    async def over(
        self,
        name: str,
        began: float,
        *,
        nodes: Sequence[Node] = (),
        away: tuple[float, float] | None = None,
    ) -> None:
        """Wait until all nodes serve, and note the fault."""
        ended = time.monotonic()
        await asyncio.gather(*(self._serves(node) for node in self.nodes))
        self.back[name] = max(self.back.get(name, 0.0), time.monotonic() - ended)
        self.faults.append(
            Fault(
                name=name,
                began=began,
                over=time.monotonic() + _SETTLING,
                nodes=frozenset(node.name for node in nodes),
                away=away,
            )
        )

    async def _serves(self, node: Node) -> None:
        """Until a node takes a login, finds it in its copies, and ends it; and from then on hears of what others do.

        Its lease alone does not say so: one from before the fault may still run, while it listens for nothing yet.
        """
        async with asyncio.timeout(BACK_WITHIN):
            while not await self._answers(node):
                await asyncio.sleep(0.02)
            served = time.monotonic()
            while await self._heard_at(node) < served:
                await asyncio.sleep(0.02)

    async def _answers(self, node: Node) -> bool:
        with contextlib.suppress(NodeGone):
            made = await node.ask("login", user="inspector")
            if made["outcome"] == "ok":
                read = await node.ask("read", token=made["token"])
                ended = await node.ask("end", session=made["session"])
                return read["outcome"] == ended["outcome"] == "ok"
        return False

    async def _heard_at(self, node: Node) -> float:
        """The moment up to which a node knows to have heard everything: a process's clock here is all processes'."""
        with contextlib.suppress(NodeGone):
            return float((await node.ask("figures"))["lease"]) - STALE + time.monotonic()
        return float("-inf")

    def lose(self, setting: str, *parts: Part, since: float, at: float) -> None:
        """Note what may be gone by what has just happened."""
        self.losses.append(Loss(setting=setting, since=since, at=at, parts=frozenset(parts)))

    async def begin_witness(self) -> str:
        """Begin a session that nobody ends, and give its token."""
        made = await self.nodes[0].ask("login", user="witness")
        assert made["outcome"] == "ok", made
        return str(made["token"])

    async def ask_witness(self, token: str) -> None:
        """Note whether it is still there, when no copy from before can be believed any more."""
        await asyncio.sleep(1.5 * STALE)
        found = await self.nodes[0].ask("read", token=token)
        assert found["outcome"] in ("ok", "refused"), found
        self.forgotten += found["outcome"] == "refused"

    def verdict(self) -> Verdict:
        verdict = check(self.history, self.faults, self.losses, stale=STALE)
        if self.forgotten:
            verdict.counts["witness forgotten"] = self.forgotten
        return verdict

    def report(self) -> str:
        """What was done and what came of it, for people."""
        back = ", ".join(f"{name}: served again after {seconds:.2f} s" for name, seconds in self.back.items())
        return f"{self.store.name}: {len(self.faults)} faults. {back}\n{self.verdict()}"


_SETTLING = 0.1
"""Seconds after that in which what was lost while it went on may still be told."""


# ---- the stores


class Served:
    """A store that nodes share, of which a URL is known; with what can be done to it in `FAULTS`."""

    name = ""
    FAULTS: tuple[str, ...] = ()
    feed_marks: tuple[bytes, ...] = ()

    async def start(self, directory: Path) -> None:
        raise NotImplementedError

    def url(self, line: Line | None = None) -> str:
        raise NotImplementedError

    def port(self) -> int | None:
        return None

    async def stop(self) -> None:
        pass


class Redis(Served):
    """One server. `kept`: how it keeps what it has acknowledged."""

    feed_marks = (b"coatcheck-told", b"coatcheck-tracking")

    def __init__(self, kept: str) -> None:
        self.name = f"redis ({kept})"
        self._settings = _REDIS[kept]
        self.kept = kept

    async def start(self, directory: Path) -> None:
        self.server = await asyncio.to_thread(lambda: RedisServer(**self._settings))

    def url(self, line: Line | None = None) -> str:
        port = self.server.port if line is None else line.port
        return f"redis://127.0.0.1:{port}/0?durability=any&{_TIME_OUTS}"

    def port(self) -> int | None:
        return self.server.port

    async def stop(self) -> None:
        await asyncio.to_thread(self.server.stop)

    async def kill(self, stage: Stage) -> None:
        """kill -9, and another on the same data after a while."""
        began = saved = time.monotonic()
        if self.kept == "snapshots":
            await asyncio.to_thread(self._save)
            await asyncio.sleep(0.5)  # whatever is acknowledged in this time is in no snapshot
        witness = await stage.begin_witness()
        killed = time.monotonic()
        await asyncio.to_thread(self.server.kill, signal.SIGKILL)
        gone = time.monotonic()
        if self.kept != "appendfsync always":
            setting = "appendonly no: Redis goes back to its last snapshot"
            stage.lose(
                setting,
                "logins",
                "writes",
                "ends",
                since=saved if self.kept == "snapshots" else float("-inf"),
                at=gone,
            )
        await asyncio.sleep(stage.random.uniform(0.2, 0.5) if stage.away < 5 else STALE + 0.5)
        back = time.monotonic()
        await asyncio.to_thread(self.server.start)
        await stage.over("kill -9 of Redis", min(began, killed), away=(gone, back))
        await stage.ask_witness(witness)

    def _save(self) -> None:
        before = self.server.cli("LASTSAVE")
        self.server.cli("BGSAVE")
        end = time.monotonic() + 10
        while "rdb_bgsave_in_progress:1" in self.server.cli("INFO", "persistence") or (
            self.server.cli("LASTSAVE") == before
            and "rdb_last_bgsave_status:ok" not in self.server.cli("INFO", "persistence")
        ):
            assert time.monotonic() < end
            time.sleep(0.01)

    async def freeze(self, stage: Stage) -> None:
        """SIGSTOP for a while."""
        began = time.monotonic()
        self.server.kill(signal.SIGSTOP)
        stopped = time.monotonic()
        await asyncio.sleep(stage.away)
        back = time.monotonic()
        self.server.kill(signal.SIGCONT)
        await stage.over("SIGSTOP of Redis", began, away=(stopped, back))

    async def kill_feed(self, stage: Stage) -> None:
        """Kill one connection of each node's feed, and no other."""
        began = time.monotonic()
        name = stage.random.choice(["coatcheck-told", "coatcheck-tracking"])
        await asyncio.to_thread(kill_connections, self.server, name)
        await stage.over(f"CLIENT KILL of {name}", began)

    async def fill_disk(self, stage: Stage) -> None:
        """No room for what Redis appends: with appendfsync always it ends itself, and is started when there is room."""
        began = time.monotonic()
        used = max((file.stat().st_size for file in (self.server.directory / "appendonlydir").iterdir()), default=0)
        resource.prlimit(self.server.pid, resource.RLIMIT_FSIZE, (used + _ROOM, resource.RLIM_INFINITY))
        await _write_until_refused(stage)
        await asyncio.sleep(0.3)
        if self.server.running:
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(self.server.pid, resource.RLIMIT_FSIZE, unlimited)
        else:
            await asyncio.to_thread(self.server.start)
        await stage.over("a full disk", began)


def kill_connections(server: RedisServer, name: str) -> None:
    """CLIENT KILL of all that are called so. Between two of a node's there may be none for a moment."""
    killed = 0
    end = time.monotonic() + 5
    while not killed:
        assert time.monotonic() < end, f"no connection is called {name}"
        for line in server.cli("CLIENT", "LIST").splitlines():
            if f"name={name}" in line:
                killed += int(server.cli("CLIENT", "KILL", "ID", line.split()[0].removeprefix("id=")))


_REDIS: dict[str, dict[str, str]] = {
    "appendfsync always": {"appendonly": "yes", "appendfsync": "always"},
    "snapshots": {"dbfilename": "dump.rdb"},
    "nothing": {},
}


class Cluster(Served):
    """Three primaries with a replica each. `waits`: whether ends and logins wait for the replica."""

    def __init__(self, waits: bool) -> None:
        self.name = "redis cluster" + (" (wait_replicas=1)" if waits else "")
        self._waits = waits

    async def start(self, directory: Path) -> None:
        self.cluster = await asyncio.to_thread(
            lambda: RedisCluster(cluster_node_timeout="1000", appendonly="yes", appendfsync="always")
        )

    def url(self, line: Line | None = None) -> str:
        return f"{self.cluster.url}&{_TIME_OUTS}" + ("&wait_replicas=1" if self._waits else "")

    async def stop(self) -> None:
        await asyncio.to_thread(self.cluster.stop)

    async def kill(self, stage: Stage) -> None:
        """kill -9 of a primary: its replica takes over, and has what it had received."""
        gone = stage.random.choice(await asyncio.to_thread(self.cluster.primaries))
        before = time.monotonic()
        await asyncio.to_thread(gone.kill, signal.SIGKILL)
        self._lose(stage, before, time.monotonic())
        await stage.over("kill -9 of a primary", before)
        began = time.monotonic()
        await asyncio.to_thread(gone.start)  # it comes back as a replica
        await asyncio.to_thread(self.cluster.settle)
        await stage.over("a killed primary comes back", began)

    async def freeze(self, stage: Stage) -> None:
        """SIGSTOP of a primary until its replica has taken over; when it goes on, it takes itself for one for a moment."""
        frozen = stage.random.choice(await asyncio.to_thread(self.cluster.primaries))
        before = time.monotonic()
        frozen.kill(signal.SIGSTOP)
        async with asyncio.timeout(BACK_WITHIN):
            while not await asyncio.to_thread(self._replaced, frozen):
                await asyncio.sleep(0.05)
        await asyncio.sleep(stage.random.uniform(0.1, 1.0))
        frozen.kill(signal.SIGCONT)
        async with asyncio.timeout(BACK_WITHIN):
            while "role:master" in await asyncio.to_thread(frozen.cli, "INFO", "replication"):
                await asyncio.sleep(0.01)
        # What it took as a primary that it was not any more is gone as well.
        self._lose(stage, before, time.monotonic())
        await asyncio.to_thread(self.cluster.settle)
        await stage.over("SIGSTOP of a primary", before)

    def _replaced(self, gone: RedisServer) -> bool:
        """Whether others say that it has no slots any more."""
        other = next(node for node in self.cluster.nodes if node is not gone)
        (line,) = [line for line in other.cli("CLUSTER", "NODES").splitlines() if f":{gone.port}@" in line]
        return len(line.split()) == 8

    def _lose(self, stage: Stage, began: float, at: float) -> None:
        if self._waits:
            # What waits for a replica is an end, a login and a change of secret; other changes do not.
            stage.lose("changes do not wait for replicas", "writes", since=began - 1.0, at=at)
        else:
            setting = "wait_replicas=0: replication is asynchronous"
            stage.lose(setting, "logins", "writes", "ends", since=began - 1.0, at=at)

    async def kill_feed(self, stage: Stage) -> None:
        """Kill one connection of each node's feed to each primary, and no other."""
        began = time.monotonic()
        name = stage.random.choice(["coatcheck-told", "coatcheck-tracking"])
        for primary in await asyncio.to_thread(self.cluster.primaries):
            await asyncio.to_thread(kill_connections, primary, name)
        await stage.over(f"CLIENT KILL of {name}", began)


class Postgres(Served):
    """One server. `kept`: how it keeps what it has acknowledged."""

    feed_marks = (b"LISTEN",)

    def __init__(self, kept: str, template: Path) -> None:
        self.name = f"postgresql ({kept})"
        self.kept = kept
        self._template = template

    async def start(self, directory: Path) -> None:
        settings = (
            {"synchronous_commit": "off", "wal_writer_delay": "200ms"} if self.kept == "synchronous_commit off" else {}
        )
        self.server = await asyncio.to_thread(lambda: PostgresServer(self._template, durable=True, **settings))
        await PostgresStore(self.url()).migrate()

    def url(self, line: Line | None = None) -> str:
        port = self.server.port if line is None else line.port
        unlogged = "&unlogged=true" if self.kept == "unlogged" else ""
        return f"postgresql://postgres@127.0.0.1:{port}/postgres?{_TIME_OUTS}&probe_interval=0.2{unlogged}"

    def port(self) -> int | None:
        return self.server.port

    async def stop(self) -> None:
        await asyncio.to_thread(self.server.close)

    async def kill(self, stage: Stage) -> None:
        """kill -9 of the server and all its processes, and another on the same data after a while."""
        began = time.monotonic()
        await asyncio.to_thread(self.server.crash)
        gone = time.monotonic()
        if self.kept == "synchronous_commit off":
            setting = "synchronous_commit off: a crash takes the last 0.6 s"
            stage.lose(setting, "logins", "writes", "ends", since=began - 0.6, at=gone)
        elif self.kept == "unlogged":
            stage.lose("unlogged tables are empty after a crash", "logins", "writes", since=float("-inf"), at=gone)
        await asyncio.sleep(stage.random.uniform(0.2, 0.5) if stage.away < 5 else STALE + 0.5)
        back = time.monotonic()
        await asyncio.to_thread(self.server.start)
        await stage.over("kill -9 of PostgreSQL", began, away=(gone, back))

    async def freeze(self, stage: Stage) -> None:
        """SIGSTOP of the server and all its processes for a while."""
        began = time.monotonic()
        self.server.freeze()
        stopped = time.monotonic()
        await asyncio.sleep(stage.away)
        back = time.monotonic()
        self.server.thaw()
        await stage.over("SIGSTOP of PostgreSQL", began, away=(stopped, back))

    async def kill_feed(self, stage: Stage) -> None:
        """Have the server end the connections that listen, and no others."""
        began = time.monotonic()
        killed = await asyncio.to_thread(
            self.server.by_hand,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name = 'coatcheck' AND query LIKE 'LISTEN%'",
        )
        assert int(killed) >= 1, "nobody listens"
        await stage.over("pg_terminate_backend of those who listen", began)

    async def fill_disk(self, stage: Stage) -> None:
        """No table can become any longer, until there is room."""
        began = time.monotonic()
        await asyncio.to_thread(self.server.limit, _LONGEST)
        await _write_until_refused(stage, 700_000)
        await asyncio.to_thread(self.server.lift_limit)
        await stage.over("a full disk", began)


class SQLite(Served):
    """One file."""

    name = "sqlite"

    async def start(self, directory: Path) -> None:
        self.path = directory / "sessions.sqlite3"

    def url(self, line: Line | None = None) -> str:
        return f"sqlite:///{self.path}"

    async def fill_disk(self, stage: Stage) -> None:
        """No file can become any longer, until there is room."""
        began = time.monotonic()
        used = max(file.stat().st_size for file in self.path.parent.glob("sessions.sqlite3*"))
        for node in stage.nodes:
            resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (used + _ROOM, resource.RLIM_INFINITY))
        await _write_until_refused(stage)
        await asyncio.sleep(0.3)
        for node in stage.nodes:
            resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await stage.over("a full disk", began)

    async def take_away(self, stage: Stage) -> None:
        """Somebody moves the file, and puts it back."""
        began = time.monotonic()
        aside = self.path.with_name("aside.sqlite3")
        self.path.rename(aside)
        gone = time.monotonic()
        await asyncio.sleep(max(stage.away, STALE + 0.3))
        back = time.monotonic()
        aside.rename(self.path)
        await stage.over("the file is moved away", began, away=(gone, back))


# ---- what can be done to any of them


async def kill_node(stage: Stage) -> None:
    """kill -9 of a node, and another in its place."""
    node = stage.random.choice(stage.nodes)
    began = time.monotonic()
    killed = Node(node.name, node.url, STALE)
    await node.kill()
    await asyncio.sleep(0.1)
    name = node.name
    await node.replace()
    ended = time.monotonic()
    await stage.over("kill -9 of a node", began, nodes=[killed, node])
    assert name != node.name
    assert ended > began


async def freeze_node(stage: Stage) -> None:
    """SIGSTOP of a node: what it has not heard meanwhile it must not believe afterwards."""
    node = stage.random.choice(stage.nodes)
    began = time.monotonic()
    node.send(signal.SIGSTOP)
    await asyncio.sleep(min(stage.away, 3.0))
    node.send(signal.SIGCONT)
    await stage.over("SIGSTOP of a node", began)  # who waits for a lock that it holds is harmed, too


async def cut(stage: Stage) -> None:
    """Nothing comes through to one node any more, and nobody is told."""
    await _cut(stage, "a line cut without a word", away=True)


async def cut_feed(stage: Stage) -> None:
    """The same, but only what one node's feed needs."""
    await _cut(stage, "a feed cut without a word", *stage.store.feed_marks)


async def _cut(stage: Stage, name: str, *marks: bytes, away: bool = False) -> None:
    assert stage.line is not None
    node = stage.nodes[0]
    began = time.monotonic()
    stage.line.cut(*marks)
    gone = time.monotonic()
    await asyncio.sleep(max(min(stage.away, 4.0), STALE + 0.3))
    back = time.monotonic()
    stage.line.mend()
    await stage.over(name, began, nodes=[node], away=(gone, back) if away else None)


async def step_clock(stage: Stage) -> None:
    """A node's clock is set an hour wrong, and right again."""
    node = stage.random.choice(stage.nodes)
    for seconds in stage.random.choice([(3600.0, -3600.0), (-3600.0, 3600.0)]):
        now = time.monotonic()
        await node.ask("step", seconds=seconds)
        await asyncio.sleep(0.3)
        stage.faults.append(
            Fault(name="a clock is set", began=now, over=now, nodes=frozenset([node.name]), excuses=False)
        )


async def _write_until_refused(stage: Stage, size: int = _BIG) -> None:
    """Use up the room that is left, with a session that belongs to nobody in the history."""
    refused = False
    async with asyncio.timeout(30):
        while not refused:
            for node in stage.nodes:
                made = await node.ask("login", user="filler")
                refused = made["outcome"] == "failed"
                if made["outcome"] == "ok":
                    for number in range(4):
                        written = await node.ask("write", token=made["token"], key=f"b{number}", number=1, size=size)
                        refused = refused or written["outcome"] == "failed"
                if refused:
                    break


def faults_of(store: Served) -> dict[str, FaultOf]:
    """Everything that can be done to that store, by name."""
    own = {
        name: getattr(store, name)
        for name in ("kill", "freeze", "kill_feed", "fill_disk", "take_away")
        if hasattr(store, name)
    }
    if isinstance(store, Redis) and store.kept != "appendfsync always":
        del own["fill_disk"]
    lines: dict[str, FaultOf] = {"cut": cut, "cut_feed": cut_feed} if store.feed_marks else {}
    return {**own, **lines, "kill_node": kill_node, "freeze_node": freeze_node, "step_clock": step_clock}


STORES: dict[str, Callable[[Path], Served]] = {
    "redis": lambda template: Redis("appendfsync always"),
    "redis-snapshots": lambda template: Redis("snapshots"),
    "redis-nothing": lambda template: Redis("nothing"),
    "cluster": lambda template: Cluster(False),
    "cluster-waits": lambda template: Cluster(True),
    "postgres": lambda template: Postgres("synchronous_commit on", template),
    "postgres-async": lambda template: Postgres("synchronous_commit off", template),
    "postgres-unlogged": lambda template: Postgres("unlogged", template),
    "sqlite": lambda template: SQLite(),
}
"""Each from the template of a PostgreSQL server's data."""


@asynccontextmanager
async def under_load(
    store: Served, directory: Path, *, seed: int = 0, away: float = 1.5, releases: Sequence[str] = ()
) -> AsyncIterator[Stage]:
    """A store with three nodes and people on it from the block's beginning to its end; then they look once more.

    `releases`: whose format of records the first of the nodes have, where it is not this one's, or what they do wrong.
    """
    async with AsyncExitStack() as stack:
        await store.start(directory)
        stack.push_async_callback(store.stop)
        port = store.port()
        line = await stack.enter_async_context(Line(port)) if port is not None else None
        urls = [store.url(line), store.url(), store.url()]
        if isinstance(store, SQLite):
            await _make_file(urls[0])
        nodes = await stack.enter_async_context(nodes_on(*urls, max_staleness=STALE, releases=releases))
        stage = Stage(store, nodes, line, seed, away)
        living = [asyncio.ensure_future(person.run()) for person in stage.people]
        try:
            yield stage
            for person in stage.people:
                person.stop()
            await asyncio.gather(*living)
            await asyncio.sleep(STALE)  # longer than anything may be unknown somewhere
            for person in stage.people:
                await person.last_look()
        finally:
            for task in living:
                task.cancel()
            await asyncio.gather(*living, return_exceptions=True)


async def _make_file(url: str) -> None:
    """Three processes may make it at once; it is not what is tested here."""
    from coatcheck import Sessions

    async with Sessions(url):
        pass
