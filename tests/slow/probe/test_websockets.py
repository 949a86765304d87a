"""WebSockets that are cut off in the middle: what the probe says of them, and that it goes on."""

import base64
import hashlib
from typing import Literal

import pytest

from coatcheck.probe import probe
from tests.clients.odd_servers import Asked, Then, http1, http2


@pytest.mark.parametrize("how", ["reset", "end"])
async def test_over_http2_one_that_is_cut_off_at_the_first_ping(how: Literal["reset", "end"]) -> None:
    async with http2(websocket=how) as site:
        report = await probe(site.url, only=("ws",), idle=0.2)
    facts = report.websockets["h2"]
    assert facts.spoken and facts.pongs == 0
    assert (facts.closed_by, facts.close_code) == ("server", 1006)
    assert "websocket-cut" in {finding.code for finding in report.findings}


async def test_over_http1_one_that_is_accepted_wrongly() -> None:
    def answer(asked: Asked) -> tuple[bytes, Then]:
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        return head + b"Sec-WebSocket-Accept: AAAA\r\n\r\n", "keep"

    async with http1(answer) as site:
        report = await probe(site.url.replace("http", "ws"), only=("ws",))
    assert "Sec-WebSocket-Accept" in (report.websockets["h1.1"].failure or "")
    assert report.answer.startswith("No WebSocket was accepted")


async def test_over_http1_one_that_talks_nonsense_in_the_same_breath_as_its_acceptance() -> None:
    def answer(asked: Asked) -> tuple[bytes, Then]:
        key = (asked.header("sec-websocket-key") or "").encode()
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        # A frame of a kind that does not exist.
        return head + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n\x8f\x00", "close"

    async with http1(answer) as site:
        report = await probe(site.url, only=("ws",))
    facts = report.websockets["h1.1"]
    assert facts.spoken and "breaks WebSocket" in (facts.failure or "")
    assert (facts.closed_by, facts.close_code) == ("us", 1002)
    assert report.fails("problem")
