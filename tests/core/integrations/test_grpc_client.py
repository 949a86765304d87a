"""Channels that carry access tokens: one exchange for all that wait, and a second try only where nothing was answered yet."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

from coatcheck import UsageError, current_session
from coatcheck.integrations.grpc import require_login, token_channel
from coatcheck.integrations.grpc._replay import MOST
from coatcheck.integrations.httpx import RefreshFailed, SessionOver, TokenAuth
from coatcheck.tokens import RefreshRefused, RefreshTokens
from tests.core.integrations.grpc_site import BOTH, CLIENT, KINDS, NO_PROXY, SERVER, UNARY, Site, responses, status

kinds = pytest.mark.parametrize("kind", KINDS)
CHALLENGE = "www-authenticate"


class Shop(Site):
    """A site whose sessions have tokens, and an address where they are exchanged."""

    def __init__(self) -> None:
        super().__init__(bearer=True)
        self.refresh = RefreshTokens(self.sessions, self.tokens)
        self.exchanges = 0
        self.broken = False
        self.exchange_gate: asyncio.Event | None = None
        self.served: list[str] = []

    async def exchange(self, scope: Any, receive: Any, send: Any) -> None:
        self.exchanges += 1
        if self.exchange_gate is not None:
            await self.exchange_gate.wait()
        form = json.loads((await receive())["body"])
        if self.broken:
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        try:
            pair = await self.refresh.exchange(form["refresh_token"])
        except RefreshRefused as error:
            code, body = 400, {"error": error.error}
        else:
            code, body = 200, {"access_token": pair.access_token, "refresh_token": pair.refresh_token}
        await send({"type": "http.response.start", "status": code, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})

    async def client(self, **options: Any) -> tuple[str, TokenAuth]:
        """Give a new session and its tokens."""
        session = await self.sessions.load(None)
        await session.log_in("ada")
        assert session.record is not None
        pair = await self.refresh.begin(session.record)
        access, _ = self.tokens.issue(session.record)
        transport = httpx.ASGITransport(self.exchange)
        auth = TokenAuth(
            "https://me/refresh",
            access_token=access,
            refresh_token=pair.refresh_token,
            client=httpx.AsyncClient(transport=transport),
            clock=self.clock,
            **options,
        )
        return session.record.id, auth

    def connect_with(self, auth: TokenAuth, **options: Any) -> grpc.aio.Channel:
        return token_channel(f"127.0.0.1:{self.port}", auth, insecure=True, options=NO_PROXY, **options)

    def serve_all(self) -> None:
        @require_login()
        async def unary(request: bytes, context: Any) -> bytes:
            return self.answer(request)

        @require_login()
        async def server(request: bytes, context: Any) -> AsyncIterator[bytes]:
            yield self.answer(request)
            yield b"more"

        @require_login()
        async def client(requests: AsyncIterator[bytes], context: Any) -> bytes:
            return self.answer(b",".join([request async for request in requests]))

        @require_login()
        async def both(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            async for request in requests:
                yield self.answer(request)

        for kind, handler in ((UNARY, unary), (SERVER, server), (CLIENT, client), (BOTH, both)):
            self.serve(kind, handler)

    def answer(self, request: bytes) -> bytes:
        self.served.append(request.decode())
        return f"{current_session().user_id}:{request.decode()}".encode()


async def answered(kind: str, call: Any) -> list[bytes]:
    return await responses(kind, call, [b"a", b"b"])


EXPECTED = {UNARY: [b"ada:"], SERVER: [b"ada:", b"more"], CLIENT: [b"ada:a,b"], BOTH: [b"ada:a", b"ada:b"]}


@kinds
async def test_calls_carry_the_token_and_a_token_that_is_refused_is_replaced(kind: str) -> None:
    async with Shop() as shop:
        shop.serve_all()
        _, auth = await shop.client()
        async with shop.connect_with(auth) as channel:
            assert await answered(kind, shop.call(kind, channel=channel)) == EXPECTED[kind]
            assert shop.exchanges == 0
            shop.clock.advance(301)
            for _ in range(2):
                call = shop.call(kind, channel=channel)
                assert await answered(kind, call) == EXPECTED[kind]
                assert await call.code() is grpc.StatusCode.OK
            assert shop.exchanges == 1
            assert len(shop.served) == 3 * (2 if kind == BOTH else 1)


async def test_one_exchange_serves_all_calls_that_wait_streams_and_httpx_included() -> None:
    async with Shop() as shop:
        shop.serve_all()
        _, auth = await shop.client()
        shop.clock.advance(301)
        async with shop.connect_with(auth) as channel, shop.connect_with(auth) as other:
            calls = [
                answered(kind, shop.call(kind, channel=each))
                for kind in KINDS
                for each in (channel, other)
                for _ in range(5)
            ]
            found = await asyncio.gather(*calls)
            assert found == [EXPECTED[kind] for kind in KINDS for _ in range(10)]
        assert shop.exchanges == 1


@kinds
async def test_what_is_known_to_have_run_out_is_renewed_before_it_is_sent(kind: str) -> None:
    async with Shop() as shop:
        shop.serve_all()
        _, auth = await shop.client(expires_in=300.0)
        shop.clock.advance(301)
        async with shop.connect_with(auth) as channel:
            assert await answered(kind, shop.call(kind, channel=channel)) == EXPECTED[kind]
        assert shop.exchanges == 1


@kinds
async def test_calls_say_when_the_session_is_over(kind: str) -> None:
    async with Shop() as shop:
        shop.serve_all()
        session_id, auth = await shop.client()
        await shop.sessions.end(session_id)
        async with shop.connect_with(auth) as channel:
            for _ in range(2):
                call = shop.call(kind, channel=channel)
                with pytest.raises(SessionOver) as raised:
                    await answered(kind, call)
                # For code that only knows gRPC's errors it is one of them.
                assert isinstance(raised.value, grpc.aio.AioRpcError)
                assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
                assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        assert shop.exchanges == 1
        assert shop.served == []


async def test_a_token_that_cannot_be_had_for_now_is_unavailable() -> None:
    async with Shop() as shop:
        shop.serve_all()
        _, auth = await shop.client()
        shop.clock.advance(301)
        shop.broken = True
        async with shop.connect_with(auth) as channel:
            for kind in KINDS:
                with pytest.raises(RefreshFailed) as raised:
                    await answered(kind, shop.call(kind, channel=channel))
                assert isinstance(raised.value, grpc.aio.AioRpcError)
                assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


@kinds
async def test_a_call_that_is_refused_twice_has_its_status(kind: str) -> None:
    async def refusing(request: Any, context: Any) -> None:
        attempts.append(1)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "whoever you are")

    attempts: list[int] = []
    async with Shop() as shop:
        shop.serve(kind, refusing)
        _, auth = await shop.client()
        async with shop.connect_with(auth) as channel:
            call = shop.call(kind, channel=channel)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await responses(kind, call, [])
            assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert raised.value.details() == "whoever you are"
            assert await status(call) == (grpc.StatusCode.UNAUTHENTICATED, "whoever you are")
        assert len(attempts) == 2
        assert shop.exchanges == 1


@kinds
@pytest.mark.parametrize("challenge", ["Bearer", 'Bearer error="insufficient_user_authentication", max_age="300"'])
async def test_no_token_is_spent_where_another_would_not_help(kind: str, challenge: str) -> None:
    async def refusing(request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "not this login", ((CHALLENGE, challenge),))

    async with Shop() as shop:
        shop.serve(kind, refusing)
        _, auth = await shop.client()
        async with shop.connect_with(auth) as channel:
            assert await status(shop.call(kind, channel=channel)) == (grpc.StatusCode.UNAUTHENTICATED, "not this login")
        assert shop.exchanges == 0


@kinds
async def test_other_errors_are_no_reason_to_try_again(kind: str) -> None:
    async def refusing(request: Any, context: Any) -> None:
        attempts.append(1)
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "never")

    attempts: list[int] = []
    async with Shop() as shop:
        shop.serve(kind, refusing)
        _, auth = await shop.client()
        async with shop.connect_with(auth) as channel:
            assert await status(shop.call(kind, channel=channel)) == (grpc.StatusCode.PERMISSION_DENIED, "never")
        assert attempts == [1]
        assert shop.exchanges == 0


@pytest.mark.parametrize("kind", [SERVER, BOTH])
async def test_a_stream_that_was_answered_is_never_made_again(kind: str) -> None:
    async def ending(request: Any, context: Any) -> AsyncIterator[bytes]:
        attempts.append(1)
        yield b"first"
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "over", ((CHALLENGE, 'Bearer error="invalid_token"'),))

    attempts: list[int] = []
    async with Shop() as shop:
        shop.serve_all()
        shop.serve(kind, ending)
        _, auth = await shop.client()
        async with shop.connect_with(auth) as channel:
            call = shop.call(kind, channel=channel)
            assert await call.read() == b"first"
            with pytest.raises(grpc.aio.AioRpcError, match="over"):
                await call.read()
            assert await status(call) == (grpc.StatusCode.UNAUTHENTICATED, "over")
            assert attempts == [1]
            assert shop.exchanges == 0
            # The next call need not try that token.
            assert await shop.call(UNARY, channel=channel) == b"ada:"
            assert shop.exchanges == 1


async def test_a_live_stream_ends_with_its_session_and_the_next_call_says_that_it_is_over() -> None:
    async with Shop() as shop:
        shop.serve_all()
        session_id, auth = await shop.client()
        async with shop.connect_with(auth) as channel:
            call = shop.call(BOTH, channel=channel)
            await call.write(b"a")
            assert await call.read() == b"ada:a"
            assert len(shop.sessions.connections) == 1
            await shop.sessions.end(session_id, "logged out")
            assert await status(call) == (grpc.StatusCode.UNAUTHENTICATED, "session ended: logged out")
            with pytest.raises(SessionOver):
                await shop.call(UNARY, channel=channel)


async def test_requests_that_were_sent_before_the_refusal_are_sent_again_in_order() -> None:
    async def numbers() -> AsyncIterator[bytes]:
        for number in range(20):
            yield str(number).encode()
            if number == 3:
                await refused.wait()

    refused = asyncio.Event()
    async with Shop() as shop:
        shop.serve_all()
        _, auth = await shop.client()
        shop.clock.advance(301)
        shop.exchange_gate = refused  # set only when the first attempt has sent all that it can
        async with shop.connect_with(auth) as channel:
            call = shop.call(BOTH, numbers(), channel=channel)
            while not shop.exchanges:
                await asyncio.sleep(0.001)
            refused.set()
            assert [answer async for answer in call] == [f"ada:{number}".encode() for number in range(20)]
            summed = shop.call(CLIENT, iter([b"1", b"2"]), channel=channel)
            assert await summed == b"ada:1,2"


async def test_a_stream_that_has_sent_too_much_to_be_sent_again_is_left_refused() -> None:
    async def refusing(requests: AsyncIterator[bytes], context: Any) -> bytes:
        seen = [request async for request in requests]
        assert len(seen) == MOST + 1
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "too late", ((CHALLENGE, 'Bearer error="invalid_token"'),))
        raise AssertionError

    async with Shop() as shop:
        shop.serve_all()
        shop.serve(CLIENT, refusing)
        _, auth = await shop.client()
        async with shop.connect_with(auth) as channel:
            call = shop.call(CLIENT, iter([b""] * (MOST + 1)), channel=channel)
            with pytest.raises(grpc.aio.AioRpcError, match="too late"):
                await call
            assert shop.exchanges == 0
            assert await shop.call(UNARY, channel=channel) == b"ada:"
            assert shop.exchanges == 1


@kinds
async def test_a_call_with_a_credential_of_its_own_is_left_alone(kind: str) -> None:
    async with Shop() as shop:
        shop.serve_all()
        _, auth = await shop.client()
        async with shop.connect_with(auth) as channel:
            call = shop.call(kind, channel=channel, metadata=[("authorization", "Bearer x.y.z")])
            assert (await status(call))[0] is grpc.StatusCode.UNAUTHENTICATED
        assert shop.exchanges == 0


@kinds
async def test_a_deadline_holds_for_both_tries_together(kind: str) -> None:
    async with Shop() as shop:
        shop.serve_all()
        _, auth = await shop.client()
        shop.clock.advance(301)
        shop.exchange_gate = asyncio.Event()
        async with shop.connect_with(auth) as channel:
            call = shop.call(kind, channel=channel, timeout=0.2)
            asyncio.get_running_loop().call_later(0.3, shop.exchange_gate.set)
            assert (await status(call))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        assert shop.served == []


@kinds
async def test_a_call_that_is_cancelled_leaves_nothing_behind(kind: str) -> None:
    async def blocking(request: Any, context: Any) -> Any:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()

    async with Shop() as shop:
        shop.serve(kind, blocking)
        _, auth = await shop.client()
        for away in (False, True):
            begun, gone = asyncio.Event(), asyncio.Event()
            async with shop.connect_with(auth) as channel:
                call = shop.call(kind, channel=channel)
                await begun.wait()
                assert not call.done()
                assert not call.cancelled()
                if not away:
                    call.cancel()
                    assert await call.code() is grpc.StatusCode.CANCELLED
            await asyncio.wait_for(gone.wait(), 5)
            del call
        while len(shop.sessions.connections):
            await asyncio.sleep(0.001)


async def test_what_is_known_of_a_call_is_that_of_the_try_that_counts() -> None:
    @require_login()
    async def handler(request: bytes, context: Any) -> AsyncIterator[bytes]:
        await context.send_initial_metadata((("hint", "first"),))
        yield b"answer"
        context.set_trailing_metadata((("hint", "last"),))

    async with Shop() as shop:
        shop.serve(SERVER, handler)
        _, auth = await shop.client()
        shop.clock.advance(301)
        done = asyncio.Event()
        async with shop.connect_with(auth) as channel:
            call = shop.call(SERVER, channel=channel)
            call.add_done_callback(lambda _: done.set())
            assert (await call.initial_metadata())["hint"] == "first"
            assert [answer async for answer in call] == [b"answer"]
            assert (await call.trailing_metadata())["hint"] == "last"
            assert await call.debug_error_string() is not None
            await call.wait_for_connection()
            await asyncio.wait_for(done.wait(), 5)
            assert call.done()


async def test_tokens_travel_in_plain_text_only_when_told_so() -> None:
    async with Shop() as shop:
        shop.serve_all()
        _, auth = await shop.client()
        # TLS by default, which the server here does not speak.
        async with token_channel(f"127.0.0.1:{shop.port}", auth, options=NO_PROXY) as channel:
            call = shop.call(UNARY, channel=channel, timeout=5)
            assert (await status(call))[0] is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(UsageError, match="leave one of them out"):
            token_channel("localhost:1", auth, insecure=True, credentials=grpc.local_channel_credentials())


async def test_a_refusal_that_meets_a_request_on_its_way_is_no_internal_error() -> None:
    # grpc.aio's own clients see INTERNAL in some of these.
    async with Shop() as shop:
        shop.serve_all()
        session_id, auth = await shop.client()
        async with shop.connect_with(auth) as channel:
            for _ in range(20):
                shop.clock.advance(301)
                for kind in (CLIENT, BOTH):
                    assert await answered(kind, shop.call(kind, channel=channel)) == EXPECTED[kind]
            assert shop.exchanges == 20
            await shop.sessions.end(session_id)
            for _ in range(20):
                for kind in (CLIENT, BOTH):
                    with pytest.raises(SessionOver):
                        await answered(kind, shop.call(kind, channel=channel))
