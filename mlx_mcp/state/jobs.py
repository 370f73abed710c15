"""The record of one request, and all rules about the states it passes through."""

import secrets
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum

from mlx_mcp.errors import JobCancelled, JobExpired, MlxMcpError, ShuttingDown
from mlx_mcp.types import Capability, Door, Priority, Usage


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    """Its deadline came first."""
    INTERRUPTED = "interrupted"
    """The server went down first."""


ENDS = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.EXPIRED, Status.INTERRUPTED})
NEXT: dict[Status, frozenset[Status]] = {
    Status.QUEUED: ENDS - {Status.SUCCEEDED} | {Status.RUNNING},
    Status.RUNNING: ENDS,
}
ENDED_BY: dict[type[MlxMcpError], Status] = {
    JobCancelled: Status.CANCELLED,
    JobExpired: Status.EXPIRED,
    ShuttingDown: Status.INTERRUPTED,
}
"""The status that an error leaves; any other leaves FAILED."""


def now() -> datetime:
    return datetime.now(UTC)


def new_job_id() -> str:
    return f"job_{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Strictly read-only: each change of state makes a new one."""

    id: str = field(default_factory=new_job_id)
    request_id: str | None = None
    """The caller's own name for it."""
    kind: Capability
    model: str
    door: Door
    client: str | None = None
    status: Status = Status.QUEUED
    priority: Priority = Priority.NORMAL
    created_at: datetime = field(default_factory=now)
    started_at: datetime | None = None
    first_token_at: datetime | None = None
    finished_at: datetime | None = None
    usage: Usage | None = None
    finish_reason: str | None = None
    error_code: str | None = None
    error_message: str | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDS

    def started(self) -> "Job":
        return replace(self._to(Status.RUNNING), started_at=now())

    def first_token(self) -> "Job":
        return replace(self, first_token_at=now())

    def succeeded(self, usage: Usage, finish_reason: str) -> "Job":
        done = self._to(Status.SUCCEEDED)
        return replace(done, finished_at=now(), usage=usage, finish_reason=finish_reason)

    def failed(self, error: MlxMcpError) -> "Job":
        """Ended by the error: not only FAILED, see `ENDED_BY`."""
        status = next((ENDED_BY[cls] for cls in type(error).__mro__ if cls in ENDED_BY), Status.FAILED)
        return replace(self._to(status), finished_at=now(), error_code=error.code, error_message=str(error))

    def _to(self, status: Status) -> "Job":
        assert status in NEXT.get(self.status, ()), f"a job cannot go from {self.status} to {status}"  # noqa: S101
        return replace(self, status=status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A request that did not become a job."""

    request_id: str | None = None
    """The caller's own name for it."""
    kind: Capability
    model: str | None
    """None when no model is served under the name."""
    door: Door
    error: MlxMcpError


current_job: ContextVar[Job] = ContextVar("current_job")
"""The job that the running task works on, as it was at its beginning: whatever is told meanwhile can name it."""
