"""The tool `queue_status`."""

from typing import Annotated

from mcp.server import MCPServer
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

from mlx_mcp.gateway import Gateway, Job, Model
from mlx_mcp.mcp_server.errors import tool

LOOK = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)


class ModelQueue(BaseModel):
    model: str
    running: int
    queued: int
    slots: int | None = Field(description="How many it works on at once; null while it is not in memory.")
    waiting: list[str] = Field(description="Ids of the jobs that wait, the next one first.")


class JobStatus(BaseModel):
    id: str
    kind: str
    model: str
    status: str = Field(description="queued, running, succeeded, failed, cancelled, expired or interrupted")
    created_at: str
    error: str | None
    ahead: int | None = Field(default=None, description="While queued: how many jobs go before it.")
    estimate_s: float | None = Field(default=None, description="Seconds until it is worked on, roughly.")
    waits_for: str | None = Field(default=None, description="What it waits for.")


class QueueStatus(BaseModel):
    running: int
    queued: int
    max_queued: int
    oldest_wait_s: float = Field(description="Seconds that the oldest waiting request has waited.")
    models: list[ModelQueue]
    job: JobStatus | None = Field(default=None, description="The job that was asked for.")


def register(server: MCPServer, gateway: Gateway) -> None:
    @tool(server, title="Queue and jobs", annotations=LOOK)
    async def queue_status(  # pyright: ignore[reportUnusedFunction]
        job_id: Annotated[str, Field(description="A job to look up, as in the tools' results.")] = "",
    ) -> QueueStatus:
        """See how busy the local models are, and how a job is doing. Quick; loads nothing."""
        total = gateway.queue()
        return QueueStatus(
            running=total.running,
            queued=total.queued,
            max_queued=total.max_queued,
            oldest_wait_s=total.oldest_wait_s,
            models=[describe_queue(model, gateway) for model in gateway.models()],
            job=describe(await gateway.job(job_id), gateway) if job_id else None,
        )


def describe_queue(model: Model, gateway: Gateway) -> ModelQueue:
    queue = gateway.queue_of(model)
    return ModelQueue(
        model=model.id,
        running=queue.running,
        queued=queue.queued,
        slots=queue.slots,
        waiting=[wait.job.id for wait in gateway.waits_of(model)],
    )


def describe(job: Job, gateway: Gateway) -> JobStatus:
    waits = gateway.waits_of(gateway.model(job.model))
    wait = next((wait for wait in waits if wait.job.id == job.id), None)
    return JobStatus(
        id=job.id,
        kind=job.kind,
        model=job.model,
        status=job.status,
        created_at=job.created_at.isoformat(),
        error=job.error_message,
        ahead=wait.ahead if wait else None,
        estimate_s=wait.estimate_s if wait else None,
        waits_for=wait.waits_for if wait else None,
    )
