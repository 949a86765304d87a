"""Shows rows as a table on the terminal or in a pipe, and moments in words. What clients said moves no cursor there."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from coatcheck.server.printable import printable

__all__ = ["Column", "moment", "short_moment", "show_table"]

_PIPED_COLUMNS = 240


class Column(NamedTuple):
    """One column. Cells of one that does not fold stay on one line."""

    title: str
    fold: bool = False


def show_table(columns: Sequence[Column], rows: Iterable[tuple[Sequence[str], bool]]) -> None:
    """Print rows of cells; of each row also whether it is dimmed."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.title, no_wrap=not column.fold, overflow="fold")
    for cells, dimmed in rows:
        # Text: what others said is no markup.
        table.add_row(*(Text(printable(cell)) for cell in cells), style="dim" if dimmed else None)
    # In a pipe there is no width, and Rich's guess would break the lines.
    console = Console()
    (console if console.is_terminal else Console(width=_PIPED_COLUMNS)).print(table)


def moment(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339 writes them, for programs."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def short_moment(seconds: float) -> str:
    """Seconds since 1970 in local time to the minute, for people."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")
