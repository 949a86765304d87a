"""`coatcheck probe`: turns the command line into a measurement, shows how far it is, and prints what came of it."""

import asyncio
import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from coatcheck.errors import CoatcheckError
from coatcheck.probe.errors import ProbeUsageError
from coatcheck.probe.levels import Level
from coatcheck.probe.options import Options, Selection
from coatcheck.probe.page import render_html
from coatcheck.probe.prober import Prober
from coatcheck.probe.progress import OnProgress
from coatcheck.probe.progress import Progress as Step
from coatcheck.probe.report import Report, make_report
from coatcheck.probe.target import parse_target
from coatcheck.probe.terminal import render_terminal

__all__ = ["probe"]

_DEFAULT = Options()
_INTERRUPTED = 130
_PIPED_COLUMNS = 120
_JAR_FIELDS = 7


def probe(
    url: Annotated[str, typer.Argument(help="What to measure: https://…, http://…, wss://… or ws://…")],
    requests: Annotated[
        int, typer.Option(help="Requests in turn over each version, and at most as many at once.")
    ] = _DEFAULT.requests,
    concurrency: Annotated[
        int, typer.Option(help="Requests at once; 1: none, so that no version gets more than --requests.")
    ] = _DEFAULT.concurrency,
    only: Annotated[
        str, typer.Option(help="What to measure, with commas: h1.0, h1.1, h2, h3, ws (WebSockets).")
    ] = ",".join(_DEFAULT.only),
    idle: Annotated[
        float | None, typer.Option(help="Seconds to wait for the server to close idle connections. [not at all]")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Measure although the certificate cannot be trusted.")
    ] = False,
    ca: Annotated[Path | None, typer.Option(help="Certificate authorities to trust, PEM. [the system's]")] = None,
    header: Annotated[list[str] | None, typer.Option(help="'Name: value' to send; may be repeated.")] = None,
    cookie: Annotated[
        list[str] | None,
        typer.Option(help="name=value to send, or @FILE with such lines or curl's cookie jar; may be repeated."),
    ] = None,
    ws_path: Annotated[str | None, typer.Option(help="Where to try WebSockets. [the URL's own path]")] = None,
    head: Annotated[bool, typer.Option("--head", help="Send HEAD in place of GET.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Follow redirects to other hosts, too.")] = False,
    timeout: Annotated[
        float, typer.Option(help="Seconds for connecting, for each handshake, and for each response.")
    ] = _DEFAULT.timeout,
    json: Annotated[bool, typer.Option("--json", help="Print JSON; docs/reference/probe.md explains it.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write the report to this file, to look at and to send.")] = None,
    fail_on: Annotated[
        str | None, typer.Option(help="Exit with 1 on a finding of this level or worse: info, warn, problem.")
    ] = None,
) -> None:
    """Measure what a server does with connections and sessions under each version of HTTP.

    Sends nothing but GET (or HEAD) and WebSocket handshakes. Ctrl-C prints what is known by then.
    """
    try:
        level = _level(fail_on)
        options = Options(
            requests=requests,
            concurrency=concurrency,
            only=_only(only),
            idle=idle,
            insecure=insecure,
            ca=ca,
            headers=tuple(_header(each) for each in header or ()),
            cookies=tuple(pair for each in cookie or () for pair in _cookies(each, url)),
            head=head,
            follow=follow,
            websocket_path=ws_path,
            timeout=timeout,
        )
        if html is not None and not html.parent.is_dir():
            raise ProbeUsageError(f"there is no directory {html.parent} to write {html.name} into")
        report = _measure(url, options)
        if html is not None:
            _write(html, report)
    except ProbeUsageError as error:
        typer.echo(f"coatcheck: {error}", err=True)
        raise typer.Exit(2) from None
    except CoatcheckError as error:
        typer.echo(f"coatcheck: {error}", err=True)
        raise typer.Exit(1) from None
    _show(report, json)
    if html is not None:
        typer.echo(f"The report is in {html}", err=True)
    if not report.complete:
        raise typer.Exit(_INTERRUPTED)
    if level is not None and report.fails(level):
        raise typer.Exit(1)


def _measure(url: str, options: Options) -> Report:
    for noisy in ("quic", "http3"):
        # What aioquic thinks of a server is in the report; lines of it between ours help nobody.
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    with _progress() as tell:
        prober = Prober(url, options, tell)
        asyncio.run(_until_interrupted(prober))
    if not prober.complete and not prober.notes and not prober.websockets:
        typer.echo("coatcheck: interrupted before anything was measured", err=True)
        raise typer.Exit(_INTERRUPTED)
    return make_report(prober)


async def _until_interrupted(prober: Prober) -> None:
    try:
        await prober.run()
    except asyncio.CancelledError:
        pass  # Ctrl-C: what was measured by now is shown


@contextmanager
def _progress() -> Generator[OnProgress]:
    """A bar on standard error where that is a terminal, and nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def tell(step: Step) -> None:
            bar.update(task, description=step.doing, completed=step.done, total=step.total or None)

        yield tell


def _show(report: Report, json: bool) -> None:
    if json:
        sys.stdout.write(report.to_json().decode() + "\n")
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        # In a pipe there is no width; this one holds the tables unbroken.
        console = Console(highlight=False, width=_PIPED_COLUMNS)
    render_terminal(report, console)


def _write(path: Path, report: Report) -> None:
    try:
        path.write_text(render_html(report), encoding="utf-8")
    except OSError as error:
        raise CoatcheckError(f"{path} cannot be written: {error.strerror}") from None


# -- reading the command line ------------------------------------------------------------------------------------------


def _level(text: str | None) -> Level | None:
    for level in get_args(Level):
        if text == level:
            return level
    if text is None:
        return None
    raise ProbeUsageError(f"--fail-on {text}: choose from {', '.join(get_args(Level))}")


def _only(text: str) -> tuple[Selection, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    known = get_args(Selection)
    for word in words:
        if word not in known:
            raise ProbeUsageError(f"--only {word}: choose from {', '.join(known)}")
    # In the order in which they are measured, each once.
    return tuple(each for each in known if each in words)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise ProbeUsageError(f"--header {name!r}: write 'Name: value'")
    return name.strip(), value.strip()


def _cookies(text: str, url: str) -> list[tuple[str, str]]:
    """`name=value`, several with semicolons between, or `@FILE`: values on a command line are seen by others."""
    if not text.startswith("@"):
        return [_cookie(part) for part in text.split(";") if part.strip()]
    try:
        lines = Path(text[1:]).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ProbeUsageError(f"the file of cookies {text[1:]} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ProbeUsageError(f"the file of cookies {text[1:]} is no text") from None
    return [pair for line in lines if (pair := _line(line, parse_target(url).host)) is not None]


def _cookie(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ProbeUsageError("--cookie: write name=value")  # not what was written: it may be the secret
    return name.strip(), value.strip()


def _line(line: str, host: str) -> tuple[str, str] | None:
    """A line of a file of cookies: `name=value`, or curl's seven fields, of which only those for our host count."""
    line = line.removeprefix("#HttpOnly_")
    if not line.strip() or line.startswith("#"):
        return None
    fields = line.split("\t")
    if len(fields) != _JAR_FIELDS:
        return _cookie(line)
    domain, subdomains, name, value = fields[0].lstrip(".").lower(), fields[1], fields[5], fields[6]
    ours = domain == host.lower() or (subdomains == "TRUE" and host.lower().endswith("." + domain))
    return (name, value) if ours else None
