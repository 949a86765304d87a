"""What the probe finds out about connections, against servers of which the truth is known."""

from pathlib import Path
from typing import Any

from h2.errors import ErrorCodes

from coatcheck.probe import probe
from tests.clients.odd_servers import OK, Asked, Then, http1, http2


def codes(report: object) -> set[str]:
    return {finding.code for finding in report.findings}  # type: ignore[attr-defined]


async def test_http10_opens_twenty_connections_for_twenty_requests_and_11_opens_one() -> None:
    async with http1() as site:
        report = await probe(site.url, only=("h1.0", "h1.1"), concurrency=1)
    old, new = report.versions["h1.0"], report.versions["h1.1"]
    assert (old.requests, old.connections, old.reuse) == (20, 20, "each new")
    assert (new.requests, new.connections, new.reuse) == (20, 1, "one")
    assert report.answer.startswith("No: over HTTP/1.1 one connection carried all 20 requests.")


async def test_what_is_counted_is_what_the_server_saw_and_nothing_but_get_is_sent() -> None:
    async with http1() as site:
        report = await probe(site.url, requests=7, concurrency=3, only=("h1.0", "h1.1"))
    assert {asked.head.split(b" ")[0] for asked in site.asked} == {b"GET"}
    by_version = {True: 0, False: 0}
    for asked in site.asked:
        by_version[asked.http10] += 1
    assert by_version == {True: 10, False: 10}  # 7 in turn, 3 at once
    assert [report.versions[version].requests_sent for version in ("h1.0", "h1.1")] == [10, 10]
    assert report.connections_opened == site.connections


async def test_with_a_concurrency_of_one_no_version_gets_more_than_it_may() -> None:
    async with http1() as site:
        await probe(site.url, requests=5, concurrency=1, only=("h1.1",), idle=0.1)
    assert len(site.asked) == 5


async def test_head_is_sent_where_that_was_asked_for() -> None:
    def answer(asked: Asked) -> tuple[bytes, Then]:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", "keep"

    async with http1(answer) as site:
        report = await probe(site.url, requests=3, only=("h1.1",), head=True)
    assert {asked.head.split(b" ")[0] for asked in site.asked} == {b"HEAD"}
    assert report.versions["h1.1"].connections == 1


async def test_a_server_that_closes_after_each_is_found_out() -> None:
    def answer(asked: Asked) -> tuple[bytes, Then]:
        return OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1), "close"

    async with http1(answer) as site:
        report = await probe(site.url, requests=6, only=("h1.1",))
    version = report.versions["h1.1"]
    assert (version.connections, version.keep_alive and version.keep_alive.honoured) == (6, False)
    assert "keep-alive-refused" in codes(report) and report.fails("problem")
    assert report.answer.startswith("Yes: over HTTP/1.1 every request gets a new connection, 6 connections for 6")


async def test_a_server_that_closes_after_five_requests_is_found_out() -> None:
    def answer(asked: Asked) -> tuple[bytes, Then]:
        if asked.request == 5:
            return OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1), "close"
        return OK, "keep"

    async with http1(answer) as site:
        report = await probe(site.url, only=("h1.1",), concurrency=1)
    keep = report.versions["h1.1"].keep_alive
    assert keep is not None
    assert (report.versions["h1.1"].connections, keep.requests_allowed, keep.unannounced) == (4, 5, 0)


async def test_one_that_closes_without_a_word_is_found_out_and_its_requests_are_sent_again() -> None:
    def answer(asked: Asked) -> tuple[bytes, Then]:
        # It reads the fourth request, and then closes: the worst moment for a client.
        return (b"", "close") if asked.request == 4 else (OK, "keep")

    async with http1(answer) as site:
        report = await probe(site.url, requests=12, only=("h1.1",), concurrency=1)
    keep = report.versions["h1.1"].keep_alive
    assert keep is not None
    assert (keep.requests_allowed, keep.lost_requests) == (3, 3)
    assert report.versions["h1.1"].failure is None
    assert "closes-unannounced" in codes(report)
    assert len(site.asked) == 12  # those that were lost count, too


async def test_who_ends_a_connection_and_how_is_told() -> None:
    def answer(asked: Asked) -> tuple[bytes, Then]:
        return OK, "reset" if asked.http10 else "keep"

    async with http1(answer) as site:
        report = await probe(site.url, requests=4, only=("h1.0", "h1.1"), concurrency=1)
    (reset,) = report.versions["h1.0"].closings
    assert (reset.by, reset.how, reset.count) == ("server", "RST", 4)
    (ours,) = report.versions["h1.1"].closings
    assert (ours.by, ours.how) == ("us", "FIN")
    assert "reset" in codes(report)


async def test_http10_that_stays_open_unasked_is_noticed_and_so_is_one_that_is_kept_on_request() -> None:
    def stubborn(asked: Asked) -> tuple[bytes, Then]:
        return OK, "keep"

    def polite(asked: Asked) -> tuple[bytes, Then]:
        if asked.header("connection") == "keep-alive":
            return OK.replace(b"\r\n", b"\r\nConnection: keep-alive\r\n", 1), "keep"
        return OK, "close"

    async with http1(stubborn) as site:
        version = (await probe(site.url, requests=4, only=("h1.0",), concurrency=1)).versions["h1.0"]
        assert version.kept_unasked is True and version.connections == 4
    async with http1(polite) as site:
        version = (await probe(site.url, requests=4, only=("h1.0",), concurrency=1)).versions["h1.0"]
        assert version.kept_unasked is False
        assert version.keep_alive is not None and version.keep_alive.honoured is True


async def test_an_idle_time_out_is_measured_and_compared_with_what_is_announced() -> None:
    def answer(asked: Asked) -> tuple[bytes, Then]:
        return OK.replace(b"\r\n", b"\r\nKeep-Alive: timeout=5, max=100\r\n", 1), "keep"

    async with http1(answer, idle=0.7) as site:
        report = await probe(site.url, requests=3, only=("h1.1",), idle=5)
    keep = report.versions["h1.1"].keep_alive
    assert keep is not None and keep.closed_after_s is not None
    assert abs(keep.closed_after_s - 0.7) < 0.5
    assert (keep.announced_s, keep.announced_requests) == (5, 100)
    assert {"short-idle", "idle-earlier-than-announced"} <= codes(report)


async def test_one_that_does_not_close_is_waited_for_no_longer_than_told() -> None:
    async with http1() as site:
        report = await probe(site.url, requests=2, only=("h1.1",), idle=0.4)
    keep = report.versions["h1.1"].keep_alive
    assert keep is not None and keep.closed_after_s is None
    assert keep.waited_s is not None and 0.4 <= keep.waited_s < 3


async def test_an_http2_server_that_allows_three_streams_is_found_out() -> None:
    async with http2(announce=3, hold=0.02) as site:
        report = await probe(site.url, only=("h2",))
    version = report.versions["h2"]
    assert version.via == "prior knowledge"
    assert version.streams is not None and version.at_once is not None
    assert (version.streams.announced, version.streams.reached, version.streams.refused) == (3, 3, 0)
    assert (version.at_once.answered, version.at_once.connections) == (10, 1)
    assert "few-streams" in codes(report)


async def test_one_that_announces_nothing_and_refuses_the_fourth_is_found_out() -> None:
    async with http2(announce=None, accept=3, hold=0.1) as site:
        report = await probe(site.url, only=("h2",))
    streams = report.versions["h2"].streams
    assert streams is not None
    assert (streams.announced, streams.reached, streams.refused) == (None, 3, 7)
    assert "streams-refused" in codes(report)


async def test_a_goodbye_is_heeded_counted_and_told_from_an_error() -> None:
    async with http2(goaway_after=5) as site:
        report = await probe(site.url, only=("h2",), concurrency=1)
    version = report.versions["h2"]
    assert version.connections == site.connections - 1 == 4  # the first one only found the server
    assert version.keep_alive is not None
    assert (version.keep_alive.requests_allowed, version.keep_alive.unannounced) == (5, 0)
    assert {(closing.by, closing.how, closing.code) for closing in version.closings} == {("server", "GOAWAY", 0)}
    async with http2(goaway_after=5, code=ErrorCodes.ENHANCE_YOUR_CALM) as site:
        report = await probe(site.url, requests=6, only=("h2",), concurrency=1)
    assert "closed-with-error" in codes(report)


async def test_headers_that_came_before_cost_next_to_nothing_over_http2() -> None:
    cookies = (("session", "x" * 200),)
    async with http2() as site:
        headers = (
            (await probe(site.url, requests=5, only=("h2",), cookies=cookies, concurrency=1)).versions["h2"].headers
        )
    assert headers is not None and headers.request_later is not None
    assert headers.request_plain > 300
    assert headers.request_first > 150
    assert headers.request_later < 20


async def test_over_http1_headers_cost_what_they_cost_each_time() -> None:
    async with http1() as site:
        headers = (await probe(site.url, requests=3, only=("h1.1",), concurrency=1)).versions["h1.1"].headers
    assert headers is not None
    assert headers.request_first == headers.request_later == headers.request_plain == len(site.asked[0].head)
    assert headers.response_first == headers.response_later == len(OK) - len("hi\n")


async def test_a_server_that_fails_in_a_crowd_is_found_out() -> None:
    waiting: list[Asked] = []

    def answer(asked: Asked) -> tuple[bytes, Then]:
        waiting.append(asked)
        # The first connection is that of the requests in turn.
        return (b"", "reset") if asked.connection > 4 else (OK, "keep")

    async with http1(answer) as site:
        report = await probe(site.url, requests=5, only=("h1.1",))
    at_once = report.versions["h1.1"].at_once
    assert at_once is not None
    assert (at_once.requests, at_once.answered) == (5, 2)  # one found the server, one was for those in turn
    assert "at-once-failed" in codes(report)


async def test_the_example_in_the_reference_works_as_it_stands() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/probe.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "probe.md", "exec"), names)
    async with http1() as site:
        assert await names["connections"](site.url) == 1
