"""Jobs in a dict, the newest of them."""

from typing import Self

from mlx_mcp.state.jobs import Job

KEPT = 10_000


class MemoryStore:
    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._jobs: dict[str, Job] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._jobs.clear()

    async def save(self, job: Job) -> None:
        self._jobs[job.id] = job
        while len(self._jobs) > self._kept:
            del self._jobs[next(iter(self._jobs))]

    async def get(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    async def recent(self, limit: int) -> list[Job]:
        return sorted(self._jobs.values(), key=lambda job: job.created_at, reverse=True)[:limit]
