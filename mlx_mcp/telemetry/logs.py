"""
Log lines, and jobs as log lines. Never what was asked or answered.

Modules log with the standard library; structlog makes lines of it, and adds whose job and request they are about.
"""

import logging
import os
import sys
from datetime import datetime
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from mlx_mcp.state.jobs import Job, Refusal, Status, current_job
from mlx_mcp.telemetry.tracebacks import format_traceback

logger = logging.getLogger("mlx_mcp.jobs")

OURS = "mlx_mcp"
NOT_FIELDS = ("message", "asctime")
"""What another handler's formatter leaves on a record."""
LEVELS = {Status.FAILED: logging.ERROR, Status.EXPIRED: logging.WARNING, Status.INTERRUPTED: logging.WARNING}


class _Stderr(logging.StreamHandler[TextIO]):
    """To whatever stderr is by then: a progress bar takes its place, to keep itself below the lines."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return


def configure_logging(level: str = "info", json: bool | None = None) -> None:
    """
    Our own lines from that level on and the libraries' warnings, to stderr: stdout may be the wire.

    Libraries never say more than that, whatever the level: at finer ones some write down whole messages.

    Args:
        level: debug, info, warning or error.
        json: An object a line, or lines for people; None decides by whether stderr is a terminal.
    """
    terminal = sys.stderr.isatty()
    as_json = not terminal if json is None else json
    handler = _Stderr()
    handler.setFormatter(build_formatter(json=as_json, colors=terminal and "NO_COLOR" not in os.environ))
    root = logging.getLogger()
    for former in [each for each in root.handlers if isinstance(each, _Stderr)]:
        root.removeHandler(former)
    root.addHandler(handler)
    ours = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(ours, logging.WARNING))
    logging.getLogger(OURS).setLevel(ours)
    structlog.configure(  # for libraries that use it: by default it prints, and to stdout
        processors=[structlog.stdlib.add_logger_name, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def build_formatter(*, json: bool, colors: bool = False) -> logging.Formatter:
    render: list[Processor]
    if json:
        render = [structlog.processors.TimeStamper(fmt="iso"), structlog.processors.JSONRenderer()]
    else:
        console = structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0, sort_keys=False)
        render = [structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False), _drop_logger, console]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name],
        processors=[
            structlog.stdlib.add_log_level,
            _on_one_line,
            _add_fields,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.ExceptionRenderer(format_traceback),
            *render,
        ],
    )


def _drop_logger(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if str(event["logger"]).startswith(OURS):
        del event["logger"]
    return event


def _on_one_line(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    said = str(event["event"]).strip()
    if event["logger"] == "asyncio":  # below the first line are the texts of exceptions and the arguments of calls
        said = said.partition("\n")[0]
    event["event"] = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in said)
    return event


def _add_fields(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """What our own code gave as `extra`, and the job that is being worked on."""
    if str(event["logger"]).startswith(OURS):
        structlog.stdlib.ExtraAdder()(logger, "", event)
        for name in NOT_FIELDS:
            event.pop(name, None)
    job = current_job.get(None)
    for name, value in (fields_of(job) if job else {}).items():
        event.setdefault(name, value)
    return event


def fields_of(news: Job | Refusal) -> dict[str, Any]:
    """Whose line it is."""
    known = {
        "job_id": news.id if isinstance(news, Job) else None,
        "request_id": news.request_id,
        "door": news.door.value,
        "model": news.model,
    }
    return {name: value for name, value in known.items() if value is not None}


def log_job(news: Job | Refusal) -> None:
    """An observer: one line when a job ends or a request is refused, and at debug level one for each step before."""
    match news:
        case Refusal():
            level, said, more = logging.INFO, "refused", {"code": news.error.code}
        case Job(ended=True):
            level, said, more = LEVELS.get(news.status, logging.INFO), news.status.value, _summary(news)
        case _:
            level, said, more = logging.DEBUG, "speaks" if news.first_token_at else news.status.value, {}
    if logger.isEnabledFor(level):
        logger.log(level, "%s %s", news.kind.value, said, extra=fields_of(news) | more)


def _summary(job: Job) -> dict[str, Any]:
    usage = job.usage
    facts = {
        "total_s": _since(job.created_at, job.finished_at),
        "wait_s": _since(job.created_at, job.started_at),
        "first_token_s": _since(job.created_at, job.first_token_at),
        "prompt_tokens": usage and usage.prompt_tokens,
        "cached_tokens": usage and usage.cached_tokens,
        "completion_tokens": usage and usage.completion_tokens,
        "finish_reason": job.finish_reason,
        "code": job.error_code,
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _since(beginning: datetime, end: datetime | None) -> float | None:
    return round((end - beginning).total_seconds(), 3) if end else None
