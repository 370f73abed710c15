"""What every store of jobs keeps to. A new one is one more line in STORES."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlx_mcp.errors import EngineFailed
from mlx_mcp.state.jobs import Job
from mlx_mcp.state.stores.base import JobStore
from mlx_mcp.state.stores.memory import MemoryStore
from mlx_mcp.types import Priority, Usage
from tests.state.making import job

STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[JobStore]]] = {
    "memory": lambda _: MemoryStore(),
}
"""Each made from an empty directory."""

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[JobStore]:
    async with STORES[request.param](tmp_path) as store:
        yield store


def at(minute: int, **fields: object) -> Job:
    return job(created_at=NOON + timedelta(minutes=minute), **fields)


async def test_an_empty_store_has_nothing(store: JobStore) -> None:
    assert await store.get("job_nope") is None
    assert await store.recent(10) == []


async def test_a_job_comes_back_as_it_was(store: JobStore) -> None:
    full = job(request_id="mine", client="curl", priority=Priority.BACKGROUND).started().first_token()
    for saved in (job(), full.succeeded(Usage(1, 2, 3), "stop"), full.failed(EngineFailed())):
        await store.save(saved)
        assert await store.get(saved.id) == saved


async def test_the_last_state_of_a_job_is_the_one(store: JobStore) -> None:
    queued = job()
    await store.save(queued)
    await store.save(queued.started())
    running = await store.get(queued.id)
    assert running is not None
    assert running.status == "running"
    assert len(await store.recent(10)) == 1


async def test_the_newest_come_first_whatever_the_order_they_were_saved_in(store: JobStore) -> None:
    jobs = {minute: at(minute) for minute in range(5)}
    for minute in (3, 0, 4, 1, 2):
        await store.save(jobs[minute])
    await store.save(jobs[0].started())
    assert [each.id for each in await store.recent(10)] == [jobs[minute].id for minute in (4, 3, 2, 1, 0)]
    assert [each.id for each in await store.recent(2)] == [jobs[4].id, jobs[3].id]


async def test_the_memory_store_forgets_the_oldest_beyond_its_bound() -> None:
    async with MemoryStore(kept=3) as store:
        jobs = [at(minute) for minute in range(4)]
        for each in jobs:
            await store.save(each)
        assert await store.get(jobs[0].id) is None
        assert len(await store.recent(10)) == 3
