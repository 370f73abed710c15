"""What lives as long as the process: built in one place, opened in one order, closed in reverse."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self

from anyio import AsyncContextManagerMixin

from mlx_mcp import __version__, engines
from mlx_mcp.engines.gate import create_gate
from mlx_mcp.engines.memory import default_budget
from mlx_mcp.gateway import Gateway
from mlx_mcp.settings import Settings
from mlx_mcp.state.history import History
from mlx_mcp.state.models import Describe, Model, Models
from mlx_mcp.state.residents import OpenEngine, Residents
from mlx_mcp.state.results import Results
from mlx_mcp.state.scheduler import Scheduler
from mlx_mcp.state.stores.memory import MemoryStore
from mlx_mcp.telemetry.figures import Figures, ModelFigures
from mlx_mcp.telemetry.logs import log_job
from mlx_mcp.telemetry.metrics import Metrics


class Runtime(AsyncContextManagerMixin):
    def __init__(
        self, settings: Settings, *, open_engine: OpenEngine | None = None, describe: Describe | None = None
    ) -> None:
        """`open_engine`, `describe`: other engines than those of `mlx_mcp.engines`."""
        self.settings = settings
        self._residents = Residents(
            open_engine or (lambda model, report: engines.open_engine(model, settings, report)),
            budget=settings.memory_budget or default_budget(),
            gate=create_gate(settings.compute_gate),
        )
        self._models = Models(
            engines.served(settings),
            self._residents,
            describe or (lambda model: engines.describe(model, settings)),
            idle_ttl_s=settings.idle_ttl,
        )
        self.metrics = Metrics([model.id for model in self._models], self._figures, version=__version__)
        self._history = History(MemoryStore(), observers=(log_job, self.metrics.observe))
        results = Results()
        self._scheduler = Scheduler(
            self._models,
            self._history,
            results,
            queue_size=settings.queue_size,
            max_concurrency=settings.max_concurrency,
        )
        self.gateway = Gateway(self._models, self._scheduler, self._history, results, timeout_s=settings.queue_timeout)

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with AsyncExitStack() as stack:
            for model in self._models:
                stack.enter_context(model.listening(self.metrics.load_listener(model.id)))
            for room in (self._history, self._residents, self._models, self._scheduler):
                await stack.enter_async_context(room)
            yield self

    def _figures(self) -> Figures:
        return Figures(
            models=tuple(self._figures_of(model) for model in self._models),
            memory_budget_bytes=self._residents.budget,
            jobs_lost=self._history.lost,
        )

    def _figures_of(self, model: Model) -> ModelFigures:
        queue, counts = self._scheduler.stats(model), self._residents.counts[model.id]
        return ModelFigures(
            model=model.id,
            queued=queue.queued,
            running=queue.running,
            loaded=model.state == "loaded",
            slots=queue.slots,
            memory_bytes={"weights": model.weights_bytes, "caches": model.cache_bytes},
            evictions=counts.evictions,
            incidents=counts.engine.incidents,
            steps_by_rows=counts.engine.steps_by_rows,
        )
