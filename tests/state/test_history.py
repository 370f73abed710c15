"""What is remembered, whatever the store does."""

from typing import Self

import anyio
import pytest
from anyio.lowlevel import checkpoint

from mlx_mcp.state import history as history_module
from mlx_mcp.state.history import History
from mlx_mcp.state.jobs import Job
from mlx_mcp.state.stores.memory import MemoryStore
from tests.state.making import job


class Moody(MemoryStore):
    """A store that is down, or slow, when told so. Once closed it is empty, and `saved` is not."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.attempts = 0
        self.saved: dict[str, Job] = {}
        self.go = anyio.Event()
        self.go.set()

    async def __aenter__(self) -> Self:
        return self

    async def save(self, job: Job) -> None:
        self.attempts += 1
        await self.go.wait()
        if self.down:
            raise ConnectionError("the store is down")
        self.saved[job.id] = job
        await super().save(job)


async def until_attempts(store: Moody, n: int) -> None:
    with anyio.fail_after(10):
        while store.attempts < n:
            await checkpoint()


async def until_saved(store: Moody, job: Job) -> None:
    with anyio.fail_after(10):
        while store.saved.get(job.id) is not job:
            await checkpoint()


async def test_a_change_is_seen_by_the_observers_at_once_and_by_the_store_soon() -> None:
    seen: list[Job] = []
    store = Moody()
    async with History(store, (seen.append,)) as history:
        queued = job()
        history.record(queued)
        assert seen == [queued]
        await until_saved(store, queued)
        running = queued.started()
        history.record(running)
        await until_saved(store, running)
    assert seen == [queued, running]


async def test_what_the_store_has_not_seen_yet_can_be_asked_for() -> None:
    store = Moody()
    async with History(store) as history:
        old = job()
        history.record(old)
        await until_saved(store, old)
        store.go = anyio.Event()
        running, new = old.started(), job()
        history.record(running)
        history.record(new)
        assert await history.get(old.id) == running
        assert await history.get(new.id) == new
        assert await history.recent() == [new, running]
        assert await history.recent(1) == [new]
        assert await history.get("job_nope") is None
        store.go.set()


async def test_a_state_that_comes_while_the_one_before_is_saved_is_saved_too() -> None:
    store = Moody()
    store.go = anyio.Event()
    async with History(store) as history:
        queued = job()
        history.record(queued)
        await until_attempts(store, 1)
        running = queued.started()
        history.record(running)
        store.go.set()
        await until_saved(store, running)
        assert store.attempts == 2


async def test_what_is_not_saved_when_it_closes_is_saved_then() -> None:
    store = Moody()
    jobs = [job() for _ in range(3)]
    async with History(store) as history:
        for each in jobs:
            history.record(each)
    assert list(store.saved.values()) == jobs


async def test_a_store_that_fails_is_tried_again_and_nothing_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    store = Moody()
    store.down = True
    async with History(store, retry_s=0) as history:
        first, second = job(), job()
        history.record(first)
        await until_attempts(store, 3)
        history.record(second)
        assert await history.get(first.id) == first
        store.down = False
        await until_saved(store, first)
        await until_saved(store, second)
    assert "the store is down" in caplog.text


async def test_a_store_that_fails_is_not_pestered(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Moody()
    store.down = True
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await anyio.sleep_forever()

    async with History(store, retry_s=7) as history:
        monkeypatch.setattr(history_module.anyio, "sleep", sleep)
        history.record(job())
        await until_attempts(store, 1)
        for _ in range(10):
            history.record(job())
            await checkpoint()
        assert (store.attempts, pauses) == (1, [7])
        store.down = False


async def test_closing_with_a_store_that_is_down_is_logged_and_raises_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Moody()
    store.down = True
    async with History(store) as history:
        history.record(job())
        history.record(job())
    assert "2 jobs" in caplog.text


async def test_closing_does_not_wait_for_a_store_that_hangs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(history_module, "CLOSE_TIMEOUT_S", 0.01)
    store = Moody()
    store.go = anyio.Event()
    with anyio.fail_after(10):
        async with History(store) as history:
            history.record(job())
    assert "1 jobs" in caplog.text


async def test_what_waits_for_a_store_is_bounded_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "MOST_UNSAVED", 3)
    store = Moody()
    store.down = True
    async with History(store) as history:
        jobs = [job() for _ in range(5)]
        for each in jobs:
            history.record(each)
        assert history.lost == 2
        assert [await history.get(each.id) for each in jobs] == [None, None, *jobs[2:]]
        store.down = False


async def test_an_observer_that_raises_is_logged_and_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Job] = []

    def observe(_: Job) -> None:
        raise LookupError("a fault in the observer")

    store = Moody()
    async with History(store, (observe, seen.append)) as history:
        queued = job()
        history.record(queued)
        assert seen == [queued]
        await until_saved(store, queued)
    assert "a fault in the observer" in caplog.text


async def test_an_error_of_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(LookupError):
        async with History(Moody()):
            raise LookupError
