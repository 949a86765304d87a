"""The report's tables as rows of text, for whichever renderer shows them. Pure."""

from collections.abc import Callable
from typing import NamedTuple

from coatcheck.probe.facts import Closing, VersionReport
from coatcheck.probe.report import Report
from coatcheck.probe.sessions import Known
from coatcheck.probe.words import count, joined, milliseconds, seconds_in_words

__all__ = [
    "Column",
    "Table",
    "connection_caption",
    "connection_table",
    "cookie_table",
    "detail_table",
    "no_websockets",
    "session_table",
    "websocket_table",
]

NOTHING = "–"
_WEBSOCKET_NAMES = {"h1.1": "HTTP/1.1", "h2": "HTTP/2", "h3": "HTTP/3"}


class Column(NamedTuple):
    """One column: its heading, and what stands in it, for who has not read the specifications."""

    title: str
    means: str = ""
    numbers: bool = False


class Table(NamedTuple):
    """Rows of text under headings. A row may be dim: what it tells of is not there."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    dim: tuple[bool, ...]


def connection_table(report: Report) -> Table:
    """The table that every tutorial draws, with measured figures in place of adjectives."""
    many, at_once = report.settings.requests, min(report.settings.requests, report.settings.concurrency)
    columns = (
        Column("", "The version of HTTP."),
        Column(
            f"{many} in turn",
            "Connections that it took to send so many requests one after the other.",
            True,
        ),
        Column(f"{at_once} at once", "Connections that it took to send so many together.", True),
        Column("session", "Whether the session's cookie was known again over this version."),
        Column("handshake", "What a new connection costs before it can carry a request: TCP and TLS, or QUIC.", True),
        Column("first request", "The first request on a new connection, behind the handshake.", True),
        Column("later ones", "A request on a connection that is open already.", True),
        Column(
            "header bytes",
            "What a request's header section took on the wire: the first, and each later one. HTTP/2 and 3 name what they"
            " have sent before by a number (HPACK, QPACK).",
        ),
        Column("idle end", "When the server closes a connection on which nothing happens."),
    )
    rows = [_connection_row(report, key, version) for key, version in report.versions.items()]
    return Table(columns, tuple(rows), tuple(not version.spoken for version in report.versions.values()))


def connection_caption(report: Report) -> str:
    """What the first figures of that table are."""
    many, at_once = report.settings.requests, min(report.settings.requests, report.settings.concurrency)
    together = f", and for {at_once} at once" if at_once > 1 else ""
    return f"Connections for {count(many, 'request')} in turn{together}; what a connection and a request cost:"


def _connection_row(report: Report, key: str, version: VersionReport) -> tuple[str, ...]:
    if not version.spoken:
        return (version.name, "not spoken", *[""] * 7)
    headers = version.headers
    sent = NOTHING
    if headers is not None:
        sent = str(headers.request_first)
        if headers.request_later is not None:
            sent += f" → {headers.request_later}"
    return (
        version.name,
        _opened(version),
        str(version.at_once.connections) if version.at_once else NOTHING,
        _known(report.session.survives_version.get(key, "not tried"), bool(report.session.cookies)),
        _ms(version.handshake_ms),
        _ms(version.first_request_ms),
        _ms(version.request_ms),
        sent,
        _idle(version, report.settings.idle_s),
    )


def _opened(version: VersionReport) -> str:
    allowed = version.keep_alive.requests_allowed if version.keep_alive else None
    return f"{version.connections}" + (f" ({allowed} each)" if allowed and allowed > 1 else "")


def _known(known: Known, cookies: bool) -> str:
    if not cookies:
        return "no cookie"
    return {"yes": "known", "no": "NOT known", "cannot tell": "cannot tell", "not tried": NOTHING}[known]


def _ms(value: float | None) -> str:
    return NOTHING if value is None else milliseconds(value)


def _idle(version: VersionReport, idle: float | None) -> str:
    keep = version.keep_alive
    if keep is None:
        return NOTHING
    if keep.closed_after_s is not None:
        return seconds_in_words(round(keep.closed_after_s, 1))
    if version.name == "HTTP/1.0" and not keep.honoured and not version.kept_unasked:
        return "at once"
    if keep.announced_s is not None:
        return f"{seconds_in_words(keep.announced_s)} (says)"
    # Without --idle nobody waited for it.
    return f"> {seconds_in_words(idle)}" if idle is not None else NOTHING


def detail_table(report: Report) -> Table:
    """What else was found out about each version's connections."""
    columns = (
        Column("", "The version of HTTP."),
        Column("found by", "How a client comes to speak it."),
        Column("TLS", "Its version, and whether a later connection can take up the session of an earlier one."),
        Column("kept open", "Whether and for how many requests a connection is kept."),
        Column("at once on one", "Requests open at the same time on one connection, and how many the server allows."),
        Column(
            "ended by",
            "Who ended how many connections, and how: FIN is a proper end, RST throws away what is under way, GOAWAY is"
            " HTTP/2's announcement of it, TLS close a goodbye that waits for ours, and QUIC has a close frame.",
        ),
        Column("moves", "Whether the connection goes on when the client's port or address changes (QUIC only)."),
    )
    rows: list[tuple[str, ...]] = []
    for version in report.versions.values():
        if not version.spoken:
            rows.append((version.name, version.failure or "not spoken", *[""] * 5))
            continue
        rows.append(
            (
                version.name,
                version.via or NOTHING,
                _tls(version),
                _kept(version),
                _streams(version),
                ", ".join(_closing(each) for each in version.closings) or NOTHING,
                _moves(version),
            )
        )
    return Table(columns, tuple(rows), tuple(not version.spoken for version in report.versions.values()))


def _tls(version: VersionReport) -> str:
    if version.tls is None:
        return "none"
    name = version.tls.version.replace("TLSv", "")
    resumption = version.tls.resumption
    if resumption is None:
        return name
    if resumption.accepted and resumption.handshake_ms is not None:
        return f"{name}, resumed in {milliseconds(resumption.handshake_ms)}"
    return f"{name}, {'not resumed' if resumption.offered else 'no session offered'}"


def _kept(version: VersionReport) -> str:
    keep = version.keep_alive
    if keep is None or keep.honoured is None:
        return NOTHING
    if version.name == "HTTP/1.0":
        return "if asked to" if keep.honoured else "no"
    if not keep.honoured:
        return "no"
    if keep.requests_allowed is not None:
        return f"for {count(keep.requests_allowed, 'request')}"
    return f"{keep.most_requests} requests and more"


def _streams(version: VersionReport) -> str:
    streams = version.streams
    if streams is None:
        return "1"
    allowed = "no limit announced" if streams.announced is None else f"of {streams.announced} allowed"
    refused = f", {streams.refused} refused" if streams.refused else ""
    return f"{streams.reached} {allowed}{refused}"


def _closing(closing: Closing) -> str:
    who = {"server": "server", "us": "us", "both": "itself, idle"}[closing.by]
    code = f" {closing.code:#x}" if closing.code else ""
    how = {"CONNECTION_CLOSE": "close frame", "close_notify": "TLS close", "idle time-out": ""}.get(
        closing.how, closing.how
    )
    return f"{who}{': ' if how else ''}{how}{code} ×{closing.count}"


def _moves(version: VersionReport) -> str:
    moved = version.migration
    if moved is None:
        return NOTHING
    said = {True: "survives", False: "does not survive", None: "not tried"}
    if moved.port == moved.address:
        return f"{said[moved.port]} a new port and address"
    address = "forbidden" if moved.forbidden and moved.address is None else said[moved.address]
    return f"port: {said[moved.port]}; address: {address}"


def websocket_table(report: Report) -> Table:
    """WebSockets over each version that carries them."""
    columns = (
        Column("WebSocket over", "RFC 6455 over HTTP/1.1, RFC 8441 over HTTP/2, RFC 9220 over HTTP/3."),
        Column("answer", "What the handshake was answered."),
        Column("upgrade", "From the handshake's request to its answer, on an open connection.", True),
        Column("ping", "From a ping to its pong.", True),
        Column("closed by", "Who said goodbye first, with which code, and whether the other answered."),
    )
    rows: list[tuple[str, ...]] = []
    dim: list[bool] = []
    for version, facts in report.websockets.items():
        if _silent(report, version):
            continue  # the tables before this one say so
        dim.append(not facts.spoken)
        if not facts.spoken:
            rows.append((_WEBSOCKET_NAMES.get(version, version), facts.failure or "not accepted", "", "", ""))
            continue
        closed = NOTHING
        if facts.closed_by is not None:
            who = "the server" if facts.closed_by == "server" else "us"
            answered = {True: ", answered", False: ", not answered", None: ""}[facts.close_answered]
            closed = f"{who}, {facts.close_code}{answered}"
            if facts.idle_closed_after_s is not None:
                closed += f", after {seconds_in_words(round(facts.idle_closed_after_s, 1))} idle"
        rows.append(
            (
                _WEBSOCKET_NAMES.get(version, version),
                f"accepted ({facts.status})",
                _ms(facts.upgrade_ms),
                _ms(facts.ping_ms),
                closed,
            )
        )
    return Table(columns, tuple(rows), tuple(dim))


def no_websockets(report: Report) -> str:
    """One line where no WebSocket was accepted over any version."""
    by_reason: dict[str, list[str]] = {}
    for version, facts in report.websockets.items():
        if not _silent(report, version):
            by_reason.setdefault(facts.failure or "not accepted", []).append(_WEBSOCKET_NAMES.get(version, version))
    reasons = [f"over {joined(versions)}: {reason}" for reason, versions in by_reason.items()]
    over = f" ({'; '.join(reasons)})" if reasons else ""
    return f"No WebSocket here{over}. If there is one elsewhere, name its path with --ws-path."


def _silent(report: Report, version: str) -> bool:
    return version in report.versions and not report.versions[version].spoken


def session_table(report: Report) -> Table:
    """What becomes of the session, question by question."""
    session = report.session
    asked: list[tuple[str, Known]] = [
        ("Does the cookie make a difference?", session.known_again),
        ("Is it known on a new connection?", session.survives_connection),
        ("Is it known from another client address?", session.survives_address),
        ("Is an id that nobody issued taken for one?", session.adopts_made_up),
    ]
    columns = (Column("the session"), Column("answer"))
    shown: Callable[[Known], str] = str
    return Table(columns, tuple((question, shown(known)) for question, known in asked), (False,) * len(asked))


def cookie_table(report: Report) -> Table:
    """Every remark on every cookie."""
    columns = (Column("cookie"), Column("attribute"), Column("verdict"), Column("why"))
    rows: list[tuple[str, ...]] = []
    for cookie in report.cookies:
        for number, remark in enumerate(cookie.remarks):
            rows.append((cookie.name if number == 0 else "", remark.attribute, remark.verdict, remark.words))
    return Table(columns, tuple(rows), (False,) * len(rows))
