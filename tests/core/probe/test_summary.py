"""Counts and medians from a trace: each figure from the requests it is meant to be of."""

from coatcheck.probe.notes import VersionNotes, read_keep_alive
from tests.core.probe.samples import connection, each_new, kept, notes, request, usual, version_report


def test_requests_in_turn_and_at_once_are_counted_apart() -> None:
    version = version_report("h1.1", *usual()["h1.1"])
    assert (version.requests, version.connections, version.requests_sent) == (5, 1, 8)
    assert version.at_once is not None
    assert (version.at_once.requests, version.at_once.connections, version.at_once.took_ms) == (3, 3, 10.0)
    assert (version.handshake_ms, version.first_request_ms, version.request_ms) == (5.0, 2.0, 2.0)
    assert version.new_connection_ms == 7.0


def test_where_nothing_was_reused_there_is_no_figure_for_it() -> None:
    version = version_report("h1.0", *usual()["h1.0"])
    assert version.request_ms is None
    assert version.headers is not None and version.headers.request_later is None
    assert version.reuse == "each new"


def test_a_resumed_handshake_is_not_counted_among_the_full_ones() -> None:
    traces = [kept("h2"), connection(2, "h2", 90.0, purpose="resumption", resumed=True, ready_ms=91.0)]
    assert version_report("h2", notes(), traces).handshake_ms == 5.0


def test_after_how_many_requests_a_server_closes_is_told_when_it_does_so_again_and_again() -> None:
    def carrying(*requests: int) -> int | None:
        traces = [
            connection(
                number, "h1.1", 10.0 * number, [request(each, 10.0 * number + 5 + each) for each in range(carried)]
            )
            for number, carried in enumerate(requests)
        ]
        keep = version_report("h1.1", notes(), traces).keep_alive
        assert keep is not None
        return keep.requests_allowed

    assert carrying(5, 5, 5, 5) == 5
    assert carrying(20) is None
    assert carrying(5, 2) == 5
    assert carrying(3, 7, 4, 6) is None
    assert carrying(1, 1, 1) == 1


def test_one_request_on_each_connection_is_keep_alive_refused() -> None:
    keep = version_report("h1.1", notes(), each_new("h1.1")).keep_alive
    assert keep is not None and keep.honoured is False
    keep = version_report("h1.1", notes(), each_new("h1.1", requests=1)).keep_alive
    assert keep is not None and keep.honoured is None  # one request tells nothing


def test_failed_requests_are_sent_but_not_measured() -> None:
    traces = [connection(1, "h1.1", 0.0, [request(1, 5.0), request(2, 8.0, None, failure="reset")])]
    version = version_report("h1.1", notes(), traces)
    assert version.requests == 2 and version.request_ms is None
    assert version.keep_alive is not None and version.keep_alive.most_requests == 1


def test_what_is_not_spoken_has_no_figures() -> None:
    version = version_report("h2", VersionNotes(failure="not spoken", via="ALPN"), [connection(1, "h2", 0.0)])
    assert not version.spoken and version.reuse == "unknown"
    assert version.keep_alive is None and version.headers is None and version.streams is None


def test_ends_are_counted_by_who_and_how() -> None:
    traces = [*each_new("h1.1", 3), kept("h1.1", 9)]
    closings = version_report("h1.1", notes(), traces).closings
    assert [(closing.by, closing.how, closing.count) for closing in closings] == [
        ("server", "FIN", 3),
        ("us", "FIN", 1),
    ]


def test_keep_alive_headers_are_read_or_ignored() -> None:
    header = read_keep_alive("timeout=5, max=1000")
    assert header is not None and (header.timeout_s, header.most_requests) == (5, 1000)
    header = read_keep_alive("Timeout = 7")
    assert header is not None and header.timeout_s == 7
    for nonsense in (None, "", "max", "timeout=soon", "timeout=-1", "x=1", "timeout=99999999999999999999"):
        assert read_keep_alive(nonsense) is None
