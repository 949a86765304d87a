"""The same small application behind real servers: ours over each HTTP version, uvicorn with each middleware, Node's Express.

All run at once, one process each, and are loaded in turn, in rounds of random order: as much as it takes, for throughput and
processor time; and a rate that all can take, for latency. Load comes from wrk and h2load (Debian's) and, for HTTP/3, an aioquic
client. The clients share the machine's cores with the servers, so only what one run says of several is worth anything.
"""

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench import comparison, machine
from bench.statistics import estimate, ratios

__all__ = ["BARE", "SUBJECTS", "Load", "Subject", "run", "summarise", "table"]

RATE = 200
"""Requests a second while latency is measured."""
CONNECTIONS = 16
EXPRESS = comparison.PEERS / "express"
BARE = "uvicorn, no sessions"
OURS = "coatcheck serve"
Tell = Callable[[str], None]

SUBJECTS: Mapping[str, tuple[str, ...]] = {
    BARE: ("uvicorn", "bare ASGI application"),
    "uvicorn, Starlette's signed cookie": ("uvicorn", "Starlette, signed cookie"),
    "uvicorn, Coatcheck on SQLite": ("uvicorn", "Coatcheck, SQLite"),
    "uvicorn, Coatcheck on Redis": ("uvicorn", "Coatcheck, Redis"),
    "uvicorn, starsessions on Redis": ("uvicorn", "starsessions, Redis"),
    "uvicorn, Litestar on Redis": ("uvicorn", "Litestar, Redis"),
    "uvicorn, Django's cached database": ("uvicorn", "Django, cached database"),
    "Express, no sessions": ("express",),
    "Express, express-session on Redis": ("express", "redis"),
    f"{OURS} without its edge, HTTP/1.1": (OURS, "--no-edge", "http"),
    f"{OURS}, HTTP/1.1": (OURS, "", "http"),
    f"{OURS}, HTTP/2": (OURS, "", "h2"),
    f"{OURS}, HTTP/3": (OURS, "", "h3"),
}
"""Each name, and what it is: a server and what it serves; ours with its options and the HTTP version that it is asked by."""


@dataclass
class Subject:
    """A server that runs, and a session on it."""

    name: str
    pid: int
    port: int
    speaks: str
    """`http` for HTTP/1.1 without TLS, `h2` or `h3`."""
    cookie: str = ""
    ca: Path | None = None

    def processor(self) -> float:
        """Seconds of processor time that its processes have had."""
        return sum(map(_processor_of, _tree(self.pid)))

    def memory(self) -> int:
        """Bytes that its processes hold, shared pages divided among those who share them."""
        return sum(map(_memory_of, _tree(self.pid)))


@dataclass
class Load:
    """What one load brought: requests, over how many seconds, and for how long each one waited where that was noted."""

    requests: int
    seconds: float
    took: list[float] = field(default_factory=list[float])


# ---- processes


def _tree(pid: int) -> list[int]:
    """A process and all that stem from it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def _processor_of(pid: int) -> float:
    try:
        parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


def _memory_of(pid: int) -> int:
    try:
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


@contextmanager
def _started(command: list[str], said: Path, **settings: Any) -> Iterator[int]:
    """Run a server of somebody else's until it is not needed any more; it says `ready` when it is."""
    with (
        said.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **settings) as process,
    ):
        try:
            until = time.monotonic() + 30
            while "ready" not in said.read_text():
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{' '.join(command)} did not start:\n{said.read_text()}")
                time.sleep(0.02)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def running(names: tuple[str, ...], tell: Tell) -> Iterator[tuple[list[Subject], int]]:
    """Start what is named, each with somebody logged in; give them, and the process id of the Redis that they share."""
    # The tests' own: real servers, in directories of their own, on free ports of loopback.
    from tests.clients.redis_server import RedisServer
    from tests.clients.serving import free_port, start_server

    kinds = {SUBJECTS[name][0] for name in names}
    tell("the peers' environments")
    python = comparison.environment() if "uvicorn" in kinds else Path()
    machine.need(machine.REDIS, "wrk=wrk", "nghttp2-client=h2load")
    if "express" in kinds:
        machine.need("nodejs=node", "npm=npm")
        install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--silent"]
        subprocess.run(install, cwd=EXPRESS, check=True)
    with ExitStack() as exits:
        place = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="coatcheck-bench-")))
        redis = exits.enter_context(RedisServer())
        address = f"redis://127.0.0.1:{redis.port}/0"
        ours: dict[str, Any] = {}
        subjects: list[Subject] = []
        for number, name in enumerate(names):
            kind, *rest = SUBJECTS[name]
            directory = place / str(number)
            directory.mkdir()
            if kind == OURS:
                option, speaks = rest
                server = ours.get(option)
                if server is None:
                    options = ([option] if option else []) + ["--workers", "1"]
                    server = ours[option] = start_server(directory, *options, app="bench.served:create_app")
                    exits.callback(server.stop)
                port = server.http_port if speaks == "http" else server.https_port
                subject = Subject(name, server.process.pid, port, speaks, ca=server.ca)
                base, trust = (server.http, True) if speaks == "http" else (server.https, server.tls())
            else:
                port = free_port()
                if kind == "uvicorn":
                    command = [str(python), "-m", "bench.peers.served", rest[0], str(port), str(directory), address]
                    settings = {"cwd": machine.ROOT}
                else:
                    command = ["node", str(EXPRESS / "app.js"), str(port), *([address] if rest else [])]
                    settings = {"env": {**os.environ, "NODE_ENV": "production"}}
                pid = exits.enter_context(_started(command, directory / "said.txt", **settings))
                subject = Subject(name, pid, port, "http")
                base, trust = f"http://localhost:{port}", True
            _log_in(subject, base, trust)
            subjects.append(subject)
        yield subjects, redis.pid


def _log_in(subject: Subject, base: str, trust: Any) -> None:
    with httpx.Client(base_url=base, verify=trust, timeout=20) as client:
        if "no sessions" not in subject.name:
            # Express sets a Secure cookie for this alone; all others do for any request.
            answer = client.get("/login", headers={"x-forwarded-proto": "https"})
            if answer.status_code != 200 or "set-cookie" not in answer.headers:
                raise RuntimeError(f"{subject.name}: a login set no cookie ({answer.status_code})")
            subject.cookie = answer.headers["set-cookie"].partition(";")[0]
            client.cookies.clear()
            if client.get("/read").status_code < 400:
                raise RuntimeError(f"{subject.name}: somebody who is not logged in is let in")
            client.cookies.clear()
        answer = client.get("/read", headers={"cookie": subject.cookie} if subject.cookie else {})
        if answer.status_code != 200:
            raise RuntimeError(f"{subject.name}: the session is worth nothing, {answer.status_code}")


# ---- load


def full(subject: Subject, seconds: float) -> Load:
    """As much as it takes."""
    if subject.speaks == "h3":
        return _h3(subject, seconds)
    if subject.speaks == "h2":
        clients = ["-c", "2", "-m", str(CONNECTIONS // 2), "-D", f"{seconds:g}s"]
        return _h2load(subject, clients, seconds)
    said = _said(["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", *_headers(subject, "-H", ": "), _url(subject)])
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"{subject.name}: not every request was answered well:\n{said}")
    found = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m),", said)
    assert found is not None, said
    return Load(int(found[1]), float(found[2]) * {"ms": 0.001, "s": 1.0, "m": 60.0}[found[3]])


def steady(subject: Subject, seconds: float) -> Load:
    """`RATE` requests a second."""
    if subject.speaks == "h3":
        return _h3(subject, seconds, "--rate", str(RATE))
    clients = 4
    options = ["-c", str(clients), "-m", "1", "--rps", str(RATE // clients), "-n", str(int(RATE * seconds))]
    return _h2load(subject, options + ([] if subject.speaks == "h2" else ["--h1"]), seconds)


def _h2load(subject: Subject, options: list[str], seconds: float) -> Load:
    with tempfile.NamedTemporaryFile(prefix="coatcheck-bench-") as log:
        said = _said(["h2load", *options, "--log-file", log.name, *_headers(subject, "-H", ": "), _url(subject)])
        lines = [line.split("\t") for line in Path(log.name).read_text().splitlines()]
    if "0 failed, 0 errored, 0 timeout" not in said or any(status != "200" for _, status, _ in lines):
        raise RuntimeError(f"{subject.name}: not every request was answered well:\n{said}")
    return Load(len(lines), seconds, [int(took) / 1e6 for _, _, took in lines])


def _h3(subject: Subject, seconds: float, *options: str) -> Load:
    command = [sys.executable, "-m", "bench.h3_load", str(subject.port), str(subject.ca), subject.cookie, str(seconds)]
    found = json.loads(_said([*command, *options]))
    return Load(len(found["took"]), found["seconds"], found["took"])


def _headers(subject: Subject, option: str, between: str) -> list[str]:
    sent = {
        "accept": "text/html",
        "user-agent": "Mozilla/5.0",
        **({"cookie": subject.cookie} if subject.cookie else {}),
    }
    return [part for name, value in sent.items() for part in (option, f"{name}{between}{value}")]


def _url(subject: Subject) -> str:
    return f"{'http' if subject.speaks == 'http' else 'https'}://localhost:{subject.port}/read"


def _said(command: list[str]) -> str:
    done = subprocess.run(command, cwd=machine.ROOT, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


# ---- what comes of it


def run(
    *, rounds: int, seconds: float, seed: int, tell: Tell, names: tuple[str, ...] = tuple(SUBJECTS)
) -> dict[str, Any]:
    """Give the samples of each: of every round throughput and processor time, of all rounds the waits, memory in the end."""
    draw = random.Random(seed)
    with running(names, tell) as (subjects, redis):
        found: dict[str, Any] = {
            each.name: {"speaks": each.speaks, "per_second": [], "processor": [], "store": [], "took": []}
            for each in subjects
        }
        for number in range(-1, rounds):
            tell("warm up" if number < 0 else f"round {number + 1} of {rounds}")
            for subject in draw.sample(subjects, len(subjects)):
                if number < 0:
                    full(subject, min(seconds, 1.0))
                    continue
                before, stored = subject.processor(), _processor_of(redis)
                load = full(subject, seconds)
                entry = found[subject.name]
                entry["per_second"].append(load.requests / load.seconds)
                entry["processor"].append((subject.processor() - before) / load.requests)
                entry["store"].append((_processor_of(redis) - stored) / load.requests)
                entry["took"] += steady(subject, seconds / 2).took
        for subject in subjects:
            found[subject.name]["memory"] = subject.memory()
    return found


def summarise(found: Mapping[str, Any]) -> dict[str, Any]:
    """Give medians with their intervals, and the waits' quantiles, in seconds and bytes."""
    summary: dict[str, Any] = {}
    bare = found.get(BARE, {}).get("per_second")
    for name, entry in found.items():
        took = sorted(entry["took"])
        summary[name] = {
            "speaks": entry["speaks"],
            "per_second": estimate(entry["per_second"])._asdict(),
            "of_bare": None
            if bare is None
            else estimate(ratios(entry["per_second"], bare, [0.0] * len(bare)))._asdict(),
            "processor_seconds": estimate(entry["processor"])._asdict(),
            "store_seconds": estimate(entry["store"])._asdict(),
            "p50": took[len(took) // 2],
            "p99": took[int(len(took) * 0.99)],
            "requests_at_rate": len(took),
            "memory_bytes": entry["memory"],
        }
    return summary


def table(summary: Mapping[str, Any]) -> str:
    """Give it in Markdown."""
    lines = [
        "### A logged-in read of two keys",
        "",
        f"| | requests a second | of {BARE} | processor time of a request | of it in Redis | p50 at {RATE} a second | p99 | memory |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, entry in summary.items():
        of = entry["of_bare"]
        share = "" if of is None else f"{of['median']:.2f} [{of['low']:.2f}, {of['high']:.2f}]"
        store = entry["store_seconds"]["median"]
        total = entry["processor_seconds"]["median"] + store
        shown = f"**{name}**" if "oatcheck" in name else name
        lines.append(
            f"| {shown} | {entry['per_second']['median']:,.0f} | {share} | {total * 1e6:,.0f} µs | {store * 1e6:,.0f} µs | "
            f"{entry['p50'] * 1e3:.2f} ms | {entry['p99'] * 1e3:.2f} ms | {entry['memory_bytes'] / 2**20:,.0f} MiB |"
        )
    few = min(entry["requests_at_rate"] for entry in summary.values())
    lines += [
        "",
        f"One process each, {CONNECTIONS} requests at once, on {os.cpu_count()} cores that clients and servers share; p50 and p99 of "
        f"{few:,} requests or more. Over TLS: HTTP/2 and HTTP/3. The HTTP/3 client is Python and is what limits its line: there the "
        "processor time tells. `coatcheck serve` is its supervisor, its edge (Envoy) and one worker together.",
        "",
    ]
    return "\n".join(lines)
