"""The report as one HTML file that one would send to a colleague: no scripts, nothing loaded, light and dark, wide and narrow.

Leaves what is said to `tables` and `findings`, the picture to `svg`. Everything that came from outside is escaped.
"""

from html import escape

from coatcheck.probe.findings import Finding
from coatcheck.probe.report import Report
from coatcheck.probe.style import STYLE
from coatcheck.probe.svg import timeline_svg
from coatcheck.probe.tables import (
    Column,
    Table,
    connection_caption,
    connection_table,
    cookie_table,
    detail_table,
    no_websockets,
    session_table,
    websocket_table,
)
from coatcheck.probe.timeline import lay_out
from coatcheck.probe.words import count, printable, seconds_in_words

__all__ = ["render_html"]

_RFC = "https://www.rfc-editor.org/rfc/rfc"
_GLOSSARY = (
    (
        "handshake",
        "What two machines must say to each other before the first request: TCP opens the line (one round trip), TLS"
        " agrees on keys and shows the certificate (one more, two before TLS 1.3). QUIC does both in one.",
        "8446#section-2",
        "RFC 8446",
    ),
    (
        "keep-alive",
        "The connection stays open after a response, for the next request. The default since HTTP/1.1.",
        "9112#section-9.3",
        "RFC 9112",
    ),
    (
        "stream",
        "HTTP/2 and 3 carry many requests on one connection at the same time, each on a stream of its own.",
        "9113#section-5",
        "RFC 9113",
    ),
    (
        "HPACK, QPACK",
        "Both sides keep a table of headers they have seen. From the second request on, a header that has not changed is a"
        " number of one byte or two in place of its text.",
        "7541",
        "RFC 7541",
    ),
    (
        "resumption",
        "A client that comes back shows a ticket from last time; the server need not send its certificate again.",
        "8446#section-2.2",
        "RFC 8446",
    ),
    (
        "session",
        "What a server remembers of you between requests. It hangs on a cookie, not on the connection, so it should be the"
        " same over every version, connection and network.",
        "6265",
        "RFC 6265",
    ),
)


def render_html(report: Report) -> str:
    """The whole file."""
    parts = [
        _head(report),
        _answer(report),
        *_connections(report),
        *_timeline(report),
        *_websockets(report),
        *_session(report),
        _findings(report.findings),
        _glossary(),
        _foot(report),
    ]
    body = "\n".join(part for part in parts if part)
    title = f"{_text(report.url)}: connections and sessions"
    return (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        # Nothing is loaded and nothing runs, whatever a server may have put into its answers.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    return escape(printable(text))


def _head(report: Report) -> str:
    where = [report.address.ip] if report.address else []
    if report.server:
        where.append(f"calls itself {report.server}")
    where.append(report.started_at.replace("T", " ").replace("+00:00", " UTC"))
    redirected = ""
    if report.requested_url != report.url:
        redirected = f"<p class='quiet'>redirected from {_text(report.requested_url)}</p>"
    return (
        f"<header><p class='eyebrow'>coatcheck probe</p><h1>{_text(report.url)}</h1>"
        f"<p class='quiet'>{_text(' · '.join(where))}</p>{redirected}</header>"
    )


def _answer(report: Report) -> str:
    title = "Does it make a new connection every time?"
    if not report.complete:
        title += " (interrupted: what was known by then)"
    return f"<section class='answer'><h2>{_text(title)}</h2><p>{_text(report.answer)}</p></section>"


def _connections(report: Report) -> list[str]:
    if not report.versions:
        return []
    return [
        f"<section><h2>Version, session, connection</h2><p class='quiet'>{_text(connection_caption(report))}</p>",
        _table(connection_table(report), "measured"),
        _table(detail_table(report)),
        "</section>",
    ]


def _timeline(report: Report) -> list[str]:
    parts: list[str] = []
    for run, title in (("in turn", "One after the other"), ("at once", "All at once")):
        picture = lay_out(report.timeline, "in turn" if run == "in turn" else "at once")
        if picture.groups:
            parts.append(f"<h3>{title}</h3><div class='scroll'>{timeline_svg(picture)}</div>")
    if not parts:
        return []
    legend = (
        "<p class='legend'><span class='key shake'></span>handshake <span class='key request'></span>request"
        " <span class='key failed'></span>failed <span class='quiet'>a line for each connection; point at a bar for"
        " its figures</span></p>"
    )
    return ["<section><h2>What happened</h2>", legend, *parts, "</section>"]


def _websockets(report: Report) -> list[str]:
    if not report.websockets:
        return []
    if not any(facts.spoken for facts in report.websockets.values()):
        return [f"<section><h2>WebSockets</h2><p>{_text(no_websockets(report))}</p></section>"]
    return ["<section><h2>WebSockets</h2>", _table(websocket_table(report)), "</section>"]


def _session(report: Report) -> list[str]:
    parts = [f"<section><h2>The session on top</h2><p>{_text(report.session.words)}</p>"]
    if report.session.known_again != "not tried":
        parts.append(_table(session_table(report)))
    if report.cookies:
        parts.append(_table(cookie_table(report), "cookies"))
    if report.caching is not None:
        parts.append(f"<p>{_text(report.caching.words)}</p>")
    return [*parts, "</section>"]


def _findings(findings: tuple[Finding, ...]) -> str:
    if not findings:
        return "<section><h2>Findings</h2><p>None.</p></section>"
    return f"<section><h2>Findings</h2>{''.join(_finding(finding) for finding in findings)}</section>"


def _finding(finding: Finding) -> str:
    mends = ""
    if finding.mends:
        lines = "".join(
            f"<li>{f'<b>{_text(mend.where)}</b> ' if mend.where else ''}<code>{_text(mend.what)}</code></li>"
            for mend in finding.mends
        )
        mends = f"<details><summary>What to change</summary><ul>{lines}</ul></details>"
    return (
        f"<article class='finding {finding.level}'><h3><span class='level'>{finding.level}</span>"
        f" {_text(finding.title)}</h3><p>{_text(finding.words)}</p>{mends}</article>"
    )


def _glossary() -> str:
    terms = "".join(
        f"<dt>{escape(term)}</dt><dd>{escape(words)} <a href='{_RFC}{path}' rel='noreferrer'>{name}</a></dd>"
        for term, words, path, name in _GLOSSARY
    )
    return f"<section><h2>The words</h2><dl>{terms}</dl></section>"


def _foot(report: Report) -> str:
    sent = f"{count(report.requests_sent, 'request')} over {count(report.connections_opened, 'connection')}"
    return (
        f"<footer><p>{_text(report.program)} sent {sent} in {seconds_in_words(round(report.took_s, 1))}, none but"
        f" {report.settings.method} and WebSocket handshakes. Times hold its own work, which is most over HTTP/3: compare"
        " within a version rather than between them. Values of cookies and queries are left out.</p></footer>"
    )


def _table(table: Table, kind: str = "") -> str:
    heads = "".join(_heading(column) for column in table.columns)
    rows = "".join(
        f"<tr{' class=dim' if dim else ''}>{_row(table.columns, row)}</tr>"
        for row, dim in zip(table.rows, table.dim, strict=True)
    )
    return (
        f"<div class='scroll'><table class='{kind}'><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _heading(column: Column) -> str:
    title = f" title='{escape(column.means)}'" if column.means else ""
    return f"<th scope='col'{title}{' class=number' if column.numbers else ''}>{_text(column.title)}</th>"


def _row(columns: tuple[Column, ...], row: tuple[str, ...]) -> str:
    cells = [f"<th scope='row'>{_text(row[0])}</th>"]
    # What is not spoken says why, over the width of what it has no figures for.
    if len(row) > 2 and not any(row[2:]):
        return f"{cells[0]}<td colspan='{len(row) - 1}'>{_text(row[1])}</td>"
    for column, cell in zip(columns[1:], row[1:], strict=True):
        verdict = f" verdict-{cell}" if column.title == "verdict" else ""
        kind = ("number" if column.numbers else "") + verdict
        cells.append(f"<td{f' class={chr(34)}{kind.strip()}{chr(34)}' if kind else ''}>{_text(cell)}</td>")
    return "".join(cells)
