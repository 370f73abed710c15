"""The one way in: HTTP routes, MCP tools and the command line call this and nothing below it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlx_mcp.errors import MlxMcpError, NotCapable, UnknownJob, UnknownModel
from mlx_mcp.state.history import History
from mlx_mcp.state.jobs import Job, Refusal
from mlx_mcp.state.models import Model, Models
from mlx_mcp.state.results import Results
from mlx_mcp.state.scheduler import QueueStats, Scheduler, Wait
from mlx_mcp.state.ticket import Ticket
from mlx_mcp.types import Capability, ChatRequest, Message, Origin, Request, Result

__all__ = ["Gateway", "Health", "Job", "Model", "QueueStats", "Ticket", "Wait"]


WARM_UP: dict[Capability, Callable[[str], Request]] = {
    Capability.CHAT: lambda model: ChatRequest(
        model=model, messages=(Message(role="user", content="Hello!"),), max_tokens=1
    ),
}
"""The smallest request of each kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    ok: bool
    reasons: tuple[str, ...]
    """Why not."""


class Gateway:
    def __init__(
        self, models: Models, scheduler: Scheduler, history: History, results: Results, *, timeout_s: float
    ) -> None:
        """`timeout_s`: what a request may take from its arrival, waiting included."""
        self._models = models
        self._scheduler = scheduler
        self._history = history
        self._results = results
        self._timeout_s = timeout_s

    def submit(self, request: Request, origin: Origin) -> Ticket:
        """
        Queue the request and return at once.

        Raises:
            UnknownModel: No model is served under that name.
            NotCapable: That model cannot do this.
            QueueFull: Too many requests wait for that model.
            ShuttingDown: The server is on its way out.
        """
        model: Model | None = None
        try:
            model = self._models.resolve(request.model)
            return self._submit(request, origin, model)
        except MlxMcpError as exc:
            self._history.refuse(
                Refusal(
                    request_id=origin.request_id,
                    kind=request.needs,
                    model=model.id if model else None,
                    door=origin.door,
                    error=exc,
                )
            )
            raise

    def _submit(self, request: Request, origin: Origin, model: Model) -> Ticket:
        if model.info.capabilities and request.needs not in model.info.capabilities:
            able = ", ".join(sorted(model.info.capabilities))
            raise NotCapable(f"{model.id!r} cannot {request.needs}; it can {able}.", param="model")
        job = Job(
            request_id=origin.request_id,
            kind=request.needs,
            model=model.id,
            door=origin.door,
            client=origin.client,
            priority=origin.priority,
        )
        return self._scheduler.submit(request, job, model, timeout_s=self._timeout_s)

    async def run(self, request: Request, origin: Origin) -> tuple[Job, Result]:
        """The whole answer, and the record of the job that made it. Cancelling this cancels the job."""
        async with self.submit(request, origin) as ticket:
            result = await ticket.wait()
        return ticket.job, result

    async def result(self, job_id: str) -> Result:
        """
        The result of a detached job, once there is one.

        Raises:
            UnknownJob: It never was, or its result has expired.
        """
        if ticket := self._results.get(job_id):
            return await ticket.wait()
        return await self._scheduler.ticket(job_id).wait()

    def cancel(self, job_id: str) -> None:
        """Raises: UnknownJob, when no job with that id is queued or running."""
        self._scheduler.ticket(job_id).cancel()

    async def job(self, job_id: str) -> Job:
        """Raises: UnknownJob"""
        if job := await self._history.get(job_id):
            return job
        raise UnknownJob(f"There is no job {job_id!r}.")

    async def recent_jobs(self, limit: int = 50) -> Sequence[Job]:
        """Newest first."""
        return await self._history.recent(limit)

    def models(self) -> list[Model]:
        return list(self._models)

    def model(self, name: str) -> Model:
        """Raises: UnknownModel"""
        return self._models.resolve(name)

    def default_model(self, capability: Capability) -> Model:
        """
        The first that can do it.

        Raises:
            UnknownModel: None can.
        """
        for model in self._models:
            if not model.info.capabilities or capability in model.info.capabilities:
                return model
        raise UnknownModel(f"No model that is served can {capability}.")

    def queue(self) -> QueueStats:
        return self._scheduler.total()

    def queue_of(self, model: Model) -> QueueStats:
        return self._scheduler.stats(model)

    def preload(self, model: Model) -> None:
        """Begin to load it, if it is not in memory; `Model.listening` hears how it goes."""
        self._models.preload(model)

    async def load(self, name: str) -> Model:
        """
        The model, in memory.

        Raises:
            UnknownModel: No model is served under that name.
            ModelUnavailable: It could not be loaded.
        """
        model = self._models.resolve(name)
        await self._models.load(model)
        return model

    async def unload(self, name: str) -> Model:
        """
        The model, out of memory.

        Raises:
            UnknownModel: No model is served under that name.
            ModelBusy: It works.
        """
        model = self._models.resolve(name)
        await self._models.unload(model)
        return model

    async def warm_up(self, name: str, origin: Origin) -> float:
        """Load it and let it work once. Seconds that the work took. Raises: what `load` and `run` raise."""
        model = await self.load(name)
        began = time.monotonic()
        await self.run(WARM_UP[Capability.CHAT](model.id), origin)
        return time.monotonic() - began

    def set_alias(self, alias: str, name: str) -> Model:
        """
        Point an alias at another model: what is under way stays where it is.

        Raises:
            UnknownModel: No model is served under that name.
            InvalidRequest: The alias is a model's own name.
        """
        return self._models.set_alias(alias, name)

    def waits_of(self, model: Model) -> list[Wait]:
        """The jobs that wait for the model, in the order in which they will go."""
        return self._scheduler.waits(model)

    def stop(self) -> None:
        """Refuse what comes from now on, and interrupt what is there: the first step of a shutdown."""
        self._scheduler.stop()

    def health(self) -> Health:
        """Not ready: an engine is broken, or no model is there to serve a request at once or after its load."""
        troubled = [model for model in self._models if model.state in {"broken", "failed", "loading"}]
        reasons = [
            f"{model.id} is {model.state}" + (f": {model.failure}" if model.failure else "") for model in troubled
        ]
        down = any(model.state == "broken" for model in troubled) or len(troubled) == len(self.models())
        return Health(ok=not down, reasons=tuple(reasons) if down else ())
