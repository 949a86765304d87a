"""coatcheck.v1.SessionService: what each method gives, that it is REST's, and when its streams end."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from coatcheck.accounts import AccountsUnavailable
from coatcheck.server import revocation_feed
from coatcheck.server.rest.models import SessionView
from coatcheck.server.rpc import conversing, watching
from coatcheck.server.rpc._generated import sessions_pb2 as pb
from tests.core.server.house import COOKIE, PLAIN_ORIGIN, House, log_in_for_tokens, session_id, token_of
from tests.core.server.rpc import AUDIENCE, SERVICE, Client, by_cookie, by_service, by_token, code, serving

NOBODY = grpc.StatusCode.UNAUTHENTICATED
KINDS = {pb.SESSION_KIND_COOKIE: "cookie", pb.SESSION_KIND_TOKEN: "token"}


async def status(call: Any) -> tuple[grpc.StatusCode, str]:
    async with asyncio.timeout(10):
        return await call.code(), await call.details()


# ---- listing and ending


async def test_lists_are_rests(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel:
        browser = await house.log_in("ada", headers={"user-agent": "evil\x1b[2J"})
        house.clock.advance(1)
        await log_in_for_tokens(house.client(), "ada")
        await browser.patch(f"/v1/sessions/{await session_id(browser)}", json={"name": "My phone"})
        shown = (await browser.get("/v1/sessions")).json()["sessions"]
        listed = (await Client(channel)("List", by_cookie(browser))).sessions
        assert [as_rest(session) for session in listed] == [SessionView.model_validate(each) for each in shown]
        assert [session.name for session in listed] == ["My phone", ""]
        assert [session.HasField("name") for session in listed] == [True, False]


def as_rest(session: pb.Session) -> SessionView:
    def optional(name: str) -> str | None:
        return getattr(session, name) if session.HasField(name) else None

    return SessionView.model_validate(
        {
            "id": session.id,
            "current": session.current,
            "kind": KINDS[session.kind],
            **{name: optional(name) for name in ("name", "method", "address", "user_agent")},
            **{
                name: getattr(session, name).ToJsonString()
                for name in ("created_at", "authenticated_at", "last_seen_at", "expires_at")
            },
        }
    )


async def test_a_session_that_is_ended_over_grpc_is_over(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel:
        client = Client(channel)
        browser, aside, other = await house.log_in("ada"), await house.log_in("ada"), await house.log_in("bob")
        ends = pb.EndRequest(session_id=await session_id(aside))
        for metadata in (by_cookie(other), by_token((await log_in_for_tokens(house.client(), "bob"))["access_token"])):
            assert await status(client("End", metadata, ends)) == (
                grpc.StatusCode.NOT_FOUND,
                "You have no session with this id.",
            )
        await client("End", by_cookie(browser), ends)
        assert (await aside.get("/v1/me")).status_code == 401
        assert await code(client("End", by_cookie(browser), ends)) is grpc.StatusCode.NOT_FOUND
        for nothing in ("", "x", "y" * 1000):
            call = client("End", by_cookie(browser), pb.EndRequest(session_id=nothing))
            assert await code(call) is grpc.StatusCode.NOT_FOUND
        # One's own: the answer takes the cookie back.
        own = client("End", by_cookie(browser), pb.EndRequest(session_id=await session_id(browser)))
        await own
        (line,) = (await own.initial_metadata()).get_all("set-cookie")
        assert line.startswith(f"{COOKIE}=;")
        assert "Max-Age=0" in line
        assert (await browser.get("/v1/me")).status_code == 401


async def test_all_others_are_ended(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel:
        browser, *aside = [await house.log_in("ada") for _ in range(3)]
        other = await house.log_in("bob")
        assert (await Client(channel)("EndAll", by_cookie(browser))).ended == 2
        assert [(await each.get("/v1/me")).status_code for each in (browser, *aside, other)] == [200, 401, 401, 200]


# ---- schemes and connections


async def test_a_session_made_over_the_one_scheme_is_nobodys_over_the_other(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel:
        tls, plain = Client(channel), Client(channel, scheme="http")
        secure, open_ = await house.log_in("ada"), await house.log_in("ada", PLAIN_ORIGIN)
        assert len((await tls("List", by_cookie(secure))).sessions) == 2
        assert len((await plain("List", by_cookie(open_, plain=True))).sessions) == 2
        for client, metadata in (
            (tls, by_cookie(open_, plain=True)),
            (tls, [("cookie", f"{COOKIE}={token_of(open_)}")]),
            (plain, by_cookie(secure)),
            (plain, [("cookie", f"session={token_of(secure)}")]),
        ):
            assert await status(client("List", metadata)) == (NOBODY, "Nobody is logged in.")
            assert await code(client("Converse", metadata)) is NOBODY
        token = by_token((await log_in_for_tokens(house.client(), "ada"))["access_token"])
        code_, details = await status(plain("List", token))
        assert code_ is NOBODY
        assert "other scheme" in details


async def test_calls_are_counted_under_the_clients_connection_and_streams_say_what_carries_them(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel:
        browser = await house.log_in("ada")
        client = Client(channel)
        watch = client("Watch", by_cookie(browser))
        await watch.read()
        (connection,) = house.sessions.connections.of(await session_id(browser))
        assert (connection.kind, connection.protocol) == ("grpc", "HTTP/2")
        for _ in range(2):
            await client("List", by_cookie(browser))
        assert house.worker.connections.total(house.worker.connections.key("abc-1")) == 3
        watch.cancel()


# ---- checking


async def check(client: Client, service: Any, **request: Any) -> Any:
    answer = await client("Check", service, pb.CheckRequest(**request))
    return answer.identity if answer.WhichOneof("result") == "identity" else answer.refusal.reason


async def test_a_service_is_told_whose_a_cookie_is(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel:
        client, service = Client(channel), await by_service(house)
        browser = await house.log_in("ada")
        cookie = by_cookie(browser)[0][1]
        user = await house.accounts.find("ada")
        assert user is not None
        for header in (cookie, f"a=b; {cookie}; c=d"):
            found = await check(client, service, cookie=header)
            assert (found.user_id, found.username, found.session_id) == (user.id, "ada", await session_id(browser))
            assert found.session_kind == pb.SESSION_KIND_COOKIE
            assert found.authenticated_at.seconds == int(house.clock.time())
        for header in (
            "",
            "a=b",
            f"{cookie}; {cookie}",
            f"{cookie}x",
            f"{COOKIE}=x.y",
            f"session={token_of(browser)}",
            "\n\0é",
        ):
            assert await check(client, service, cookie=header) == pb.Refusal.REASON_NOBODY
        await browser.post("/v1/logout")
        assert await check(client, service, cookie=cookie) == pb.Refusal.REASON_NOBODY


async def test_a_check_judges_the_request_that_brought_the_cookie(tmp_path: Path) -> None:
    async with House(tmp_path, public_origins=["https://app.example"]) as house, serving(house) as channel:
        client, service = Client(channel), await by_service(house)
        cookie = by_cookie(await house.log_in("ada"))[0][1]
        for said, good in (
            ({}, True),
            ({"origin": "https://app.example"}, True),
            ({"origin": "https://evil.example"}, False),
            ({"origin": ""}, False),
            ({"origin": "https://evil.example", "method": "GET"}, True),
            ({"origin": "https://evil.example", "method": "get"}, False),
            ({"origin": "https://evil.example", "method": "POST"}, False),
            ({"sec_fetch_site": "cross-site", "method": "DELETE"}, False),
            ({"sec_fetch_site": "same-origin", "origin": "https://other.example", "method": "DELETE"}, True),
        ):
            found = await check(client, service, cookie=cookie, **said)
            assert (found != pb.Refusal.REASON_OTHER_SITE) is good, said


async def test_a_check_knows_schemes_and_recent_logins(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel:
        client, service = Client(channel), await by_service(house)
        secure, open_ = await house.log_in("ada"), await house.log_in("ada", PLAIN_ORIGIN)
        plain = by_cookie(open_, plain=True)[0][1]
        assert (await check(client, service, cookie=plain, plain_http=True)).username == "ada"
        for request in (
            {"cookie": plain},
            {"cookie": by_cookie(secure)[0][1], "plain_http": True},
            {"cookie": f"session={token_of(secure)}", "plain_http": True},
            {"cookie": f"{COOKIE}={token_of(open_)}"},
        ):
            assert await check(client, service, **request) == pb.Refusal.REASON_NOBODY
        recent = {"cookie": by_cookie(secure)[0][1], "max_age": Duration(seconds=60)}
        assert (await check(client, service, **recent)).username == "ada"
        house.clock.advance(61)
        assert await check(client, service, **recent) == pb.Refusal.REASON_LOGIN_TOO_OLD


async def test_a_service_is_told_whose_a_token_is_that_was_issued_for_it_and_of_no_other(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel:
        client, service = Client(channel), await by_service(house, "https://a.example.com", AUDIENCE)
        browser = await house.log_in("ada")
        record = (await house.sessions.load(token_of(browser).encode())).record
        assert record is not None
        ours, _ = house.access.issue(record, audience=AUDIENCE)
        assert (await check(client, service, access_token=ours)).session_id == record.id
        for_coatcheck, _ = house.access.issue(record)
        for_others, _ = house.access.issue(record, audience="https://mail.example.com")
        for token in (for_coatcheck, for_others, ours + "x", "", "x.y.z"):
            assert await check(client, service, access_token=token) == pb.Refusal.REASON_INVALID_TOKEN
        assert await check(client, service, access_token=ours, plain_http=True) == pb.Refusal.REASON_INVALID_TOKEN
        await browser.post("/v1/logout")
        assert await check(client, service, access_token=ours) == pb.Refusal.REASON_INVALID_TOKEN


async def test_a_check_of_nothing_is_an_invalid_argument(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel:
        client, service = Client(channel), await by_service(house)
        for request in (
            pb.CheckRequest(),
            pb.CheckRequest(cookie="x", max_age=Duration()),
            pb.CheckRequest(cookie="x", max_age=Duration(seconds=-1)),
        ):
            assert await code(client("Check", service, request)) is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_store_or_database_that_is_away_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> Any:
        raise AccountsUnavailable("away")

    async with House(tmp_path) as house, serving(house) as channel:
        client, service = Client(channel), await by_service(house)
        cookie = by_cookie(await house.log_in("ada"))
        house.sessions.cache.clear()
        house.store.down = True
        assert await code(client("List", cookie)) is grpc.StatusCode.UNAVAILABLE
        call = client("Check", service, pb.CheckRequest(cookie=cookie[0][1]))
        assert await code(call) is grpc.StatusCode.UNAVAILABLE
        house.store.down = False
        monkeypatch.setattr("coatcheck.accounts.ServiceAccounts.authenticate", away)
        for method in ("Check", "Watch"):
            assert await status(client(method, service)) == (
                grpc.StatusCode.UNAVAILABLE,
                "The accounts cannot be asked right now. Nothing is lost; try again.",
            )


async def test_what_went_wrong_is_for_the_log_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing(*_: object) -> Any:
        raise LookupError("a secret path")

    async with House(tmp_path) as house, serving(house) as channel:
        monkeypatch.setattr("coatcheck.server.commands.Commands.list", failing)
        with caplog.at_level(logging.INFO):
            found = await status(Client(channel)("List", by_cookie(await house.log_in("ada"))))
        assert found == (grpc.StatusCode.INTERNAL, "The server failed to answer this call.")
        assert "a secret path" in caplog.text


# ---- watching


async def until(call: Any, kind: int, session: str | None = None) -> pb.Told:
    """Read to the next event of a kind."""
    async with asyncio.timeout(10):
        while True:
            told = (await call.read()).activity
            if told.event.kind == kind and session in (None, told.event.session_id):
                return told


async def test_a_user_watches_their_sessions_and_goes_on_where_they_were(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel, house.activity:
        client = Client(channel)
        browser = await house.log_in("ada")
        watch = client("Watch", by_cookie(browser))
        first = (await watch.read()).activity
        assert first.WhichOneof("what") == "begin"
        await house.log_in("bob")  # which is nobody else's business
        aside = await house.log_in("ada")
        created = await until(watch, pb.Event.KIND_CREATED, await session_id(aside))
        assert created.event.detail["method"] == "password"
        watch.cancel()
        await aside.post("/v1/logout")
        again = client("Watch", by_cookie(browser), pb.WatchRequest(after=created.place))
        assert (await again.read()).activity.WhichOneof("what") == "begin"
        ended = await until(again, pb.Event.KIND_ENDED)
        assert (ended.event.session_id, ended.event.detail["reason"]) == (created.event.session_id, "logout")
        bob = by_cookie(await house.log_in("bob"))
        for after in (ended.place, "x", "x" * 22):
            call = client("Watch", bob, pb.WatchRequest(after=after))
            assert (await call.read()).activity.WhichOneof("what") == "reset"
            call.cancel()
        again.cancel()


async def test_a_user_may_choose_what_to_be_told(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel, house.activity:
        client = Client(channel)
        browser = await house.log_in("ada")
        watch = client("Watch", by_cookie(browser), pb.WatchRequest(topics=[pb.TOPIC_CONNECTIONS]))
        assert (await watch.read()).activity.WhichOneof("what") == "begin"
        await house.log_in("ada")
        other = client("Converse", by_cookie(browser))
        told = (await watch.read()).activity
        assert told.event.kind == pb.Event.KIND_OPENED
        other.cancel()
        watch.cancel()
        for topics in ([0], [77], [pb.TOPIC_SESSIONS, 0]):
            call = client("Watch", by_cookie(browser), pb.WatchRequest(topics=topics))
            assert await status(call) == (grpc.StatusCode.INVALID_ARGUMENT, "There is no such topic.")


async def test_a_watch_ends_with_its_session_and_says_come_back_when_the_worker_leaves(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel:
        client = Client(channel)
        browser, aside = await house.log_in("ada"), await house.log_in("ada")
        calls = [client("Watch", by_cookie(each)) for each in (browser, aside)]
        for call in calls:
            await call.read()
        await aside.post("/v1/logout")
        await drain(calls[1])
        assert await status(calls[1]) == (NOBODY, "session ended: logout")
        house.worker.leave()
        await drain(calls[0])
        assert await status(calls[0]) == (grpc.StatusCode.UNAVAILABLE, "service restart")
        assert len(house.sessions.connections) == 0


async def drain(call: Any) -> list[Any]:
    found: list[Any] = []
    try:
        while (message := await call.read()) is not grpc.aio.EOF:
            found.append(message)
    except grpc.aio.AioRpcError:
        pass
    return found


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation_feed, "HEARTBEAT", 0.02)


async def revocations(call: Any) -> AsyncIterator[tuple[str, Any]]:
    async for response in call:
        kind = response.revocation.WhichOneof("what")
        yield kind, getattr(response.revocation, kind)


@pytest.mark.usefixtures("_quick")
async def test_a_service_is_told_which_sessions_end_and_up_to_when_that_is_all(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel:
        client, service = Client(channel), await by_service(house)
        browser, aside = await house.log_in("ada"), await house.log_in("ada")
        told = revocations(client("Watch", service))
        kind, since = await anext(told)
        assert (kind, since.since.seconds) == ("begin", int(house.clock.time()))
        assert since.token_lifetime.seconds == house.access.keys.token_lifetime
        ended, changed = await session_id(aside), await session_id(browser)
        await aside.post("/v1/logout")
        await browser.post("/v1/reauthenticate", json={"password": "correct horse"})
        found: dict[str, Any] = {}
        while not {"session_ended", "generation_changed"} <= set(found):
            kind, what = await anext(told)
            found[kind] = what
        assert found["session_ended"].session_id == ended
        assert (found["generation_changed"].session_id, found["generation_changed"].generation) == (changed, 2)
        house.clock.advance(60)
        place = ""
        while not place or int(place) < house.clock.time() * 1000 - 1:
            kind, what = await anext(told)
            place = what.place if kind == "confirmed" else ""
        assert what.after_arrival.ToNanoseconds() > 59e9
        again = revocations(client("Watch", service, pb.WatchRequest(after=place)))
        assert (await anext(again))[0] == "begin"
        lost = revocations(client("Watch", service, pb.WatchRequest(after="1")))
        assert (await anext(lost))[0] == "reset"


@pytest.mark.usefixtures("_quick")
async def test_a_worker_that_leaves_tells_services_everything_first(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel:
        browser = await house.log_in("ada")
        call = Client(channel)("Watch", await by_service(house))
        await call.read()
        await browser.post("/v1/logout")
        house.worker.leave()
        kinds = [message.revocation.WhichOneof("what") for message in await drain(call)]
        assert "session_ended" in kinds
        assert kinds[-1] == "confirmed"
        assert await code(call) is grpc.StatusCode.OK


@pytest.mark.usefixtures("_quick")
async def test_a_service_that_does_not_read_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "SLOW", 0.1)
    monkeypatch.setattr("coatcheck.integrations.grpc._stream.PATIENCE", 0.1)
    # gRPC would learn that the way to the client is wide, and take in all that there is without anybody reading it.
    narrow = ("grpc.http2.bdp_probe", 0)
    async with House(tmp_path) as house, serving(house, narrow) as channel:
        service = await by_service(house)
        rpc: Any = house.worker.rpc
        await rpc._feed.start()
        for number in range(20_000):
            rpc._feed.window.add(house.clock.time(), "ended", f"{number:022}")
        call = Client(channel)("Watch", service, pb.WatchRequest(after="1"))
        await call.read()
        assert rpc._feed.readers == 1
        async with asyncio.timeout(10):
            while rpc._interceptor._streams:
                await asyncio.sleep(0.01)
        assert rpc._feed.readers == 0
        call.cancel()


# ---- conversing


class Talk:
    """One conversation."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.told: list[pb.Told] = []

    async def say(self, **command: Any) -> pb.Reply:
        await self.call.write(pb.ConverseRequest(**command))
        return await self.reply()

    async def reply(self) -> pb.Reply:
        async with asyncio.timeout(10):
            while (message := await self.call.read()).WhichOneof("message") != "reply":
                self.told.append(message.activity)
        return message.reply

    async def event(self, kind: int) -> pb.Event:
        async with asyncio.timeout(10):
            while True:
                for told in self.told:
                    if told.event.kind == kind:
                        return told.event
                self.told = [(await self.call.read()).activity]


async def test_a_conversation_obeys_commands_and_tells_what_happens(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel, house.activity:
        browser, aside = await house.log_in("ada"), await house.log_in("ada")
        talk = Talk(Client(channel)("Converse", by_cookie(browser)))
        listed = await talk.say(id="a", list=pb.ListRequest())
        assert (listed.id, sorted(session.current for session in listed.list.sessions)) == ("a", [False, True])
        topics = pb.SubscribeRequest(topics=[pb.TOPIC_SESSIONS])
        assert (await talk.say(id="b", subscribe=topics)).subscribed.topics == [pb.TOPIC_SESSIONS]
        other = await session_id(aside)
        renamed = await talk.say(id="c", rename=pb.RenameRequest(session_id=other, name="Phone"))
        assert renamed.renamed.name == "Phone"
        assert (await talk.event(pb.Event.KIND_RENAMED)).detail["name"] == "Phone"
        ended = await talk.say(id="d", end=pb.EndRequest(session_id=other))
        assert (ended.id, ended.WhichOneof("result")) == ("d", "end")
        assert (await talk.event(pb.Event.KIND_ENDED)).session_id == other
        assert (await aside.get("/v1/me")).status_code == 401
        again = await talk.say(id="e", end=pb.EndRequest(session_id=other))
        assert (again.error.code, again.error.detail) == (5, "You have no session with this id.")
        too_long = await talk.say(rename=pb.RenameRequest(session_id=await session_id(browser), name="x" * 101))
        assert too_long.error.code == 3
        await house.log_in("ada")
        assert (await talk.say(id="f", end_all=pb.EndAllRequest())).end_all.ended == 1
        assert (await talk.say(subscribe=pb.SubscribeRequest())).subscribed.topics == []
        await talk.call.done_writing()
        await drain(talk.call)
        assert await status(talk.call) == (grpc.StatusCode.OK, "")
        assert len(house.sessions.connections) == 0


async def test_what_is_no_command_is_said_to_be_none_and_too_many_end_the_call(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel:
        talk = Talk(Client(channel)("Converse", by_cookie(await house.log_in("ada"))))
        for command in (
            {"id": "a"},
            {"id": "x" * 65, "list": pb.ListRequest()},
            {"id": "b", "subscribe": pb.SubscribeRequest(topics=[9])},
        ):
            assert (await talk.say(**command)).error.code == 3
        for _ in range(conversing.MOST_MALFORMED - 3):
            await talk.say()
        assert await status(talk.call) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "Too many messages that are no commands.",
        )


async def test_a_conversation_ends_with_its_session_whoever_ends_it(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel:
        browser = await house.log_in("ada")
        talk = Talk(Client(channel)("Converse", by_cookie(browser)))
        await talk.say(subscribe=pb.SubscribeRequest(topics=[pb.TOPIC_SESSIONS]))
        await talk.call.write(pb.ConverseRequest(end=pb.EndRequest(session_id=await session_id(browser))))
        await drain(talk.call)
        assert await status(talk.call) == (NOBODY, "session ended: logout")
        house.worker.leave()
        aside = Client(channel)("Converse", by_cookie(await house.log_in("ada")))
        assert await status(aside) == (grpc.StatusCode.UNAVAILABLE, "service restart")


async def test_a_conversation_is_answered_at_once_so_that_the_edge_does_not_take_it_for_hung(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel:
        call = Client(channel)("Converse", by_cookie(await house.log_in("ada")))
        async with asyncio.timeout(5):
            await call.initial_metadata()
        assert not call.done()
        call.cancel()


# ---- the server itself


async def test_health_is_told_to_anybody_and_ends_with_the_worker(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel:
        check_ = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )(health_pb2.HealthCheckRequest())
        for name in ("", SERVICE.full_name):
            answer = await check_(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert house.worker.rpc is not None
        house.worker.rpc.leave()
        await drain(watch)
        assert await code(watch) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({}, True),
        ({"grpc_reflection": False}, False),
        ({"host": "0.0.0.0", "public_origins": ["https://login.example.com"]}, False),
        ({"host": "0.0.0.0", "public_origins": ["https://login.example.com"], "grpc_reflection": True}, True),
    ],
)
async def test_reflection_is_off_beyond_loopback_unless_set(
    tmp_path: Path, settings: dict[str, Any], shown: bool
) -> None:
    async with House(tmp_path, **settings) as house, serving(house) as channel:
        # One request, sent with the call: see `Client`.
        call = channel.unary_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )(reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE.full_name))
        if shown:
            answer = await call.read()
            assert answer.file_descriptor_response.file_descriptor_proto[0] == pb.DESCRIPTOR.serialized_pb
        else:
            assert await code(call) is grpc.StatusCode.UNIMPLEMENTED


async def test_long_cookies_that_the_edge_lets_through_are_no_error_and_long_messages_are(tmp_path: Path) -> None:
    async with House(tmp_path) as house, serving(house) as channel:
        client = Client(channel)
        ((name, value),) = by_cookie(await house.log_in("ada"))
        assert (await client("List", [(name, f"{value}; other={'x' * 50_000}")])).sessions
        service = await by_service(house)
        call = client("Check", service, pb.CheckRequest(cookie="x" * (house.settings.limits.request_body_kb * 1024)))
        assert await code(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
