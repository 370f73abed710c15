"""Models under a memory budget: what is evicted, what never is, and that everybody is served in the end."""

import random
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_mcp.engines.base import Engine, Key, Report
from mlx_mcp.errors import MlxMcpError, ModelBusy, ModelTooLarge
from mlx_mcp.gateway import Gateway
from mlx_mcp.settings import ModelSettings
from mlx_mcp.state.history import History
from mlx_mcp.state.models import Model, Models
from mlx_mcp.state.residents import Residents
from mlx_mcp.state.results import Results
from mlx_mcp.state.scheduler import Scheduler
from mlx_mcp.state.stores.memory import MemoryStore
from mlx_mcp.types import Capability, ChatRequest, Done, Door, Event, Message, ModelInfo, Origin, Priority, Text


@dataclass
class Memory:
    """What the engines of one test hold, as they themselves see it."""

    budget: int
    held: dict[str, int] = field(default_factory=dict)
    worst: int = 0
    unloaded_at_work: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def hold(self, name: str, size: int) -> None:
        with self.lock:
            self.held[name] = size
            self.worst = max(self.worst, sum(self.held.values()))

    @property
    def used(self) -> int:
        return sum(self.held.values())


class SizedEngine(Engine[ChatRequest]):
    """Weighs what it is told to; its cache grows with each request up to its allowance. Two slots, one word a step."""

    capabilities = frozenset({Capability.CHAT})
    slots = 2
    caches = True

    def __init__(self, name: str, size: int, memory: Memory) -> None:
        self.name, self.memory = name, memory
        self.estimated_bytes = size
        self._size = size
        self._left: dict[Key, int] = {}
        self._unlucky: set[Key] = set()

    def load(self, report: Report) -> None:
        self.weights_bytes = self._size
        self._weigh()

    def unload(self) -> None:
        if self._left:
            self.memory.unloaded_at_work.append(self.name)
        self.weights_bytes = self.cache_bytes = 0
        self._weigh()

    def reset(self) -> None:
        self._left.clear()
        self._unlucky.clear()
        self.cache_bytes = 0
        self._weigh()

    def _weigh(self) -> None:
        self.memory.hold(self.name, self.weights_bytes + self.cache_bytes)

    def add(self, key: Key, request: ChatRequest) -> None:
        self._left[key] = request.max_tokens or 1
        if request.max_tokens == 13:
            self._unlucky.add(key)
        self.cache_bytes = min(self.cache_bytes + 5, self.allowance_bytes or 0)
        self._weigh()

    def step(self) -> list[tuple[Key, Event]]:
        events: list[tuple[Key, Event]] = []
        for key, left in list(self._left.items()):
            if key in self._unlucky:
                raise RuntimeError("an unlucky number")
            self._left[key] = left - 1
            events.append((key, Text("word ")))
            if left <= 1:
                del self._left[key]
                events.append((key, Done("stop")))
        return events

    def drop(self, key: Key) -> None:
        self._left.pop(key, None)
        self._unlucky.discard(key)

    def trim(self, target_bytes: int) -> None:
        self.cache_bytes = min(self.cache_bytes, target_bytes)
        self._weigh()


@dataclass
class House:
    memory: Memory
    residents: Residents
    models: Models
    gateway: Gateway

    def model(self, name: str) -> Model:
        return self.models.resolve(name)


@asynccontextmanager
async def house(
    sizes: dict[str, int], budget: int, *, pinned: tuple[str, ...] = (), ttl: float | None = None, queue: int = 1000
) -> AsyncGenerator[House]:
    memory = Memory(budget)
    served = [ModelSettings(id=name, source=f"/{name}", pin=name in pinned) for name in sizes]
    residents = Residents(
        lambda model, _: SizedEngine(model.id, sizes[model.id], memory),
        budget=budget,
        gate=nullcontext(),
        patience_s=0.01,
    )
    models = Models(served, residents, lambda _: ModelInfo(), idle_ttl_s=ttl)
    history, results = History(MemoryStore()), Results()
    scheduler = Scheduler(models, history, results, queue_size=queue)
    gateway = Gateway(models, scheduler, history, results, timeout_s=30)
    async with history, residents, models, scheduler:
        yield House(memory, residents, models, gateway)


def ask(model: str, words: int = 1) -> ChatRequest:
    return ChatRequest(model=model, messages=(Message(role="user", content="x"),), max_tokens=words)


ORIGIN = Origin(door=Door.HTTP)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await checkpoint()


async def test_the_least_recently_used_model_makes_room() -> None:
    async with house({"a": 40, "b": 40, "c": 40}, 100) as at:
        for name in ("a", "b", "a", "c"):
            await at.gateway.run(ask(name), ORIGIN)
        states = {model.id: model.state for model in at.gateway.models()}
        assert states == {"a": "loaded", "b": "unloaded", "c": "loaded"}
        assert at.residents.counts["b"].evictions == 1


async def test_caches_go_before_models() -> None:
    async with house({"a": 40, "b": 55}, 100) as at:
        for _ in range(5):
            await at.gateway.run(ask("a"), ORIGIN)
        assert at.model("a").cache_bytes == 25
        await at.gateway.run(ask("b"), ORIGIN)
        assert at.model("a").state == at.model("b").state == "loaded"
        assert at.model("a").cache_bytes <= 5
        assert at.memory.worst <= 100


async def test_a_pinned_model_is_never_evicted() -> None:
    async with house({"a": 40, "b": 40, "c": 40}, 100, pinned=("a",)) as at:
        for name in ("a", "b", "c", "b", "c"):
            await at.gateway.run(ask(name), ORIGIN)
        assert at.model("a").state == "loaded"
        assert at.residents.counts["a"].loads == 1


async def test_a_model_that_can_never_fit_is_refused_with_the_numbers() -> None:
    async with house({"pinned": 40_000_000, "big": 70_000_000}, 100_000_000, pinned=("pinned",)) as at:
        await at.gateway.load("pinned")
        with pytest.raises(ModelTooLarge, match=r"needs 70 MB.*budget is 100 MB.*hold 40 MB"):
            await at.gateway.run(ask("big"), ORIGIN)
        assert at.model("pinned").state == "loaded"


async def test_a_busy_model_gives_way_when_it_has_done_its_work_and_not_before() -> None:
    async with house({"a": 60, "b": 60}, 100) as at:
        async with at.gateway.submit(ask("a", 10_000), ORIGIN) as long:
            await long.admitted()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(at.gateway.run, ask("b"), ORIGIN)
                await until(lambda: at.model("b").loading is not None)
                assert at.model("a").state == "loaded"
                await long.wait()
        assert at.model("b").state == "loaded"
        assert at.memory.unloaded_at_work == []


async def test_a_model_that_is_always_busy_does_not_starve_another() -> None:
    async with house({"a": 60, "b": 60}, 100) as at, anyio.create_task_group() as tasks:

        async def without_end() -> None:
            while True:
                await at.gateway.run(ask("a", 30), ORIGIN)

        for _ in range(4):
            tasks.start_soon(without_end)
        await until(lambda: at.model("a").state == "loaded")
        with anyio.fail_after(10):
            await at.gateway.run(ask("b"), ORIGIN)
        tasks.cancel_scope.cancel()


async def test_a_load_that_waits_for_room_ends_when_nobody_wants_it_any_more() -> None:
    async with house({"a": 60, "b": 60}, 100) as at, at.gateway.submit(ask("a", 1_000_000), ORIGIN) as long:
        await long.admitted()
        async with at.gateway.submit(ask("b"), ORIGIN):
            await until(lambda: at.model("b").loading is not None)
        await until(lambda: at.model("b").state == "unloaded")
        assert at.model("b").failure is None


async def test_an_unused_model_leaves_after_its_time_to_live() -> None:
    async with house({"a": 40}, 100, ttl=0.05) as at:
        await at.gateway.run(ask("a"), ORIGIN)
        await until(lambda: at.model("a").state == "unloaded")
        assert at.memory.used == 0
        assert at.residents.counts["a"].evictions == 0
        await at.gateway.run(ask("a"), ORIGIN)
        assert at.residents.counts["a"].loads == 2


async def test_a_model_is_unloaded_on_demand_unless_it_works() -> None:
    async with house({"a": 40}, 100) as at:
        async with at.gateway.submit(ask("a", 1_000_000), ORIGIN) as long:
            await long.admitted()
            with pytest.raises(ModelBusy):
                await at.gateway.unload("a")
        await until(lambda: at.gateway.queue().running == 0)
        await at.gateway.unload("a")
        assert (at.model("a").state, at.memory.used) == ("unloaded", 0)


async def test_many_models_of_which_two_fit_answer_mixed_requests_without_an_error() -> None:
    sizes = {f"m{n}": 40 for n in range(24)}
    order = random.Random(7).choices(list(sizes), k=200)
    async with house(sizes, 100) as at:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for name in order:
                    tasks.start_soon(at.gateway.run, ask(name, 3), ORIGIN)
        jobs = await at.gateway.recent_jobs(1000)
        assert [job.status for job in jobs] == ["succeeded"] * 200
        assert at.memory.worst <= 100
        assert at.memory.unloaded_at_work == []


Arrival = st.tuples(
    st.sampled_from(["a", "b", "c", "d", "huge"]),
    st.integers(1, 40),  # words; 13 makes the engine fail
    st.sampled_from(list(Priority)),
    st.one_of(st.none(), st.integers(0, 30)),  # turns of the loop after which the caller leaves
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.fixed_dictionaries({name: st.integers(5, 90) for name in "abcd"}),
    arrivals=st.lists(Arrival, min_size=1, max_size=40),
    pinned=st.sampled_from([(), ("a",)]),
    queue=st.integers(1, 30),
)
def test_whatever_comes_every_job_ends_nothing_leaks_and_the_budget_holds(
    sizes: dict[str, int],
    arrivals: list[tuple[str, int, Priority, int | None]],
    pinned: tuple[str, ...],
    queue: int,
) -> None:
    async def main() -> None:
        async with house({**sizes, "huge": 1000}, 100, pinned=pinned, queue=queue) as at:
            codes: set[str] = set()

            async def one(model: str, words: int, priority: Priority, patience: int | None) -> None:
                try:
                    async with at.gateway.submit(ask(model, words), Origin(door=Door.MCP, priority=priority)) as ticket:
                        if patience is None:
                            await ticket.wait()
                        for _ in range(patience or 0):
                            await checkpoint()
                except MlxMcpError as exc:
                    codes.add(exc.code)

            with anyio.fail_after(25):
                async with anyio.create_task_group() as tasks:
                    for arrival in arrivals:
                        tasks.start_soon(one, *arrival)
                while at.gateway.queue().running or at.gateway.queue().queued:
                    await checkpoint()
            jobs = await at.gateway.recent_jobs(1000)
            assert all(job.ended for job in jobs)
            assert codes <= {"queue_full", "model_too_large", "cancelled", "engine_failed"}
            assert all(model.leases == 0 for model in at.gateway.models())
            assert at.memory.unloaded_at_work == []
            assert at.memory.worst <= 100
            spared = 100 - sum(sizes[name] for name in pinned)
            for name in [name for name, size in sizes.items() if name not in pinned and size <= spared]:
                await at.gateway.run(ask(name), ORIGIN)  # everybody is still served

    anyio.run(main)


async def test_a_model_that_was_to_give_way_is_asked_again_when_nobody_wants_its_room() -> None:
    async with house({"a": 60, "b": 60}, 100) as at:
        async with at.gateway.submit(ask("a", 1_000_000), ORIGIN) as long:
            await long.admitted()
            async with at.gateway.submit(ask("b"), ORIGIN):
                await until(lambda: any(stay.draining for stay in at.residents))
            await until(lambda: at.model("b").state == "unloaded")
        with anyio.fail_after(5):
            await at.gateway.run(ask("a"), ORIGIN)


async def test_a_model_that_was_to_give_way_is_asked_again_when_the_room_came_from_elsewhere() -> None:
    async with house({"a": 45, "c": 45, "b": 45}, 100) as at:
        async with (
            at.gateway.submit(ask("a", 1_000_000), ORIGIN) as first,
            at.gateway.submit(ask("c", 1_000_000), ORIGIN) as other,
        ):
            await first.admitted()
            await other.admitted()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(at.gateway.run, ask("b"), ORIGIN)
                await until(lambda: any(stay.draining for stay in at.residents))
                (draining,) = (stay for stay in at.residents if stay.draining)
                (other if draining.settings.id == "a" else first).cancel()
        with anyio.fail_after(5):
            for name in "abc":
                await at.gateway.run(ask(name), ORIGIN)


async def test_the_cache_of_an_idle_model_leaves_room_for_another() -> None:
    async with house({"a": 40, "b": 40}, 100) as at:
        for _ in range(4):
            await at.gateway.run(ask("a"), ORIGIN)
        assert at.model("a").cache_bytes == 20
        await at.gateway.run(ask("b"), ORIGIN)
        assert at.model("a").state == at.model("b").state == "loaded"
        assert at.model("a").cache_bytes <= 5
        assert at.memory.worst <= 100


async def test_an_unload_during_a_load_waits_for_it() -> None:
    async with house({"a": 40}, 100) as at:
        at.gateway.preload(at.model("a"))
        await at.gateway.unload("a")
        assert (at.model("a").state, at.residents.counts["a"].loads) == ("unloaded", 1)
