"""What is remembered of jobs: written behind the jobs' backs, so that a slow store delays nobody."""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Self

import anyio
from anyio import AsyncContextManagerMixin

from mlx_mcp.state.jobs import Job, Refusal
from mlx_mcp.state.stores.base import JobStore
from mlx_mcp.state.task_group import task_group

logger = logging.getLogger(__name__)

RETRY_S = 5.0
CLOSE_TIMEOUT_S = 5.0
"""How long the store may take for what it has not seen when the process ends."""
MOST_UNSAVED = 10_000
"""Jobs that are kept for a store that is down; beyond it the oldest are lost."""

Observer = Callable[[Job | Refusal], None]
"""Told of each change of a job's state, and of what did not become a job. Quick, and on the event loop."""


class History(AsyncContextManagerMixin):
    def __init__(self, store: JobStore, observers: tuple[Observer, ...] = (), *, retry_s: float = RETRY_S) -> None:
        """`retry_s`: how long a store that has failed is left in peace."""
        self._store = store
        self._observers = observers
        self._retry_s = retry_s
        self._unsaved: dict[str, Job] = {}  #: the newest state of each job that the store has not seen
        self._news = anyio.Event()
        self.lost = 0
        """Jobs that the store will never see."""

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with self._store, task_group() as tasks:
            tasks.start_soon(self._write)
            try:
                yield self
            finally:
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_TIMEOUT_S):
                    await self._save()
                if self._unsaved:
                    self.lost += len(self._unsaved)
                    logger.error("%d jobs are lost: the store did not take them", len(self._unsaved))

    def record(self, job: Job) -> None:
        self._unsaved[job.id] = job
        if len(self._unsaved) > MOST_UNSAVED:
            del self._unsaved[next(iter(self._unsaved))]
            self.lost += 1
        self._news.set()
        self._tell(job)

    def refuse(self, refusal: Refusal) -> None:
        """Told to the observers, and not remembered."""
        self._tell(refusal)

    def _tell(self, news: Job | Refusal) -> None:
        for observe in self._observers:
            try:
                observe(news)
            except Exception:  # jobs do not fail because of who watches them
                whose = {"job_id": news.id} if isinstance(news, Job) else {}
                logger.exception("A fault in an observer", extra=whose)

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
            if not await self._save():
                self._news.set()
                await anyio.sleep(self._retry_s)

    async def _save(self) -> bool:
        """False when the store does not take them; they are kept."""
        while self._unsaved:
            job = next(iter(self._unsaved.values()))
            try:
                await self._store.save(job)
            except Exception:  # whatever it is, the jobs go on
                logger.exception("The store of jobs failed; %d jobs wait for it", len(self._unsaved))
                return False
            if self._unsaved.get(job.id) is job:  # and not a newer state of it
                del self._unsaved[job.id]
        return True
