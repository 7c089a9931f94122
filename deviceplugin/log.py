"""structlog, set up once: for a person on a terminal, JSON lines for everybody else."""

from __future__ import annotations

import logging
import sys

# structlog.dev loads rich wherever it is installed: 5 MiB in every agent for coloured tracebacks.
_rich = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402

if _rich is None:
    del sys.modules["rich"]
else:
    sys.modules["rich"] = _rich

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def setup(level: str = "info", form: str = "auto") -> None:
    """`level` is one of `LEVELS`; `form` is ``console``, ``json``, or ``auto`` by the terminal."""
    pretty = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if pretty
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=not pretty),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Libraries()]
    root.setLevel(logging.WARNING)


class _Libraries(logging.Handler):
    """What libraries log through the standard library, told like everything else."""

    def emit(self, record: logging.LogRecord) -> None:
        """One event, with the library's logger as a field."""
        try:
            event = record.getMessage()
        except Exception:  # arguments that do not fit their format: say both
            event = f"{record.msg} {record.args}"
        level = min(max(10, record.levelno // 10 * 10), 50)
        structlog.get_logger().log(
            level, event, library=record.name, exc_info=record.exc_info or None
        )
