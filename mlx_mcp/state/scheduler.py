"""From a request to its end: turns, the model, the engine, the deadline, and the record of it all."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import anyio
from anyio import AsyncContextManagerMixin
from anyio.abc import TaskGroup

from mlx_mcp.errors import EngineFailed, JobExpired, MlxMcpError, ShuttingDown, UnknownJob
from mlx_mcp.state.history import History
from mlx_mcp.state.jobs import Job, Status, current_job
from mlx_mcp.state.lane import Lane
from mlx_mcp.state.models import Model, Models
from mlx_mcp.state.results import Results
from mlx_mcp.state.task_group import task_group
from mlx_mcp.state.ticket import Ticket
from mlx_mcp.types import Event, Request, Started, Text

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A job that waits."""

    job: Job
    ahead: int
    """Jobs that go before it."""
    estimate_s: float | None
    """Until it is worked on; None before there is anything to go by."""
    waits_for: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """Of one model, or of all."""

    running: int
    queued: int
    max_queued: int
    oldest_wait_s: float
    slots: int | None = None
    """None for a model that is not in memory, and for all together."""


class Scheduler(AsyncContextManagerMixin):
    def __init__(
        self, models: Models, history: History, results: Results, *, queue_size: int, max_concurrency: int = 1
    ) -> None:
        """
        Args:
            models: Those that are served.
            history: Told of each change of a job.
            results: Given those of detached jobs.
            queue_size: How many requests may wait for one model.
            max_concurrency: How many it works on at once, as far as it does not say so itself.
        """
        self._models = models
        self._history = history
        self._results = results
        self._lanes = {
            model.id: Lane(queue_size, slots=model.settings.max_concurrency or max_concurrency) for model in models
        }
        self._tickets: dict[str, Ticket] = {}
        self._tasks: TaskGroup
        self._open = False

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with task_group() as self._tasks:
            self._open = True
            try:
                yield self
            finally:
                self.stop()

    def stop(self) -> None:
        """Take nothing in any more, and interrupt what is there."""
        self._open = False
        for ticket in list(self._tickets.values()):
            ticket.cancel(ShuttingDown())

    def submit(self, request: Request, job: Job, model: Model, *, timeout_s: float) -> Ticket:
        """
        Queue the request and return at once.

        Raises:
            QueueFull: Too many wait for this model already.
            ShuttingDown: The server is on its way out.
        """
        if not self._open:
            raise ShuttingDown
        lane = self._lanes[model.id]
        ticket = Ticket(job, deadline=anyio.current_time() + timeout_s)
        lane.join(ticket)
        self._tickets[job.id] = ticket
        self._history.record(job)
        self._tasks.start_soon(self._perform, ticket, request, model, lane)
        return ticket

    def ticket(self, job_id: str) -> Ticket:
        """Raises: UnknownJob, when no job with that id is queued or running."""
        if ticket := self._tickets.get(job_id):
            return ticket
        raise UnknownJob(f"No job {job_id!r} is queued or running.")

    def stats(self, model: Model) -> QueueStats:
        lane = self._lanes[model.id]
        return _stats(lane.jobs, lane.max_queued, model.slots)

    def waits(self, model: Model) -> list[Wait]:
        """Of one model, in the order in which they will go."""
        lane = self._lanes[model.id]
        return [
            Wait(job=job, ahead=ahead, estimate_s=lane.estimate_s(ahead), waits_for=_missing(model))
            for ahead, job in enumerate(lane.queued())
        ]

    def total(self) -> QueueStats:
        jobs = [ticket.job for ticket in self._tickets.values()]
        return _stats(jobs, sum(lane.max_queued for lane in self._lanes.values()), None)

    async def _perform(self, ticket: Ticket, request: Request, model: Model, lane: Lane) -> None:
        error: MlxMcpError | None = None
        current_job.set(ticket.job)
        try:
            with ticket.scope:
                await self._serve(ticket, request, model, lane)
            if ticket.scope.cancelled_caught:
                error = ticket.cancel_reason or JobExpired()
        except MlxMcpError as exc:
            error = exc
        except Exception:  # a job ends here, and the server goes on
            logger.exception("%s: a fault in the server itself", ticket.job.id)
            error = EngineFailed("The server failed while it worked on this request; its log has the details.")
        finally:
            del self._tickets[ticket.job.id]
            lane.leave(ticket)
            self._end(ticket, error)

    async def _serve(self, ticket: Ticket, request: Request, model: Model, lane: Lane) -> None:
        def put(event: Event) -> None:
            self._watch(ticket, event)
            ticket.put(event)
            if isinstance(event, Started):
                lane.tell_positions()

        with model.listening(ticket.put):
            async with lane.turn(ticket), self._models.lease(model) as thread:
                lane.widen(thread.engine.slots)
                await thread.run(request, put)

    def _watch(self, ticket: Ticket, event: Event) -> None:
        match event:
            case Started():
                self._change(ticket, ticket.job.started())
            case Text() if ticket.job.first_token_at is None:
                self._change(ticket, ticket.job.first_token())
            case _:
                pass

    def _end(self, ticket: Ticket, error: MlxMcpError | None) -> None:
        done = ticket.result.done
        if error is None and done:
            self._change(ticket, ticket.job.succeeded(done.usage, done.finish_reason))
        else:
            error = error or ShuttingDown()
            self._change(ticket, ticket.job.failed(error))
        ticket.end(error)
        if ticket.detached:
            self._results.keep(ticket)

    def _change(self, ticket: Ticket, job: Job) -> None:
        ticket.job = job
        self._history.record(job)


def _missing(model: Model) -> str:
    if model.loading:
        return f"the model: {model.loading.what}"
    return "a free slot" if model.thread else "the model, which is not in memory"


def _stats(jobs: list[Job], max_queued: int, slots: int | None) -> QueueStats:
    queued = [job for job in jobs if job.status is Status.QUEUED]
    oldest = min((job.created_at for job in queued), default=None)
    return QueueStats(
        running=len(jobs) - len(queued),
        queued=len(queued),
        max_queued=max_queued,
        oldest_wait_s=round((datetime.now(UTC) - oldest).total_seconds(), 3) if oldest else 0.0,
        slots=slots,
    )
