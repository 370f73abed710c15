"""Jobs as log lines. Never what was asked or answered."""

import logging
import sys
from typing import TextIO

from mlx_mcp.state.jobs import Job, Status

logger = logging.getLogger("mlx_mcp.jobs")

LEVELS = {Status.FAILED: logging.ERROR, Status.EXPIRED: logging.WARNING, Status.INTERRUPTED: logging.WARNING}


class _Stderr(logging.StreamHandler[TextIO]):
    """To whatever stderr is by then: a progress bar takes its place, to keep itself below the lines."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return


def configure_logging(level: int = logging.INFO) -> None:
    """Our own lines and the libraries' warnings, to stderr: stdout may be the wire."""
    line = "%(asctime)s %(levelname)-7s %(message)s"
    logging.basicConfig(handlers=[_Stderr()], level=logging.WARNING, format=line, datefmt="%H:%M:%S")
    logging.getLogger("mlx_mcp").setLevel(level)


def log_job(job: Job) -> None:
    """An observer: one line when a job ends."""
    if not job.ended:
        return
    end = job.finished_at or job.created_at
    parts = [job.id, job.door, job.kind, job.model, job.status, f"{(end - job.created_at).total_seconds():.2f} s"]
    if job.usage:
        parts.append(f"{job.usage.prompt_tokens}+{job.usage.completion_tokens} tokens")
    if job.error_code:
        parts.append(job.error_code)
    logger.log(LEVELS.get(job.status, logging.INFO), "  ".join(parts))
