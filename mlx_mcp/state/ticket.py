"""A caller's end of a job."""

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Self

import anyio
from anyio import AsyncContextManagerMixin, CancelScope

from mlx_mcp.errors import JobCancelled, MlxMcpError
from mlx_mcp.state.jobs import Job
from mlx_mcp.types import Event, Loading, Progress, Queued, Result, Started, Text


class Ticket(AsyncContextManagerMixin):
    """
    Iterate over it for the job's events; leave its block before the end, and the job is cancelled.

    One reader. A reader that lags gets pieces of text joined, and of each kind of progress the latest.
    """

    def __init__(self, job: Job, deadline: float) -> None:
        """`deadline`: on the clock of `anyio.current_time`."""
        self.job = job
        self.result = Result()
        """What has come so far, whoever reads the events."""
        self.scope = CancelScope(deadline=deadline)
        self._reason: MlxMcpError | None = None
        self._error: MlxMcpError | None = None
        self._events: deque[Event | list[str]] = deque()
        """Undelivered; pieces of text that came in a row are one list."""
        self._admitted = anyio.Event()
        self._ended = anyio.Event()
        self._news = anyio.Event()
        self._detached = False

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        try:
            yield self
        finally:
            if not self._detached:
                self.cancel()

    def detach(self) -> None:
        """The caller may leave: the job goes on without it, and its result is kept for a while."""
        self._detached = True

    @property
    def detached(self) -> bool:
        return self._detached

    def cancel(self, reason: MlxMcpError | None = None) -> None:
        """End the job, if it has not ended; it takes effect at the engine's next step."""
        if not self._ended.is_set():
            self._reason = self._reason or reason or JobCancelled()
            self.scope.cancel()

    @property
    def cancel_reason(self) -> MlxMcpError | None:
        """Why `cancel` was called, if it was."""
        return self._reason

    async def admitted(self) -> None:
        """
        Until the engine has taken the job in, or it has ended.

        Raises: the error that ended it.
        """
        await self._admitted.wait()
        if self._error:
            raise self._error

    async def wait(self) -> Result:
        """
        The whole result.

        Raises: the error that ended the job.
        """
        await self._ended.wait()
        if self._error:
            raise self._error
        return self.result

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Raises: the error that ended the job. Cancelling the wait loses nothing."""
        while not self._events:
            if self._ended.is_set():
                if self._error:
                    raise self._error
                raise StopAsyncIteration
            self._news = anyio.Event()
            await self._news.wait()
        event = self._events.popleft()
        return Text("".join(event)) if isinstance(event, list) else event

    # The scheduler's side.

    def put(self, event: Event) -> None:
        self.result.add(event)
        last = self._events[-1] if self._events else None
        match last, event:
            case list(), Text(text):
                last.append(text)
            case _, Text(text):
                self._events.append([text])
            case (Queued(), Queued()) | (Loading(), Loading()) | (Progress(), Progress()):
                self._events[-1] = event
            case _:
                self._events.append(event)
        self._news.set()
        if isinstance(event, Started):
            self._admitted.set()

    def end(self, error: MlxMcpError | None) -> None:
        """No event follows."""
        self._error = error
        self._admitted.set()
        self._ended.set()
        self._news.set()
