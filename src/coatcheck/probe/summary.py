"""What a trace amounts to: counts and medians for each version. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from coatcheck.probe.facts import (
    AtOnce,
    Closing,
    Handshake,
    HeaderBytes,
    KeepAlive,
    Migration,
    Resumption,
    Streams,
    TlsOfVersion,
    VersionReport,
)
from coatcheck.probe.notes import VersionNotes
from coatcheck.probe.options import Version
from coatcheck.probe.trace import ClosedBy, ConnectionTrace, How, RequestTrace
from coatcheck.probe.words import printable

__all__ = ["summarise"]


def summarise(version: Version, name: str, notes: VersionNotes, trace: Iterable[ConnectionTrace]) -> VersionReport:
    """One version's report, from what was noted and what happened."""
    mine = [each for each in trace if each.version == version]
    in_turn = [each for each in mine if each.purpose == "in turn"]
    at_once = [each for each in mine if each.purpose == "at once"]
    spoken = notes.answered is not None
    firsts = [each.requests[0] for each in in_turn if each.requests]
    laters = [request for each in in_turn for request in each.requests[1:]]
    full = [each for each in in_turn if not each.resumed]
    return VersionReport(
        name=name,
        spoken=spoken,
        failure=notes.failure,
        via=notes.via,
        answered=notes.answered,
        status=notes.status,
        requests=sum(len(each.requests) for each in in_turn),
        connections=len(in_turn),
        requests_sent=sum(len(each.requests) for each in mine if each.purpose != "websocket"),
        handshake_ms=_median(each.handshake_ms for each in full),
        handshake=_handshake(full) if spoken else None,
        first_request_ms=_median(request.milliseconds for request in firsts),
        request_ms=_median(request.milliseconds for request in laters),
        headers=_headers(firsts, laters),
        tls=_tls(notes),
        keep_alive=_keep_alive(version, notes, in_turn) if spoken else None,
        streams=_streams(version, notes, at_once or in_turn) if spoken else None,
        at_once=_at_once(notes, at_once),
        closings=_closings(each for each in mine if each.purpose != "resumption" and each.requests),
        migration=_migration(notes),
        alt_svc=notes.alt_svc and printable(notes.alt_svc),
        kept_unasked=notes.kept_unasked,
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(median(known), 3) if known else None


def _handshake(connections: Sequence[ConnectionTrace]) -> Handshake:
    return Handshake(
        tcp_ms=_median(each.tcp_ms for each in connections),
        tls_ms=_median(each.tls_ms for each in connections),
        quic_ms=_median(each.quic_ms for each in connections),
    )


def _headers(firsts: Sequence[RequestTrace], laters: Sequence[RequestTrace]) -> HeaderBytes | None:
    answered = [request for request in firsts if request.status is not None]
    if not answered:
        return None
    first = answered[0]
    later = [request for request in laters if request.status is not None]
    return HeaderBytes(
        request_plain=first.plain_header_bytes,
        request_first=first.request_header_bytes,
        request_later=_whole(request.request_header_bytes for request in later),
        response_first=first.response_header_bytes,
        response_later=_whole(request.response_header_bytes for request in later),
    )


def _whole(values: Iterable[int]) -> int | None:
    middle = _median(values)
    return None if middle is None else round(middle)


def _tls(notes: VersionNotes) -> TlsOfVersion | None:
    if notes.tls_version is None:
        return None
    tried = notes.resumption
    return TlsOfVersion(
        version=notes.tls_version,
        cipher=notes.cipher,
        resumption=Resumption(
            offered=bool(tried.offered), accepted=tried.accepted, handshake_ms=_median([tried.handshake_ms])
        )
        if tried.offered is not None
        else None,
    )


def _keep_alive(version: Version, notes: VersionNotes, connections: Sequence[ConnectionTrace]) -> KeepAlive:
    carried = [sum(request.status is not None for request in each.requests) for each in connections]
    most = max(carried, default=0)
    total = sum(carried)
    said = notes.keep_alive_header
    if version == "h1.0":
        honoured = notes.keep_alive_kept
    else:
        honoured = most > 1 if total > 1 else None
    return KeepAlive(
        honoured=honoured,
        announced_s=notes.announced_idle_s if said is None else said.timeout_s,
        waited_s=notes.idle_waited_s,
        closed_after_s=notes.idle_closed_after_s,
        announced_requests=said.most_requests if said else None,
        requests_allowed=None if version == "h1.0" else _allowed(connections),
        most_requests=most,
        unannounced=notes.unannounced,
        lost_requests=notes.lost_requests,
    )


def _allowed(connections: Sequence[ConnectionTrace]) -> int | None:
    """After how many requests the server closes: if it did so again and again after the same number."""
    counts = Counter(
        sum(request.status is not None for request in each.requests)
        for each in connections[:-1]  # the last one was still good, or too young to tell
    )
    if not counts:
        return None
    number, times = counts.most_common(1)[0]
    return number if number > 0 and times >= (sum(counts.values()) + 1) // 2 else None


def _streams(version: Version, notes: VersionNotes, connections: Sequence[ConnectionTrace]) -> Streams | None:
    if version not in ("h2", "h3"):
        return None
    refused = notes.refused_streams
    most = max((each.most_streams for each in connections), default=0)
    return Streams(announced=notes.announced_streams, reached=max(most - refused, 0), refused=refused)


def _at_once(notes: VersionNotes, connections: Sequence[ConnectionTrace]) -> AtOnce | None:
    if not notes.at_once_asked or notes.at_once_ms is None:
        return None
    ends = [request.ended_ms for each in connections for request in each.requests if request.ended_ms is not None]
    began = min((each.opened_ms for each in connections), default=0.0)
    return AtOnce(
        requests=notes.at_once_asked,
        answered=notes.at_once_answered,
        connections=len(connections),
        took_ms=round(max(ends) - began if ends else notes.at_once_ms, 3),
    )


def _closings(connections: Iterable[ConnectionTrace]) -> tuple[Closing, ...]:
    counts = Counter[tuple[ClosedBy, How, int | None, str | None]](
        (each.closed_by, each.how, each.code, each.reason)
        for each in connections
        if each.closed_by is not None and each.how is not None
    )
    return tuple(
        Closing(by=by, how=how, code=code, reason=reason, count=number)
        for (by, how, code, reason), number in counts.most_common()
    )


def _migration(notes: VersionNotes) -> Migration | None:
    moved = notes.migration
    return None if moved is None else Migration(forbidden=moved.forbidden, port=moved.port, address=moved.address)
