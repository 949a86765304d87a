"""Turns every log line of this process, ours and the libraries', into one form: for people or for machines.

Promises that no traceback shows the values of variables: passwords stand in them. Leaves what is logged to everybody
else, who needs no more than the standard library's `logging`; what stands in `extra` becomes a field of its own.
"""

import logging
import sys
from collections.abc import Sequence
from typing import Literal

import structlog

__all__ = ["configure_logging"]


_TALKATIVE = ("uvicorn", "websockets")
"""At DEBUG they write down whole handshakes, cookies included; whoever turns everything up does not want that."""


class _ToStderr(logging.Handler):
    """Writes to what is standard error now, not to what it was when logging was set up."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


def configure_logging(form: Literal["console", "json"], *, level: int = logging.INFO) -> None:
    """Log to standard error in this form from now on: ours from `level` upwards, others' from warnings. May be called again."""
    handler = _ToStderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_last(form)],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        # What was there by default, or from the call before; a test's own handlers stay.
        if type(old) in (_ToStderr, logging.StreamHandler):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("coatcheck").setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def _last(form: Literal["console", "json"]) -> Sequence[structlog.typing.Processor]:
    # structlog's own choices for tracebacks show local variables.
    if form == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=True)]
    return [
        _one_line,
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,
            pad_event_to=0,
            sort_keys=False,
        ),
    ]


def _one_line(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Show control characters instead of obeying them: what clients sent must not look like lines of ours."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in value)
    return event
