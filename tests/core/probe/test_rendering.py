"""The report on a terminal, as a page and as JSON: readable, whole, and harmless whatever a server says of itself."""

import json
import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema_rs
import msgspec
import pytest
from rich.console import Console

from coatcheck.probe import Report, report_schema
from coatcheck.probe.findings import Finding
from coatcheck.probe.notes import VersionNotes
from coatcheck.probe.page import render_html
from coatcheck.probe.set_cookie import CookieReport, Remark
from coatcheck.probe.svg import timeline_svg
from coatcheck.probe.tables import connection_table, detail_table
from coatcheck.probe.terminal import render_terminal
from coatcheck.probe.timeline import lay_out
from tests.core.probe.samples import NO_SESSION, connection, kept, notes, report, request, usual, websocket

ROOT = Path(__file__).parents[3]
HOSTILE = "<script>alert(1)</script>\x1b[2J[bold]\u202e&\"'"


def shown(made: Report, width: int = 100, **console: Any) -> str:
    out = StringIO()
    render_terminal(made, Console(file=out, width=width, **console))
    return out.getvalue()


def hostile() -> Report:
    cookie = CookieReport(
        name=HOSTILE,
        session_like=True,
        set_over=("h1.1",),
        bytes=10,
        lifetime_s=None,
        secure=False,
        http_only=False,
        same_site=HOSTILE,
        domain=None,
        path=None,
        level="warn",
        remarks=(Remark(attribute="Domain", verdict="warn", words=HOSTILE),),
    )
    finding = Finding(level="warn", code="x", title=HOSTILE, words=HOSTILE)
    return report(
        {"h1.1": (notes(alt_svc=HOSTILE), [kept("h1.1")]), "h2": (VersionNotes(failure=HOSTILE, via="ALPN"), [])},
        server=HOSTILE,
        cookies=(cookie,),
        session=msgspec.structs.replace(NO_SESSION, words=HOSTILE, known_again="yes", cookies=(HOSTILE,)),
        websockets={"h1.1": websocket(close_reason=HOSTILE), "h2": websocket(spoken=False, failure=HOSTILE)},
        url=f"https://example.com/{HOSTILE}",
        findings=(finding,),
    )


def test_the_table_says_in_figures_what_tutorials_say_in_adjectives() -> None:
    rows = {row[0]: row[1:] for row in connection_table(report()).rows}
    assert rows["HTTP/1.0"] == ("5", "–", "no cookie", "5.0 ms", "2.0 ms", "–", "90", "at once")
    assert rows["HTTP/1.1"] == ("1", "3", "no cookie", "5.0 ms", "2.0 ms", "2.0 ms", "90 → 90", "–")
    assert rows["HTTP/2"][:2] == ("1", "1") and rows["HTTP/2"][6] == "40 → 8"
    assert rows["HTTP/3"][7] == "60 s (says)"
    details = {row[0]: row[1:] for row in detail_table(report()).rows}
    assert details["HTTP/3"] == (
        "alt-svc",
        "1.3, resumed in 3.0 ms",
        "5 requests and more",
        "3 of 100 allowed",
        "us: close frame ×1",
        "survives a new port and address",
    )


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_terminal_of_any_width_gets_the_whole_report(width: int) -> None:
    text = shown(report(), width)
    assert all(len(line) <= width for line in text.splitlines())
    for word in (
        "HTTP/1.0",
        "HTTP/3",
        "idle" if width >= 80 else "once",
        "One after the other",
        "All at once",
        "No findings.",
    ):
        assert word in text
    assert "Nothing is amiss." in " ".join(text.replace("│", " ").split())


def test_the_timeline_shows_each_connections_handshake_and_requests() -> None:
    picture = lay_out(report().timeline, "in turn")
    assert [group.version for group in picture.groups] == ["h1.0", "h1.1", "h2", "h3"]
    assert [len(group.lanes) for group in picture.groups] == [5, 1, 1, 1]
    (lane,) = picture.groups[1].lanes
    assert (lane.begin, lane.ready, len(lane.bars), lane.rows) == (0.0, 5.0, 5, 1)
    assert lane.end == picture.span - max(0, picture.span - lane.end)


def test_each_version_begins_at_zero_and_waiting_between_connections_is_left_out() -> None:
    traces = [connection(n, "h1.0", 1000.0 * n, [request(n, 1000.0 * n + 5)]) for n in (1, 2, 3)]
    picture = lay_out(traces, "in turn")
    assert [lane.begin for lane in picture.groups[0].lanes] == [0.0, 7.0, 14.0]
    assert picture.span == 21.0


def test_requests_at_once_on_one_connection_have_rows_of_their_own() -> None:
    (lane,) = lay_out(report().timeline, "at once").groups[1].lanes
    assert [bar.row for bar in lane.bars] == [0, 1, 2] and lane.rows == 3


def test_requests_that_failed_are_drawn_as_such() -> None:
    traces = [connection(1, "h1.1", 0.0, [request(1, 5.0), request(2, 8.0, None, failure="reset")])]
    made = report({"h1.1": (notes(), traces)})
    assert "×" in shown(made)
    assert 'class="failed"' in timeline_svg(lay_out(traces, "in turn"))


def test_the_picture_is_well_formed_and_names_each_bar() -> None:
    svg = timeline_svg(lay_out(report().timeline, "in turn"))
    root = ElementTree.fromstring(svg)
    titles = [each.text for each in root.iter("title")]
    assert "Connection 1: handshake 5.0 ms, ended by the server (FIN)" in titles
    assert "Request 1: 2.0 ms, 200" in titles
    assert ElementTree.fromstring(timeline_svg(lay_out((), "in turn"))) is not None


class _Page(HTMLParser):
    """Which elements and attributes a page has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "path", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "rect"):
            assert self.open.pop() == tag


def test_the_page_is_whole_loads_nothing_and_runs_nothing() -> None:
    page = _Page(render_html(report()))
    assert page.open == []
    tags = {tag for tag, _ in page.seen}
    assert not tags & {"script", "link", "img", "iframe", "object", "form"}
    for tag, attributes in page.seen:
        assert not any(name.startswith("on") or name == "src" for name in attributes), tag
        if "href" in attributes:
            assert (attributes["href"] or "").startswith("https://www.rfc-editor.org/")


def test_what_a_server_says_is_text_everywhere() -> None:
    made = hostile()
    assert _Page(render_html(made)).open == []
    assert "<script" not in render_html(made)
    assert "\x1b" not in render_html(made) and "\u202e" not in render_html(made)
    text = shown(made, force_terminal=False)
    assert "\x1b" not in text and "\u202e" not in text
    assert "[bold]" in text  # it is not taken for markup
    coloured = shown(made, force_terminal=True, color_system="truecolor")
    assert "\x1b[2J" not in coloured


def test_an_interrupted_report_says_so() -> None:
    made = report(complete=False)
    assert "Interrupted: what is known so far" in shown(made)
    assert "interrupted" in render_html(made)
    nothing = report({}, complete=False, answer="Over none of the HTTP versions came an answer.", timeline=())
    assert "came an answer" in shown(nothing) and "came an answer" in render_html(nothing)


def test_a_version_that_is_not_spoken_says_why_in_place_of_figures() -> None:
    measured = {**usual(), "h3": (VersionNotes(failure="nothing listens on UDP port 443", via="direct"), [])}
    made = report(measured)  # type: ignore[arg-type]
    assert "nothing listens on UDP port 443" in " ".join(shown(made, 200).split())
    assert re.search(r"colspan='\d+'>nothing listens on UDP port 443", render_html(made))


def test_json_fits_its_schema_and_comes_back_as_it_was() -> None:
    validator = jsonschema_rs.validator_for(report_schema())
    for made in (report(), hostile(), report({}, timeline=(), complete=False)):
        text = made.to_json()
        validator.validate(json.loads(text))
        assert msgspec.json.decode(text, type=Report) == made


def test_the_schema_in_the_documentation_is_the_one_of_the_code() -> None:
    written = json.loads((ROOT / "docs/reference/probe.schema.json").read_text())
    assert written == json.loads(json.dumps(report_schema())), (
        "write what report_schema() gives into docs/reference/probe.schema.json"
    )


def test_every_field_of_the_report_is_explained() -> None:
    page = (ROOT / "docs/reference/probe.md").read_text()
    schema = report_schema()
    unsaid = {
        field
        for definition in schema["$defs"].values()
        for field in definition.get("properties", {})
        if f"`{field}`" not in page
    }
    assert unsaid == set()
