"""One login, one cookie, every HTTP version, two workers: as the first thing that a newcomer tries, with curl."""

import asyncio
import json
import shutil
import subprocess
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.h3 import connect_h3
from tests.clients.serving import RunningServer

VERSIONS = ["--http1.0", "--http1.1", "--http2"]
PROTOCOLS = {"--http1.0": "HTTP/1.0", "--http1.1": "HTTP/1.1", "--http2": "HTTP/2"}


@dataclass
class Reply:
    status: int
    headers: dict[str, list[str]]
    body: Any

    @property
    def worker(self) -> int:
        return int(self.headers["x-coatcheck-worker"][0])


class Curl:
    """curl with a cookie jar, as a person uses it."""

    def __init__(self, server: RunningServer, directory: Path) -> None:
        self.server = server
        self.jar = directory / f"jar-{uuid.uuid4().hex}"

    def run(
        self, version: str, *paths: str, data: dict[str, Any] | None = None, options: tuple[str, ...] = ()
    ) -> list[Reply]:
        curl = shutil.which("curl")
        assert curl is not None, "Debian's package curl is missing"
        argv = [curl, "--silent", "--show-error", "--max-time", "20", version, "--cacert", str(self.server.ca)]
        argv += ["--cookie", str(self.jar), "--cookie-jar", str(self.jar)]
        argv += ["--write-out", "\n%{stderr}%{http_code} %{header_json}\x1e", *options]
        if data is not None:
            argv += ["--header", "content-type: application/json", "--data", json.dumps(data)]
        bodies: list[str] = []
        for number, path in enumerate(paths):
            argv += ["--output", f"{self.jar}-{number}", self.server.https + path]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
        bodies = [Path(f"{self.jar}-{number}").read_text() for number in range(len(paths))]
        replies: list[Reply] = []
        for body, facts in zip(bodies, done.stderr.split("\x1e"), strict=False):
            status, _, headers = facts.strip().partition(" ")
            replies.append(Reply(int(status), json.loads(headers), json.loads(body) if body else None))
        return replies

    def cookie(self) -> str:
        """The session cookie, as a Cookie header has it."""
        lines = [line.split("\t") for line in self.jar.read_text().splitlines() if "__Host-session" in line]
        assert len(lines) == 1
        return f"__Host-session={lines[0][6]}"


@pytest.fixture
def curl(server: RunningServer, tmp_path: Path) -> Curl:
    return Curl(server, tmp_path)


def register_and_log_in(curl: Curl, version: str = "--http1.1") -> str:
    name = f"user-{uuid.uuid4().hex[:12]}"
    credentials = {"username": name, "password": "a long enough pass phrase"}
    assert curl.run(version, "/v1/users", data={**credentials, "name": "Ada"})[0].status == 201
    assert curl.run(version, "/v1/login", data=credentials)[0].status == 200
    return name


async def h3(server: RunningServer, path: str, cookie: str, method: str = "GET") -> tuple[int, Any, int]:
    async with connect_h3(server.https_port, server.ca) as client:
        response = await client.request(method, path, [("cookie", cookie)])
        return (
            response.status,
            response.json() if response.body else None,
            int(response.header("x-coatcheck-worker") or -1),
        )


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_login_over_any_version_is_known_on_all(curl: Curl, server: RunningServer, version: str) -> None:
    name = register_and_log_in(curl, version)
    for other in VERSIONS:
        reply = curl.run(other, "/v1/me")[0]
        assert (reply.status, reply.body["username"]) == (200, name)
    status, body, _ = await h3(server, "/v1/me", curl.cookie())
    assert (status, body["username"]) == (200, name)


async def test_a_login_over_http_3_is_known_on_all(curl: Curl, server: RunningServer) -> None:
    name = register_and_log_in(curl)
    credentials = json.dumps({"username": name, "password": "a long enough pass phrase"}).encode()
    async with connect_h3(server.https_port, server.ca) as client:
        answer = await client.request("POST", "/v1/login", [("content-type", "application/json")], credentials)
        assert answer.status == 200
        (cookie,) = [line.split(";")[0] for line in answer.cookies() if line.startswith("__Host-session=")]
        me = await client.request("GET", "/v1/me", [("cookie", cookie)])
        assert me.json()["username"] == name
    for version in VERSIONS:
        other = Curl(server, curl.jar.parent)
        reply = other.run(version, "/v1/me", options=("--header", f"cookie: {cookie}"))[0]
        assert (reply.status, reply.body["username"]) == (200, name)


async def test_connections_are_what_each_version_makes_of_them(curl: Curl, server: RunningServer) -> None:
    register_and_log_in(curl)
    seen: dict[str, list[str]] = {}
    for version in VERSIONS:
        replies = curl.run(version, *["/v1/connection"] * 8)
        assert {reply.body["protocol"] for reply in replies} == {PROTOCOLS[version]}
        seen[version] = [reply.body["connection_id"] for reply in replies]
    assert len(set(seen["--http1.0"])) == 8
    assert len(set(seen["--http1.1"])) == 1
    assert len(set(seen["--http2"])) == 1


async def test_http_2_and_3_carry_concurrent_streams_on_one_connection_and_quic_survives_a_new_port(
    curl: Curl, server: RunningServer
) -> None:
    import httpx

    register_and_log_in(curl)
    cookie = curl.cookie()
    async with httpx.AsyncClient(http1=False, http2=True, verify=server.tls(), base_url=server.https) as client:
        answers = await asyncio.gather(*(client.get("/v1/connection", headers={"cookie": cookie}) for _ in range(20)))
        facts = [answer.json() for answer in answers]
        assert {fact["protocol"] for fact in facts} == {"HTTP/2"}
        assert len({fact["connection_id"] for fact in facts}) == 1
        assert {fact["worker"] for fact in facts} == {0, 1}
    async with connect_h3(server.https_port, server.ca) as quic:
        headers = [("cookie", cookie)]
        many = await asyncio.gather(*(quic.request("GET", "/v1/connection", headers) for _ in range(20)))
        before = {answer.json()["connection_id"] for answer in many}
        assert {answer.json()["protocol"] for answer in many} == {"HTTP/3"}
        assert len(before) == 1
        old_port = quic.local_port
        assert await quic.rebind() != old_port
        after = (await quic.request("GET", "/v1/connection", headers)).json()
        assert {after["connection_id"]} == before
        assert after["requests"] == 21
        assert (await quic.request("GET", "/v1/me", headers)).status == 200


async def test_a_replayed_cookie_is_refused_over_every_version_by_every_worker(
    curl: Curl, server: RunningServer
) -> None:
    register_and_log_in(curl)
    cookie = curl.cookie()
    replay = ("--header", f"cookie: {cookie}")
    await each_worker(lambda: asyncio.to_thread(one, curl, "--http1.1", replay), 200)  # both have it in their cache
    assert curl.run("--http2", "/v1/logout", data={})[0].status == 204
    for version in VERSIONS:
        await each_worker(lambda version=version: asyncio.to_thread(one, curl, version, replay), 401)

    async def over_h3() -> tuple[int, int]:
        status, _, worker = await h3(server, "/v1/me", cookie)
        return status, worker

    await each_worker(over_h3, 401)


def one(curl: Curl, version: str, replay: tuple[str, ...]) -> tuple[int, int]:
    reply = Curl(curl.server, curl.jar.parent).run(version, "/v1/me", options=replay)[0]
    return reply.status, reply.worker


async def each_worker(ask: Callable[[], Awaitable[tuple[int, int]]], expected: int) -> None:
    """Ask until each of the two workers has answered, and see that every answer is the expected one."""
    answered: set[int] = set()
    for _ in range(60):
        status, worker = await ask()
        assert status == expected
        answered.add(worker)
        if answered == {0, 1}:
            return
    raise AssertionError(f"only the workers {answered} ever answered")
