"""Which models are in memory, with engines that have none."""

import gc
import threading
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext

import anyio
import pytest
from anyio.lowlevel import checkpoint

from mlx_mcp.engines.base import Engine, Report
from mlx_mcp.engines.thread import EngineThread
from mlx_mcp.errors import EngineFailed, ModelTooLarge, ModelUnavailable, SettingsError, ShuttingDown, UnknownModel
from mlx_mcp.settings import ModelSettings
from mlx_mcp.state import models as models_module
from mlx_mcp.state.models import Model, Models
from mlx_mcp.state.residents import OpenEngine, Residents
from mlx_mcp.types import Capability, LoadEnded, Loading, ModelInfo
from tests.fakes import EchoEngine
from tests.test_gateway import ask

SETTINGS = (
    ModelSettings(id="first", source="/models/first", aliases=("one", "gpt-4")),
    ModelSettings(id="second", source="/models/second"),
)
INFO = ModelInfo(kind="text", family="fake", context_length=7)


class Loader:
    """Makes echo engines, when the gate is open, or fails."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.began = threading.Event()
        self.patient = False
        """It reports for ever."""
        self.error: Exception | None = None
        self.engines: list[EchoEngine] = []
        self.attempts = 0

    def open(self, model: ModelSettings, report: Report) -> Engine[object]:
        self.attempts += 1
        report(Loading(f"reading {model.id}", 1, 2))
        self.began.set()
        while self.patient:
            report(Loading(f"still reading {model.id}"))
        assert self.gate.wait(20)
        if self.error:
            raise self.error
        engine = EchoEngine()
        self.engines.append(engine)
        return engine

    @asynccontextmanager
    async def models(self) -> AsyncGenerator[Models]:
        async with opened(self.open) as models:
            yield models


@asynccontextmanager
async def opened(
    open_engine: OpenEngine, settings: tuple[ModelSettings, ...] = SETTINGS, idle_ttl_s: float | None = None
) -> AsyncGenerator[Models]:
    async with (
        Residents(open_engine, budget=1 << 40, gate=nullcontext()) as residents,
        Models(settings, residents, lambda _: INFO, idle_ttl_s=idle_ttl_s) as models,
    ):
        yield models


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
async def models(loader: Loader) -> AsyncGenerator[Models]:
    async with loader.models() as models:
        yield models
        loader.gate.set()


@pytest.fixture
def first(models: Models) -> Model:
    return models.resolve("first")


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await checkpoint()


async def test_a_model_has_its_id_and_its_aliases(models: Models, first: Model) -> None:
    assert models.resolve("one") is models.resolve("gpt-4") is first
    assert [model.id for model in models] == ["first", "second"]
    with pytest.raises(UnknownModel, match=r"'nope'.*'first', 'second'"):
        models.resolve("nope")


@pytest.mark.parametrize(
    "other", [ModelSettings(id="first", source="/x"), ModelSettings(id="x", source="/x", aliases=("gpt-4",))]
)
def test_two_models_cannot_have_one_name(loader: Loader, other: ModelSettings) -> None:
    with pytest.raises(SettingsError, match="Two models want the name"):
        Models(
            (*SETTINGS, other),
            Residents(loader.open, budget=1, gate=nullcontext()),
            lambda _: INFO,
            idle_ttl_s=None,
        )


async def test_what_can_be_known_is_known_without_a_load(first: Model, loader: Loader) -> None:
    assert (first.state, first.info, first.slots, first.health) == ("unloaded", INFO, None, None)
    assert loader.attempts == 0


async def test_a_lease_loads_the_model_and_tells_what_the_engine_knows_better(models: Models, first: Model) -> None:
    async with models.lease(first) as thread:
        assert thread.engine.slots == first.slots == 1
        assert (first.state, first.leases) == ("loaded", 1)
        assert first.info.context_length == EchoEngine.context_length
        assert first.info.capabilities == {Capability.CHAT}
        assert first.info.family == "fake"
    assert (first.state, first.leases) == ("loaded", 0)
    assert models.resolve("second").state == "unloaded"


async def test_a_model_is_loaded_once_for_all_who_wait(models: Models, first: Model, loader: Loader) -> None:
    loader.gate.clear()
    threads: list[EngineThread] = []

    async def lease() -> None:
        async with models.lease(first) as thread:
            threads.append(thread)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(lease)
        await until(loader.began.is_set)
        assert (first.state, first.leases, threads) == ("loading", 5, [])
        loader.gate.set()
    assert (len(threads), len(set(threads)), loader.attempts) == (5, 1, 1)


async def test_progress_goes_to_all_who_listen_and_late_comers_hear_the_last_of_it(
    models: Models, first: Model, loader: Loader
) -> None:
    loader.gate.clear()
    early: list[Loading | LoadEnded] = []
    late: list[Loading | LoadEnded] = []
    reading = Loading("reading first", 1, 2)
    async with anyio.create_task_group() as tasks:
        with first.listening(early.append):
            models.preload(first)
            await until(lambda: reading in early)
            with first.listening(late.append):
                assert late == [reading]
                loader.gate.set()
                await until(lambda: first.state == "loaded")
        tasks.cancel_scope.cancel()
    for heard in (early, late):
        assert isinstance(heard[-1], LoadEnded)
        assert heard[-1].ok
    after: list[Loading | LoadEnded] = []
    with first.listening(after.append):
        assert after == []


async def test_preloading_loads_once_and_leases_nothing(models: Models, first: Model, loader: Loader) -> None:
    models.preload(first)
    models.preload(first)
    assert first.state == "loading"
    await until(lambda: first.state == "loaded")
    models.preload(first)
    async with models.lease(first):
        assert loader.attempts == 1
    assert first.leases == 0


@pytest.mark.parametrize(
    ("error", "words"),
    [(ModelUnavailable("It is gone."), r"^It is gone\.$"), (OSError("disk"), "^first could not be loaded: disk$")],
)
async def test_a_load_that_fails_fails_all_who_wait_and_says_why(
    models: Models, first: Model, loader: Loader, error: Exception, words: str
) -> None:
    loader.error = error
    loader.gate.clear()
    heard: list[Loading | LoadEnded] = []

    async def lease() -> None:
        with pytest.raises(ModelUnavailable, match=words):
            async with models.lease(first):
                pytest.fail("it is not there")

    with first.listening(heard.append):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(lease)
            await until(loader.began.is_set)
            loader.gate.set()
    assert (first.state, first.leases, loader.attempts) == ("failed", 0, 1)
    assert isinstance(heard[-1], LoadEnded)
    assert not heard[-1].ok


async def test_a_failed_load_is_remembered_for_a_while_and_then_tried_again(
    models: Models, first: Model, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader.error = ModelUnavailable("It is gone.")
    monkeypatch.setattr(models_module, "RETRY_S", 3600)
    for _ in range(3):
        with pytest.raises(ModelUnavailable):
            async with models.lease(first):
                pytest.fail("it is not there")
    assert loader.attempts == 1
    monkeypatch.setattr(models_module, "RETRY_S", 0)
    loader.error = None
    async with models.lease(first):
        assert (first.state, first.failure, loader.attempts) == ("loaded", None, 2)


async def test_what_a_failed_load_had_in_memory_is_not_kept_alive_by_its_error() -> None:
    class Weights:
        pass

    weights: list[weakref.ref[Weights]] = []

    def open_engine(_: ModelSettings, report: Report) -> Engine[object]:
        loaded = Weights()
        weights.append(weakref.ref(loaded))
        raise ModelUnavailable("It has a cache that cannot be batched.")

    async with opened(open_engine) as models:
        with pytest.raises(ModelUnavailable):
            async with models.lease(models.resolve("first")):
                pytest.fail("it is not there")
        gc.collect()
        assert models.resolve("first").failure is not None
        assert [ref() for ref in weights] == [None]


async def test_a_model_that_can_never_fit_says_so_to_each_who_asks(
    models: Models, first: Model, loader: Loader
) -> None:
    loader.error = ModelTooLarge("first", need=5_000_000, budget=3_000_000, pinned=0)
    for _ in range(2):
        with pytest.raises(ModelTooLarge, match="first needs 5 MB of memory, and the budget is 3 MB"):
            async with models.lease(first):
                pytest.fail("it is not there")


async def test_who_leaves_during_the_load_does_not_end_it_for_the_others(
    models: Models, first: Model, loader: Loader
) -> None:
    loader.gate.clear()
    leased = anyio.Event()

    async def lease() -> None:
        async with models.lease(first):
            leased.set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as leaving:
                async with anyio.create_task_group() as leavers:
                    leavers.start_soon(lease)
                    await until(loader.began.is_set)
                    tasks.start_soon(lease)
                    await checkpoint()
                    leaving.cancel()
            assert first.leases == 1
            loader.gate.set()
    assert leased.is_set()
    assert loader.attempts == 1


async def test_a_load_goes_on_when_nobody_waits_for_it_any_more(models: Models, first: Model, loader: Loader) -> None:
    loader.gate.clear()
    with anyio.CancelScope() as leaving:
        async with anyio.create_task_group() as leavers:
            leavers.start_soon(models.lease(first).__aenter__)
            await until(loader.began.is_set)
            leaving.cancel()
    loader.gate.set()
    await until(lambda: first.state == "loaded")
    assert first.leases == 0


async def test_a_broken_engine_is_unloaded_and_loaded_anew_for_whoever_comes_next(
    models: Models, first: Model, loader: Loader
) -> None:
    async with models.lease(first) as broken:
        loader.engines[0].loads = 1
        loader.engines[0].resets_work = False
        with pytest.raises(EngineFailed):
            await broken.run(ask("boom"), lambda _: None)
    assert first.state == "broken"
    again: list[EngineThread] = []

    async def lease() -> None:
        async with models.lease(first) as thread:
            again.append(thread)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lease)
        tasks.start_soon(lease)
    assert first.state == "loaded"
    assert again[0] is again[1] is not broken
    assert loader.engines[0].unloaded
    assert loader.attempts == 2


async def test_closing_unloads_what_is_in_memory(loader: Loader) -> None:
    async with loader.models() as models, AsyncExitStack() as stack:
        for model in models:
            await stack.enter_async_context(models.lease(model))
    assert [engine.unloaded for engine in loader.engines] == [True, True]
    assert [model.state for model in models] == ["unloaded", "unloaded"]


async def test_closing_during_a_load_tells_those_who_wait(loader: Loader) -> None:
    loader.patient = True
    told: list[str] = []

    async def lease(models: Models) -> None:
        with pytest.raises(ShuttingDown):
            async with models.lease(models.resolve("first")):
                pytest.fail("it is not there")
        told.append("shutting down")

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks, loader.models() as models:
            tasks.start_soon(lease, models)
            await until(loader.began.is_set)
    assert (told, loader.engines) == (["shutting down"], [])


async def test_an_error_of_the_block_comes_out_as_it_is(loader: Loader) -> None:
    with pytest.raises(LookupError):
        async with loader.models() as models, models.lease(models.resolve("first")):
            raise LookupError
    assert loader.engines[0].unloaded
