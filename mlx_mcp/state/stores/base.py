"""The contract that every job store keeps. `tests/state/test_stores.py` runs against all of them."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from mlx_mcp.state.jobs import Job


class JobStore(AbstractAsyncContextManager["JobStore"], Protocol):
    async def save(self, job: Job) -> None:
        """Insert the job, or replace the one with its id."""

    async def get(self, job_id: str) -> Job | None: ...

    async def recent(self, limit: int) -> list[Job]:
        """Newest first."""
        ...
