"""What is remembered of jobs: written behind the jobs' backs, so that a slow store delays nobody."""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Self

import anyio
from anyio import AsyncContextManagerMixin

from mlx_mcp.state.jobs import Job
from mlx_mcp.state.stores.base import JobStore

logger = logging.getLogger(__name__)

Observer = Callable[[Job], None]
"""Told of each change of a job's state. Quick, and on the event loop."""


class History(AsyncContextManagerMixin):
    def __init__(self, store: JobStore, observers: tuple[Observer, ...] = ()) -> None:
        self._store = store
        self._observers = observers
        self._unsaved: dict[str, Job] = {}  #: the newest state of each job that the store has not seen
        self._news = anyio.Event()

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with self._store, anyio.create_task_group() as tasks:
            tasks.start_soon(self._write)
            try:
                yield self
            finally:
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await self._save()

    def record(self, job: Job) -> None:
        self._unsaved[job.id] = job
        self._news.set()
        for observe in self._observers:
            observe(job)

    async def get(self, job_id: str) -> Job | None:
        return self._unsaved.get(job_id) or await self._store.get(job_id)

    async def recent(self, limit: int = 50) -> list[Job]:
        """Newest first."""
        jobs = {job.id: job for job in await self._store.recent(limit)} | self._unsaved
        return sorted(jobs.values(), key=lambda job: job.created_at, reverse=True)[:limit]

    async def _write(self) -> None:
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            await self._save()

    async def _save(self) -> None:
        while self._unsaved:
            job = next(iter(self._unsaved.values()))
            await self._store.save(job)
            if self._unsaved.get(job.id) is job:  # and not a newer state of it
                del self._unsaved[job.id]
