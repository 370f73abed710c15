"""The models that are served: their names, and what is known of them."""

import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal, Self

import anyio
from anyio import AsyncContextManagerMixin

from mlx_mcp.engines.thread import EngineHealth, EngineThread
from mlx_mcp.errors import InvalidRequest, ModelUnavailable, SettingsError, UnknownModel
from mlx_mcp.settings import ModelSettings
from mlx_mcp.state.residents import RETRY_S, Residents, Stay
from mlx_mcp.types import LoadEnded, Loading, ModelInfo

LoadListener = Callable[[Loading | LoadEnded], None]
Describe = Callable[[ModelSettings], ModelInfo]
"""What is known of a model without loading it; called on a thread, since it may read files."""

DEFAULT_ALIAS = "default"


class Model:
    """One served model, in memory or not. Only `Models` changes it."""

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self.info = ModelInfo(kind=settings.kind)
        self.created_at = datetime.now(UTC)
        self.stay: Stay | None = None
        """The last one; it may be over."""
        self.loading: Loading | None = None
        self.aliases: tuple[str, ...] = ()
        self._listeners: set[LoadListener] = set()

    @property
    def id(self) -> str:
        return self.settings.name

    @property
    def failure(self) -> ModelUnavailable | None:
        """Why the last attempt to load it did not succeed."""
        return self.stay.failure if self.stay else None

    @property
    def failed_at(self) -> float:
        """When, on the monotonic clock."""
        return self.stay.failed_at if self.stay else 0.0

    @property
    def leases(self) -> int:
        """How many use it, or wait for it."""
        return self.stay.leases + self.stay.waiting if self.stay else 0

    @property
    def thread(self) -> EngineThread | None:
        return self.stay.thread if self.stay else None

    @property
    def state(self) -> Literal["unloaded", "loading", "loaded", "broken", "failed"]:
        if self.thread:
            return "broken" if self.thread.broken else "loaded"
        if self.stay and not self.stay.gone.is_set():
            return "loading"
        return "failed" if self.failure else "unloaded"

    @property
    def slots(self) -> int | None:
        """How many requests it works on at once; None while it is not in memory."""
        return self.thread.engine.slots if self.thread else None

    @property
    def health(self) -> EngineHealth | None:
        return self.thread.health() if self.thread else None

    @property
    def weights_bytes(self) -> int:
        return self.stay.weights_bytes if self.stay else 0

    @property
    def cache_bytes(self) -> int:
        return self.stay.cache_bytes if self.stay else 0

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
        if self.thread and isinstance(news, LoadEnded):
            engine = self.thread.engine
            self.info = replace(
                engine.info or self.info, context_length=engine.context_length, capabilities=engine.capabilities
            )
        for listener in list(self._listeners):
            listener(news)


class Models(AsyncContextManagerMixin):
    def __init__(
        self, settings: Iterable[ModelSettings], residents: Residents, describe: Describe, *, idle_ttl_s: float | None
    ) -> None:
        """
        `idle_ttl_s`: for the models that have no time to live of their own.

        Raises:
            SettingsError: Two models want one name.
        """
        self._residents = residents
        self._describe = describe
        self._idle_ttl_s = idle_ttl_s
        self._models = [Model(each) for each in settings]
        self._by_name: dict[str, Model] = {}
        for model in self._models:
            for name in (model.id, *model.settings.aliases):
                if name in self._by_name:
                    raise SettingsError(f"Two models want the name {name!r}; give one of them another id or alias.")
                self._by_name[name] = model
        for model in self._models:
            self._by_name.setdefault(model.settings.id, model)
        for model in self._models[:1]:
            self._by_name.setdefault(DEFAULT_ALIAS, model)
        self._name_aliases()

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        for model in self._models:
            model.info = await anyio.to_thread.run_sync(self._describe, model.settings)
        yield self

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models)

    def resolve(self, name: str) -> Model:
        """Raises: UnknownModel, with the names that are served."""
        if model := self._by_name.get(name):
            return model
        served = ", ".join(repr(model.id) for model in self._models) or "none at all"
        raise UnknownModel(f"No model is served as {name!r}. Served are: {served}.")

    def set_alias(self, alias: str, name: str) -> Model:
        """
        Point the alias at another model: whoever resolves it from now on gets that one.

        Raises:
            UnknownModel: There is no such model.
            InvalidRequest: The alias is a model's own name.
        """
        model = self.resolve(name)
        if any(alias == each.id for each in self._models):
            raise InvalidRequest(f"{alias!r} is a model's own name, and no alias.", param="alias")
        self._by_name[alias] = model
        self._name_aliases()
        return model

    def _name_aliases(self) -> None:
        for model in self._models:
            model.aliases = tuple(
                name for name, target in self._by_name.items() if target is model and name != model.id
            )

    def preload(self, model: Model) -> None:
        """Begin to bring it into memory, if it is not there."""
        self._stay(model).wanted = True

    async def load(self, model: Model) -> None:
        """Bring it into memory, if it is not there; it goes on if the caller leaves. Raises: ModelUnavailable."""
        self.preload(model)
        await self._ready(model)

    async def unload(self, model: Model) -> None:
        """Out of memory, if it is there. Raises: ModelBusy, while it works."""
        if model.stay and not model.stay.gone.is_set():
            await model.stay.ready.wait()
            if model.stay.thread:
                await self._residents.leave(model.stay)

    @asynccontextmanager
    async def lease(self, model: Model) -> AsyncGenerator[EngineThread]:
        """
        The model's engine, in memory for as long as the block lasts. Loads it if need be, once for all who wait.

        Raises:
            ModelUnavailable: It could not be loaded.
        """
        async with self._residents.lease(await self._ready(model)) as thread:
            yield thread

    async def _ready(self, model: Model) -> Stay:
        """A stay that can be leased, at once: between this and the lease nothing may be awaited."""
        while True:
            if model.failure and time.monotonic() - model.failed_at < RETRY_S:
                raise again(model.failure)
            stay = self._stay(model)
            stay.waiting += 1
            try:
                await stay.ready.wait()
            finally:
                stay.waiting -= 1
            if stay.failure:
                raise again(stay.failure)
            if stay.thread and not stay.thread.broken and not stay.draining:
                return stay
            if stay.thread and stay.thread.broken and not stay.leave.is_set():
                stay.drain()
                stay.leave.set()
            await (stay.decided if stay.draining else stay.gone).wait()

    def _stay(self, model: Model) -> Stay:
        if model.stay is None or model.stay.gone.is_set():
            model.report(Loading("loading"))
            ttl_s = model.settings.ttl or self._idle_ttl_s
            model.stay = self._residents.begin(model.settings, ttl_s, model.report)
        return model.stay


def again(failure: ModelUnavailable) -> ModelUnavailable:
    """The same for one more caller: each raises an error of its own, that gathers its own traceback."""
    same = type(failure).__new__(type(failure), *failure.args)  # its constructor may want more than the message
    same.__dict__.update(failure.__dict__)
    return same
