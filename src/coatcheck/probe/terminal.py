"""The report on a terminal, by Rich: the answer, the table, the timeline, the findings. Leaves what they say to others."""

from rich.box import ROUNDED
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table as RichTable
from rich.text import Text

from coatcheck.probe.findings import Finding
from coatcheck.probe.levels import Level
from coatcheck.probe.mends import Mend
from coatcheck.probe.report import Report
from coatcheck.probe.tables import (
    Table,
    connection_caption,
    connection_table,
    cookie_table,
    detail_table,
    no_websockets,
    session_table,
    websocket_table,
)
from coatcheck.probe.timeline import Lane, Picture, lay_out
from coatcheck.probe.words import count, joined, milliseconds, printable

__all__ = ["render_terminal"]

_STYLES: dict[Level, str] = {"problem": "bold red", "warn": "yellow", "info": "cyan"}
_NAMES = {"h1.0": "HTTP/1.0", "h1.1": "HTTP/1.1", "h2": "HTTP/2", "h3": "HTTP/3"}
_MOST_LANES = 4
_WIDE = 100
_MOST_MENDS = 3


def render_terminal(report: Report, console: Console) -> None:
    """Print the report. What the server said is shown as text, never taken for markup."""
    console.print(_head(report))
    title = "Does it make a new connection every time?" if report.complete else "Interrupted: what is known so far"
    console.print(Panel(Text(printable(report.answer)), title=title, title_align="left", box=ROUNDED, padding=(0, 1)))
    if report.versions:
        console.print(Text(connection_caption(report), "dim"))
        console.print(_table(connection_table(report), console.width))
        console.print()
        console.print(_table(detail_table(report), console.width))
    if any(facts.spoken for facts in report.websockets.values()):
        console.print()
        console.print(_table(websocket_table(report)))
    elif report.websockets:
        console.print()
        console.print(Text(printable(no_websockets(report))))
    for picture in (lay_out(report.timeline, "in turn"), lay_out(report.timeline, "at once")):
        if picture.groups:
            console.print()
            console.print(_timeline(picture, console.width))
    console.print(Text("\nThe session", "bold"))
    console.print(_session(report))
    console.print(Text("\nFindings", "bold"))
    console.print(_findings(report.findings))
    console.print(_foot(report))


def _head(report: Report) -> Text:
    where = report.address.ip if report.address else "?"
    named = f", which calls itself {printable(report.server)}" if report.server else ""
    head = Text.assemble((printable(report.url), "bold"), f"  at {where}{named}")
    if report.requested_url != report.url:
        head.append(f"\nredirected from {printable(report.requested_url)}", "dim")
    return head


def _table(table: Table, width: int = _WIDE) -> RichTable:
    shown = RichTable(box=None, pad_edge=False, header_style="dim", padding=(0, 2 if width >= _WIDE else 1, 0, 0))
    for number, column in enumerate(table.columns):
        justify = "right" if column.numbers else "left"
        longest = max(map(len, column.title.split()), default=0)
        shown.add_column(column.title, justify=justify, overflow="fold", no_wrap=number == 0, min_width=longest)
    for row, dim in zip(table.rows, table.dim, strict=True):
        # A figure and its unit stay together.
        cells = [Text(printable(cell).replace(" ms", "\u00a0ms")) for cell in row]
        cells[0].stylize("bold")
        shown.add_row(*cells, style="dim" if dim else None)
    return shown


# -- the timeline ------------------------------------------------------------------------------------------------------


def _timeline(picture: Picture, width: int) -> RenderableType:
    columns = max(width - 34, 20)
    scale = columns / picture.span if picture.span else 0.0
    title = "One after the other" if picture.run == "in turn" else "All at once"
    lines = [Text.assemble((f"{title}, over {milliseconds(picture.span)}", "bold"), _legend())]
    for group in picture.groups:
        for number, lane in enumerate(group.lanes[:_MOST_LANES]):
            name = _NAMES.get(group.version, group.version) if number == 0 else ""
            lines.append(_lane(name, lane, scale, columns))
        more = len(group.lanes) - _MOST_LANES
        if more > 0:
            lines.append(Text(f"{'':10}… and {count(more, 'connection')} more", "dim"))
    return Group(*lines)


def _legend() -> Text:
    return Text.assemble("   ", ("▒", "yellow"), (" handshake  ", "dim"), ("█", "green"), (" requests", "dim"))


def _lane(name: str, lane: Lane, scale: float, columns: int) -> Text:
    cells = [" "] * columns

    def fill(begin: float, end: float, char: str) -> None:
        first = min(int(begin * scale), columns - 1)
        for column in range(first, max(first + 1, min(round(end * scale), columns))):
            cells[column] = char

    if lane.bars:
        fill(lane.begin, lane.bars[-1].end, "─")
    fill(lane.begin, lane.ready if lane.ready is not None else lane.end, "▒")
    for bar in lane.bars:
        fill(bar.begin, bar.end, "×" if bar.failed else "█")
    line = Text(f"{name:10}")
    for char in cells:
        line.append(char, {"▒": "yellow", "█": "green", "×": "bold red"}.get(char, "dim"))
    line.append(f" {count(len(lane.bars), 'request')}", "dim")
    return line


# -- session and findings ----------------------------------------------------------------------------------------------


def _session(report: Report) -> RenderableType:
    lines: list[RenderableType] = [Text(printable(report.session.words))]
    if report.session.known_again != "not tried":
        lines += [Text(""), _table(session_table(report))]
    if report.cookies:
        lines += [Text(""), _table(cookie_table(report))]
    if report.caching is not None:
        lines.append(Text(report.caching.words))
    return Group(*lines)


def _findings(findings: tuple[Finding, ...]) -> RenderableType:
    if not findings:
        return Text("No findings.")
    lines: list[RenderableType] = []
    for finding in findings:
        head = Text.assemble((f"{finding.level:8}", _STYLES[finding.level]), (printable(finding.title), "bold"))
        head.append(f"  {finding.code}", "dim")
        lines.append(head)
        lines.append(Padding(Text(printable(finding.words)), (0, 0, 0, 8)))
        lines += [Padding(_mend(mend), (0, 0, 0, 8)) for mend in finding.mends[:_MOST_MENDS]]
        if len(finding.mends) > _MOST_MENDS:
            others = joined(mend.where or "others" for mend in finding.mends[_MOST_MENDS:])
            lines.append(Padding(Text(f"For {others} see --html or --json.", "dim"), (0, 0, 0, 8)))
    return Group(*lines)


def _mend(mend: Mend) -> Text:
    return Text.assemble("→ ", (f"{mend.where}: " if mend.where else "", "bold"), mend.what)


def _foot(report: Report) -> Text:
    sent = count(report.requests_sent, "request")
    opened = count(report.connections_opened, "connection")
    text = f"\n{sent} over {opened} in {report.took_s:.1f} s. Times hold this program's own work, which is most over HTTP/3."
    return Text(text, "dim")
