"""What lives as long as the process: built in one place, opened in one order, closed in reverse."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Self

from anyio import AsyncContextManagerMixin

from mlx_mcp import engines
from mlx_mcp.gateway import Gateway
from mlx_mcp.settings import Settings
from mlx_mcp.state.history import History
from mlx_mcp.state.models import Describe, Models, OpenEngine
from mlx_mcp.state.results import Results
from mlx_mcp.state.scheduler import Scheduler
from mlx_mcp.state.stores.memory import MemoryStore
from mlx_mcp.telemetry.logs import log_job


class Runtime(AsyncContextManagerMixin):
    def __init__(
        self, settings: Settings, *, open_engine: OpenEngine | None = None, describe: Describe | None = None
    ) -> None:
        """`open_engine`, `describe`: other engines than those of `mlx_mcp.engines`."""
        self.settings = settings
        self._models = Models(
            engines.served(settings),
            open_engine or (lambda model, report: engines.open_engine(model, settings, report)),
            describe or (lambda model: engines.describe(model, settings)),
        )
        self._history = History(MemoryStore(), observers=(log_job,))
        results = Results()
        self._scheduler = Scheduler(self._models, self._history, results, queue_size=settings.queue_size)
        self.gateway = Gateway(self._models, self._scheduler, self._history, results, timeout_s=settings.queue_timeout)

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with self._history, self._models, self._scheduler:
            yield self
