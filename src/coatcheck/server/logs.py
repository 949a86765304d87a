"""Turns every log line of this process, ours and the libraries', into one form: for people or for machines.

Promises that no traceback shows the values of variables: passwords stand in them. Leaves what is logged to everybody else.
"""

import logging
import sys
from collections.abc import Sequence
from typing import Literal

import structlog

__all__ = ["configure_logging"]


class _ToStderr(logging.Handler):
    """Writes to what is standard error now, not to what it was when logging was set up."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


def configure_logging(form: Literal["console", "json"], *, level: int = logging.INFO) -> None:
    """Log to standard error in this form from now on, from `level` upwards. May be called again."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = _ToStderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_last(form)],
            foreign_pre_chain=[*shared, structlog.stdlib.PositionalArgumentsFormatter()],
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


def _last(form: Literal["console", "json"]) -> Sequence[structlog.typing.Processor]:
    # structlog's own choices for tracebacks show local variables.
    if form == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=True)]
    colours = sys.stderr.isatty()
    return [structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback)]
