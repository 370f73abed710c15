"""The models that are served: their names, and which of them are in memory."""

import logging
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal, Self

import anyio
from anyio import AsyncContextManagerMixin
from anyio.abc import TaskGroup

from mlx_mcp.engines.base import Engine, Report
from mlx_mcp.engines.thread import EngineHealth, EngineThread
from mlx_mcp.errors import ModelUnavailable, SettingsError, ShuttingDown, UnknownModel
from mlx_mcp.settings import ModelSettings
from mlx_mcp.types import LoadEnded, Loading, ModelInfo

logger = logging.getLogger(__name__)

RETRY_S = 10.0
"""How long a failed load is remembered, so that a whole queue does not try it one after the other."""

OpenEngine = Callable[[ModelSettings, Report], Engine[Any]]
"""Makes the engine of a model, weights in memory; called on the engine's thread."""
LoadListener = Callable[[Loading | LoadEnded], None]
Describe = Callable[[ModelSettings], ModelInfo]
"""What is known of a model without loading it; called on a thread, since it may read files."""


class Stay:
    """One stay of a model in memory, from the beginning of its load until its thread has ended."""

    def __init__(self) -> None:
        self.ready = anyio.Event()
        """Loaded, or failed to."""
        self.leave = anyio.Event()
        """It is asked to go."""
        self.gone = anyio.Event()
        self.thread: EngineThread | None = None
        self.failure: ModelUnavailable | None = None


class Model:
    """One served model, in memory or not. Only `Models` changes it."""

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self.info = ModelInfo(kind=settings.kind)
        self.created_at = datetime.now(UTC)
        self.stay: Stay | None = None
        self.loading: Loading | None = None
        self.failure: ModelUnavailable | None = None
        """Why the last attempt to load it did not succeed."""
        self.failed_at = 0.0
        self.leases = 0
        self._listeners: set[LoadListener] = set()

    @property
    def id(self) -> str:
        return self.settings.id

    @property
    def thread(self) -> EngineThread | None:
        return self.stay.thread if self.stay else None

    @property
    def state(self) -> Literal["unloaded", "loading", "loaded", "broken", "failed"]:
        if self.thread:
            return "broken" if self.thread.broken else "loaded"
        if self.stay:
            return "loading"
        return "failed" if self.failure else "unloaded"

    @property
    def slots(self) -> int | None:
        """How many requests it works on at once; None while it is not in memory."""
        return self.thread.engine.slots if self.thread else None

    @property
    def health(self) -> EngineHealth | None:
        return self.thread.health() if self.thread else None

    @contextmanager
    def listening(self, listener: LoadListener) -> Generator[None]:
        """What is reported while the model loads goes to the listener, too."""
        self._listeners.add(listener)
        if self.loading:
            listener(self.loading)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def report(self, news: Loading | LoadEnded) -> None:
        self.loading = news if isinstance(news, Loading) else None
        for listener in list(self._listeners):
            listener(news)


class Models(AsyncContextManagerMixin):
    def __init__(self, settings: Iterable[ModelSettings], open_engine: OpenEngine, describe: Describe) -> None:
        """
        Raises:
            SettingsError: Two models want one name.
        """
        self._open_engine = open_engine
        self._describe = describe
        self._models = [Model(each) for each in settings]
        self._by_name: dict[str, Model] = {}
        for model in self._models:
            for name in (model.id, *model.settings.aliases):
                if name in self._by_name:
                    raise SettingsError(f"Two models want the name {name!r}; give one of them another id or alias.")
                self._by_name[name] = model
        self._tasks: TaskGroup

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        for model in self._models:
            model.info = await anyio.to_thread.run_sync(self._describe, model.settings)
        async with anyio.create_task_group() as self._tasks:
            try:
                yield self
            finally:
                self._tasks.cancel_scope.cancel()

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models)

    def resolve(self, name: str) -> Model:
        """Raises: UnknownModel, with the names that are served."""
        if model := self._by_name.get(name):
            return model
        served = ", ".join(repr(model.id) for model in self._models) or "none at all"
        raise UnknownModel(f"No model is served as {name!r}. Served are: {served}.")

    def preload(self, model: Model) -> None:
        """Begin to load it, if it is not in memory."""
        if model.stay is None:
            self._begin(model)

    @asynccontextmanager
    async def lease(self, model: Model) -> AsyncGenerator[EngineThread]:
        """
        The model's engine, in memory for as long as the block lasts. Loads it if need be, once for all who wait.

        Raises:
            ModelUnavailable: It could not be loaded.
        """
        model.leases += 1
        try:
            yield await self._thread(model)
        finally:
            model.leases -= 1

    async def _thread(self, model: Model) -> EngineThread:
        while True:
            if model.failure and time.monotonic() - model.failed_at < RETRY_S:
                raise model.failure
            stay = model.stay or self._begin(model)
            await stay.ready.wait()
            if stay.failure:
                raise stay.failure
            if stay.thread is None:
                raise ShuttingDown
            if not stay.thread.broken:
                return stay.thread
            stay.leave.set()
            await stay.gone.wait()

    def _begin(self, model: Model) -> Stay:
        """Nobody who waits for the load owns it, so that nobody who leaves ends it for the others."""
        stay = model.stay = Stay()
        model.loading, model.failure = Loading("loading"), None
        self._tasks.start_soon(self._host, model, stay)
        return stay

    async def _host(self, model: Model, stay: Stay) -> None:
        began = time.monotonic()
        open_engine = self._open_engine
        try:
            async with EngineThread(
                model.id, lambda report: open_engine(model.settings, report), model.report
            ) as thread:
                info = await anyio.to_thread.run_sync(self._describe, model.settings)
                engine = thread.engine
                model.info = replace(info, context_length=engine.context_length, capabilities=engine.capabilities)
                stay.thread = thread
                model.report(LoadEnded(time.monotonic() - began))
                stay.ready.set()
                logger.info("%s is loaded after %.1f s", model.id, time.monotonic() - began)
                await stay.leave.wait()
        except ModelUnavailable as exc:
            logger.error("%s", exc)
            stay.failure = exc
        except Exception as exc:
            logger.exception("%s could not be loaded", model.id)
            stay.failure = ModelUnavailable(f"{model.id} could not be loaded: {exc}")
        finally:
            model.failure, model.failed_at = stay.failure, time.monotonic()
            if model.loading:
                model.report(LoadEnded(time.monotonic() - began, ok=False))
            stay.thread = model.stay = None
            stay.ready.set()
            stay.gone.set()
