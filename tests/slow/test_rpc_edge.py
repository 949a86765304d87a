"""coatcheck.v1.SessionService through the edge: by gRPC and gRPC-Web, over every version of HTTP, with two workers."""

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health_pb2

from coatcheck.server.rpc._generated import sessions_pb2 as pb
from tests.clients.grpc_web import BINARY, TEXT, frame, unframe
from tests.clients.h2 import RawH2
from tests.clients.h3 import connect_h3
from tests.clients.serving import RunningServer, start_server
from tests.core.server.rpc import NO_PROXY, SERVICE

NOBODY = grpc.StatusCode.UNAUTHENTICATED
PASSWORD = "correct horse"
LIST = f"/{SERVICE.full_name}/List"
Metadata = list[tuple[str, str]]


@dataclass
class Person:
    """Somebody who is logged in by cookie and by token, two sessions."""

    browser: httpx.AsyncClient
    cookie: str
    token: str

    @property
    def by_cookie(self) -> Metadata:
        return [("cookie", self.cookie)]

    @property
    def by_token(self) -> Metadata:
        return [("authorization", f"Bearer {self.token}")]


@asynccontextmanager
async def person(server: RunningServer) -> AsyncIterator[Person]:
    form = {"username": f"u{uuid.uuid4().hex[:12]}", "password": PASSWORD}
    async with httpx.AsyncClient(verify=server.tls(), base_url=server.https, timeout=20) as browser:
        assert (await browser.post("/v1/users", json=form)).status_code == 201
        assert (await browser.post("/v1/login", json=form)).status_code == 200
        token = (await browser.post("/v1/login", json={**form, "mode": "token"})).json()["access_token"]
        yield Person(browser, f"__Host-session={browser.cookies['__Host-session']}", token)


@asynccontextmanager
async def channel(server: RunningServer) -> AsyncIterator[grpc.aio.Channel]:
    """A connection of its own."""
    trusted = grpc.ssl_channel_credentials(server.ca.read_bytes())
    options = (*NO_PROXY, ("grpc.use_local_subchannel_pool", 1))
    async with grpc.aio.secure_channel(f"localhost:{server.https_port}", trusted, options) as made:
        yield made


def call(to: grpc.aio.Channel, method: str, metadata: Metadata = (), request: Any = None) -> Any:  # type: ignore[assignment]
    found = SERVICE.methods_by_name[method]
    takes, gives = getattr(pb, found.input_type.name), getattr(pb, found.output_type.name)
    kind = {"Watch": "unary_stream", "Converse": "stream_stream"}.get(method, "unary_unary")
    made = getattr(to, kind)(f"/{SERVICE.full_name}/{method}", takes.SerializeToString, gives.FromString)
    return made(*([] if method == "Converse" else [request or takes()]), metadata=metadata, timeout=120)


async def ended(made: Any) -> tuple[grpc.StatusCode, str, dict[str, Any]]:
    """Read to the end; give how it was."""
    async with asyncio.timeout(20):
        if hasattr(made, "read"):
            try:
                while await made.read() is not grpc.aio.EOF:
                    pass
            except grpc.aio.AioRpcError:
                pass
        return await made.code(), await made.details(), dict(await made.trailing_metadata())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = start_server(tmp_path_factory.mktemp("server"), "--workers", "2")
    yield running
    assert running.stop() == 0, running.said()


async def test_streams_on_every_worker_end_with_the_session_wherever_it_is_ended(server: RunningServer) -> None:
    async with person(server) as ada, person(server) as bob:
        workers: set[str] = set()
        for by_cookie in (True, False):
            metadata = ada.by_cookie if by_cookie else ada.by_token
            channels = [channel(server) for _ in range(6)]
            opened = [await each.__aenter__() for each in channels]
            streams = [call(each, method, metadata) for each in opened for method in ("Watch", "Converse")]
            others = [call(opened[0], method, bob.by_token) for method in ("Watch", "Converse")]
            for stream in (*streams, *others):
                if isinstance(stream, grpc.aio.StreamStreamCall):
                    await stream.write(pb.ConverseRequest(id="1", list=pb.ListRequest()))
                await stream.read()
                workers.add(str((await stream.initial_metadata())["x-coatcheck-worker"]))
            if by_cookie:
                assert (await ada.browser.post("/v1/logout")).status_code == 204
            else:
                async with httpx.AsyncClient(verify=server.tls(), base_url=server.https) as plain:
                    answer = await plain.post("/v1/logout", headers={"authorization": ada.by_token[0][1]})
                    assert answer.status_code == 204
            for stream in streams:
                assert (await ended(stream))[:2] == (NOBODY, "session ended: logout")
            assert not any(other.done() for other in others)
            for each in channels:
                await each.__aexit__(None, None, None)
        assert workers == {"0", "1"}


async def test_a_call_knows_what_rest_knows_and_ends_what_rest_ends(server: RunningServer) -> None:
    async with person(server) as ada, channel(server) as to:
        listed = (await call(to, "List", ada.by_cookie)).sessions
        shown = (await ada.browser.get("/v1/sessions")).json()["sessions"]
        assert [session.id for session in listed] == [each["id"] for each in shown]
        (tokens,) = [session for session in listed if not session.current]
        await call(to, "End", ada.by_cookie, pb.EndRequest(session_id=tokens.id))
        assert (await ended(call(to, "List", ada.by_token)))[0] is NOBODY
        assert (await call(to, "EndAll", ada.by_cookie)).ended == 0


async def test_nothing_that_a_client_says_of_its_connection_is_believed(server: RunningServer) -> None:
    async with person(server) as ada, channel(server) as to:
        async with httpx.AsyncClient(base_url=server.http) as plain:
            name = (await ada.browser.get("/v1/me")).json()["username"]
            await plain.post("/v1/login", json={"username": name, "password": PASSWORD})
            insecure = plain.cookies["session"]
        forged = [
            ("x-forwarded-proto", "http"),
            ("x-coatcheck-connection", "forged"),
            ("x-coatcheck-protocol", "HTTP/9"),
            ("x-coatcheck-client", "6.6.6.6:1"),
            ("forwarded", "proto=http"),
        ]
        for cookie in (f"session={insecure}", f"__Host-session={insecure}"):
            assert (await ended(call(to, "List", [("cookie", cookie), *forged])))[0] is NOBODY
        # The secure one stays good, whatever is said beside it; and says truly what carries it.
        stream = call(to, "Watch", [*ada.by_cookie, *forged])
        await stream.read()
        another = call(to, "Watch", [*ada.by_cookie, *forged])
        while (event := (await stream.read()).activity.event).kind != pb.Event.KIND_OPENED:
            pass
        assert event.detail["protocol"] == "HTTP/2"
        another.cancel()
        for metadata in ([*ada.by_token, *ada.by_token], [*ada.by_token, ("authorization", "Basic eDp5")]):
            assert (await ended(call(to, "List", metadata)))[0] is NOBODY


async def test_in_plain_on_loopback_the_other_cookie_counts(server: RunningServer) -> None:
    async with person(server) as ada, httpx.AsyncClient(base_url=server.http) as plain:
        name = (await ada.browser.get("/v1/me")).json()["username"]
        await plain.post("/v1/login", json={"username": name, "password": PASSWORD})
        async with grpc.aio.insecure_channel(f"localhost:{server.http_port}", options=NO_PROXY) as to:
            assert len((await call(to, "List", [("cookie", f"session={plain.cookies['session']}")])).sessions) == 3
            for metadata in (ada.by_cookie, ada.by_token):
                assert (await ended(call(to, "List", metadata)))[0] is NOBODY


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("kind", [BINARY, TEXT])
async def test_grpc_web_for_pages_of_our_own_and_of_no_others(server: RunningServer, http2: bool, kind: str) -> None:
    text = kind == TEXT
    own = {"sec-fetch-site": "same-origin", "origin": server.https}
    async with person(server) as ada:
        async with httpx.AsyncClient(verify=server.tls(), base_url=server.https, http2=http2) as page:
            for headers, status in (
                (own, "0"),
                ({}, "0"),
                ({"origin": "https://evil.example"}, "7"),
                ({"sec-fetch-site": "cross-site", "origin": server.https}, "0"),
                ({"sec-fetch-site": "same-site", "origin": "https://evil.example"}, "7"),
                ({"origin": "null"}, "7"),
            ):
                given = {**headers, "cookie": ada.cookie, "content-type": kind, "accept": kind}
                answer = await page.post(LIST, headers=given, content=frame(b"", text=text))
                assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
                messages, trailers = unframe(answer.content, text=text)
                assert trailers.get("grpc-status", answer.headers.get("grpc-status")) == status, headers
                assert len(messages) == (1 if status == "0" else 0)
                if messages:
                    assert len(pb.ListResponse.FromString(messages[0]).sessions) == 2
                assert not [name for name in answer.headers if name.startswith("access-control-")]
            # Nor is a page of another site told that it may.
            asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
            preflight = await page.options(LIST, headers=asked)
            assert not [name for name in preflight.headers if name.startswith("access-control-")]


async def test_a_page_ends_its_own_session_by_grpc_web_and_its_cookie_goes(server: RunningServer) -> None:
    async with person(server) as ada:
        mine = next(each for each in (await ada.browser.get("/v1/sessions")).json()["sessions"] if each["current"])
        headers = {"content-type": BINARY, "sec-fetch-site": "same-origin"}
        content = frame(pb.EndRequest(session_id=mine["id"]).SerializeToString())
        answer = await ada.browser.post(LIST.replace("List", "End"), headers=headers, content=content)
        assert unframe(answer.content)[1]["grpc-status"] == "0"
        assert "__Host-session" not in ada.browser.cookies


async def test_grpc_web_over_http_3_and_a_stream_that_ends_with_its_session(server: RunningServer) -> None:
    async with person(server) as ada, connect_h3(server.https_port, server.ca) as quic:
        headers = [("content-type", BINARY), ("cookie", ada.cookie), ("sec-fetch-site", "same-origin")]
        answer = await quic.request("POST", LIST, headers, frame(b""))
        messages, trailers = unframe(answer.body)
        assert (answer.status, trailers["grpc-status"], len(messages)) == (200, "0", 1)
        stream = quic.begin("POST", LIST.replace("List", "Watch"), headers, frame(b""))
        assert (await stream.started()).status == 200
        assert await stream.read()
        await ada.browser.post("/v1/logout")
        body = b""
        while (piece := await stream.read()) is not None:
            body += piece
        _, trailers = unframe(body)
        assert trailers["grpc-status"] == "16"
        assert trailers["grpc-message"] == "session ended: logout"


async def test_a_cookie_does_not_get_into_the_log_by_a_neighbour_that_is_not_utf8(server: RunningServer) -> None:
    async with person(server) as ada, await RawH2.open(server.https_port, server.tls()) as raw:
        head = [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", LIST)]
        rest = [("content-type", "application/grpc"), ("te", "trailers"), ("cookie", f"{ada.cookie}; lang=\xff")]
        response = await raw.ended(raw.send_raw([*head, *rest], frame(b"")))
        assert response.status == 200
        assert len(pb.ListResponse.FromString(unframe(response.body)[0][0]).sessions) == 2
    said = server.said()
    assert ada.cookie.partition("=")[2] not in said
    assert ada.token not in said


async def test_health_and_what_is_not_there(server: RunningServer) -> None:
    async with channel(server) as to:
        check = to.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        answer = await check(health_pb2.HealthCheckRequest(service=SERVICE.full_name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        missing = to.unary_unary(f"/{SERVICE.full_name}/Nothing")(b"")
        assert (await ended(missing))[0] is grpc.StatusCode.UNIMPLEMENTED


# ---- workers that come and go


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that gives clients two seconds to send a request."""
    env = {"COATCHECK_LIMITS__REQUEST_TIMEOUT": "2"}
    running = start_server(tmp_path_factory.mktemp("impatient"), "--workers", "2", env=env)
    yield running
    assert running.stop() == 0, running.said()


async def test_streams_outlast_the_time_that_a_request_may_take(impatient: RunningServer) -> None:
    async with person(impatient) as ada, channel(impatient) as to:
        quiet, told = call(to, "Converse", ada.by_token), call(to, "Watch", ada.by_token)
        await told.read()
        await asyncio.sleep(3)
        assert not quiet.done()
        assert not told.done()
        await quiet.write(pb.ConverseRequest(id="1", list=pb.ListRequest()))
        assert len((await quiet.read()).reply.list.sessions) == 2


async def test_a_reload_fails_no_call_and_has_every_stream_come_back(impatient: RunningServer) -> None:
    async with person(impatient) as ada, channel(impatient) as to:
        streams = [call(to, "Watch", ada.by_token) for _ in range(8)]
        for stream in streams:
            await stream.read()
        before = impatient.workers()
        impatient.process.send_signal(signal.SIGHUP)
        calls = 0
        while "every worker was replaced" not in impatient.said():
            assert (await call(to, "List", ada.by_token)).sessions
            calls += 1
        assert calls > 10
        assert not set(before) & set(impatient.workers())
        for stream in streams:
            assert (await ended(stream))[:2] == (grpc.StatusCode.UNAVAILABLE, "service restart")
        again = call(to, "Watch", ada.by_token)
        assert (await again.read()).activity.WhichOneof("what") == "begin"
        again.cancel()


async def test_a_worker_that_dies_is_unavailable_to_its_streams_only(impatient: RunningServer) -> None:
    async with person(impatient) as ada, channel(impatient) as to:
        streams = [call(to, "Watch", ada.by_token) for _ in range(8)]
        for stream in streams:
            await stream.read()
        (victim, *_) = impatient.workers()
        os.kill(victim, signal.SIGKILL)
        async with asyncio.timeout(10):
            while not any(stream.done() for stream in streams):
                for stream in streams:
                    try:
                        async with asyncio.timeout(0.05):
                            await asyncio.shield(asyncio.ensure_future(stream.code()))
                    except TimeoutError:
                        pass
        over = [stream for stream in streams if stream.done()]
        for stream in over:
            # The edge cuts them, and gRPC calls that one or the other.
            assert await stream.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
        for _ in range(20):
            assert (await call(to, "List", ada.by_token)).sessions
        for stream in streams:
            stream.cancel()
