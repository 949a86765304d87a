"""What a verifier makes of the feed: when it believes it, what it takes for a gap, and what it does with nonsense."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from coatcheck.testing import ManualClock
from coatcheck.tokens import AccessClaims, IssuerUnavailable
from coatcheck.tokens.revocations import CLOCKS, STREAM, FeedBroken, RevocationReader, Revocations
from coatcheck.tokens.sse import ServerSentEvent

SID = "A" * 22


def claims(iat: float, *, sid: str = SID, sub: str = "ada", gen: int = 2) -> AccessClaims:
    return AccessClaims(iss="i", sub=sub, aud=("a",), exp=iat + 300, iat=iat, jti="j", sid=sid, gen=gen)


def sse(kind: str, id: str = "", /, **data: Any) -> bytes:
    return (f"id: {id}\n" if id else "").encode() + f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


class Stage:
    """A reader whose streams are written down beforehand, each piece bytes or seconds that pass."""

    def __init__(self, *streams: list[bytes | float], most: int = 1000) -> None:
        self.clock = ManualClock()
        self.revocations = Revocations(max_staleness=2.0, clock=self.clock, most=most)
        self.reader = RevocationReader(self.revocations, self._open, self.clock, sleep=self._sleep)
        self.streams = list(streams)
        self.asked: list[str] = []
        self.slept: list[float] = []

    @asynccontextmanager
    async def _open(self, last_id: str, *, silence: float) -> AsyncIterator[AsyncIterator[bytes]]:
        self.asked.append(last_id)
        yield self._pieces(self.streams.pop(0))

    async def _pieces(self, pieces: list[bytes | float]) -> AsyncIterator[bytes]:
        for piece in pieces:
            if isinstance(piece, bytes):
                yield piece
            else:
                self.clock.advance(piece)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if not self.streams:
            raise KeyboardInterrupt  # the play is over

    async def play(self) -> "Stage":
        with pytest.raises(KeyboardInterrupt):
            await self.reader.run()
        return self


NOW = ManualClock().time()
BEGIN = sse("begin", since=NOW - 100, token_lifetime=300)


def beat(confirmed: float = 0.0, at: float = NOW) -> bytes:
    return sse("heartbeat", str(int(at * 1000)), confirmed=confirmed)


async def test_nothing_is_live_before_the_first_heartbeat() -> None:
    stage = await Stage([BEGIN]).play()
    assert not stage.revocations.live
    stage = await Stage([BEGIN, beat()]).play()
    assert stage.revocations.live


async def test_the_lease_runs_from_when_the_request_was_sent_whatever_held_the_answer_back() -> None:
    # Sent at 0, and the answer's first 1.5 seconds come after 3: what ended 1.5 seconds ago may still be on the way.
    stage = await Stage([3.0, BEGIN, beat(0.0) + beat(0.5) + beat(1.0)]).play()
    assert not stage.revocations.live
    stage = await Stage([3.0, BEGIN, beat(0.0) + beat(0.5) + beat(1.5)]).play()
    assert stage.revocations.live
    stage.clock.advance(0.5)
    assert not stage.revocations.live


async def test_heartbeats_that_confirm_nothing_new_prolong_nothing() -> None:
    stage = await Stage([BEGIN, beat(0.0), 1.0, beat(0.0), 1.0, beat(0.0)]).play()
    assert not stage.revocations.live


async def test_a_feed_that_stays_too_late_is_opened_again() -> None:
    stage = await Stage([4.0, BEGIN, beat(0.0)], [BEGIN, beat()]).play()
    assert len(stage.asked) == 2
    assert stage.revocations.live


async def test_a_heartbeat_from_the_future_is_not_believed() -> None:
    stage = await Stage([BEGIN, beat(60.0)]).play()
    assert not stage.revocations.live


async def test_a_machine_that_was_suspended_believes_nothing_until_it_hears_something() -> None:
    stage = await Stage([BEGIN, beat()]).play()
    stage.clock.step(3600)  # only the wall clock went on
    assert not stage.revocations.live


async def test_no_stream_is_read_for_ever() -> None:
    stage = await Stage([BEGIN, beat(), STREAM + 1, beat(STREAM), beat(STREAM + 1)], [BEGIN]).play()
    assert len(stage.asked) == 2


async def test_only_tokens_from_before_the_feed_are_in_doubt() -> None:
    stage = await Stage([BEGIN, beat()]).play()
    assert stage.revocations.needs(claims(NOW - 100 + CLOCKS)) > 0
    assert stage.revocations.needs(claims(NOW - 100 + CLOCKS + 1)) == 0


async def test_a_stream_that_goes_on_where_the_last_one_was_confirmed_leaves_no_doubt() -> None:
    going_on = sse("begin", since=NOW, token_lifetime=300)
    stage = await Stage([BEGIN, beat()], [going_on, beat()]).play()
    assert stage.asked == ["", str(int(NOW * 1000))]
    assert stage.revocations.needs(claims(NOW - 90)) == 0


@pytest.mark.parametrize("kind", ["begin", "reset"])
async def test_a_stream_that_begins_later_leaves_all_before_in_doubt(kind: str) -> None:
    later = sse(kind, since=NOW + 1, token_lifetime=300)
    stage = await Stage([BEGIN, beat()], [later, beat()]).play()
    assert stage.revocations.needs(claims(NOW)) > 0
    assert stage.revocations.needs(claims(NOW + 1 + CLOCKS + 1)) == 0


async def test_a_stream_that_goes_further_back_is_believed_once_it_has_told_what_it_promised() -> None:
    first = [sse("begin", since=NOW, token_lifetime=300), beat(0.0)]
    stage = await Stage(first, [sse("reset", since=NOW - 100, token_lifetime=300)]).play()
    assert not stage.revocations.live
    stage = await Stage(first, [sse("reset", since=NOW - 100, token_lifetime=300), beat(0.0)]).play()
    assert stage.revocations.live
    assert stage.revocations.needs(claims(NOW)) == 0


async def test_a_stream_that_was_cut_before_its_heartbeat_confirmed_nothing() -> None:
    half = sse("heartbeat", str(int((NOW + 50) * 1000)), confirmed=0.0)[:-1]
    stage = await Stage([BEGIN, beat(), half], [BEGIN]).play()
    assert stage.asked == ["", str(int(NOW * 1000))]


async def test_sessions_that_ended_are_remembered_for_as_long_as_their_tokens_live() -> None:
    others = [sse("ended", sid=f"{number:022}", at=NOW + 421) for number in range(1)]
    stage = await Stage([BEGIN, sse("ended", sid=SID, at=NOW), beat(), 419.0, *others]).play()
    assert stage.revocations.revoked(claims(NOW))
    stage = await Stage([BEGIN, sse("ended", sid=SID, at=NOW), beat(), 421.0, *others]).play()
    assert not stage.revocations.revoked(claims(NOW))
    assert stage.revocations.needs(claims(NOW)) == 0


async def test_too_many_to_remember_are_a_gap_for_tokens_from_then() -> None:
    ended = [sse("ended", sid=f"{number:022}", at=NOW + number) for number in range(20)]
    stage = await Stage([BEGIN, *ended, beat()], most=10).play()
    assert stage.revocations.revoked(claims(NOW + 10, sid=f"{10:022}"))
    forgotten = claims(NOW + 9, sid=f"{9:022}")
    assert not stage.revocations.revoked(forgotten)
    assert stage.revocations.needs(forgotten) > 0
    assert stage.revocations.needs(claims(NOW + 9 + CLOCKS + 1)) == 0


async def test_generations_only_rise() -> None:
    changes = [sse("generation", sid=SID, gen=gen, at=NOW) for gen in (3, 5, 4)]
    stage = await Stage([BEGIN, *changes, beat()]).play()
    assert [stage.revocations.revoked(claims(NOW, gen=gen)) for gen in (3, 4, 5, 6)] == [True, True, False, False]


async def test_a_user_in_doubt_has_only_older_tokens_in_doubt() -> None:
    stage = await Stage([BEGIN, sse("user", sub="ada", at=NOW), beat()]).play()
    assert stage.revocations.needs(claims(NOW)) > 0
    assert stage.revocations.needs(claims(NOW, sub="bob")) == 0
    assert stage.revocations.needs(claims(NOW + CLOCKS + 1)) == 0


@pytest.mark.parametrize(
    "event",
    [
        b"event: ended\ndata: {\n\n",
        b"event: ended\ndata: [1]\n\n",
        b"event: ended\ndata: null\n\n",
        b"event: ended\ndata: {}\n\n",
        b'event: ended\ndata: {"sid": 7, "at": 1}\n\n',
        b'event: ended\ndata: {"sid": "", "at": 1}\n\n',
        b'event: ended\ndata: {"sid": "x", "at": NaN}\n\n',
        b'event: ended\ndata: {"sid": "x", "at": true}\n\n',
        b'event: generation\ndata: {"sid": "x", "gen": "7", "at": 1}\n\n',
        b'event: user\ndata: {"sub": null, "at": 1}\n\n',
        b'event: reset\ndata: {"since": 1e999}\n\n',
        b"event: heartbeat\ndata: {}\n\n",
        b"event: begin\ndata: {}\n\n",
        b"event: ended\ndata: " + b"[" * 50_000 + b"\n\n",
        b"event: ended\ndata: " + b"x" * 70_000 + b"\n\n",
    ],
)
async def test_what_cannot_be_read_may_have_been_a_revocation(event: bytes) -> None:
    stage = await Stage([BEGIN, beat(), event], [sse("begin", since=NOW, token_lifetime=300), beat()]).play()
    assert stage.asked == ["", ""]  # from the start, not from where it broke
    assert stage.revocations.needs(claims(NOW - 50)) > 0


async def test_a_stream_that_begins_with_anything_else_is_broken() -> None:
    stage = Stage()
    with pytest.raises(FeedBroken):
        stage.reader.take(ServerSentEvent("ended", json.dumps({"sid": SID, "at": 1}), ""))
    stage.reader.take(ServerSentEvent("news", "whatever a newer issuer tells", ""))


async def test_it_comes_back_sooner_where_it_was_live_than_where_it_never_is() -> None:
    class Away(Stage):
        @asynccontextmanager
        async def _open(self, last_id: str, *, silence: float) -> AsyncIterator[AsyncIterator[bytes]]:
            if self.streams.pop(0):
                raise IssuerUnavailable("away")
            yield self._pieces([BEGIN, beat()])

    stage = await Away(*[[b"x"]] * 8, [], [b"x"]).play()  # type: ignore[list-item]
    assert stage.slept[0] <= 0.2
    assert all(2.5 <= seconds <= 5.0 for seconds in stage.slept[6:8])
    assert stage.slept[8] <= 0.2
