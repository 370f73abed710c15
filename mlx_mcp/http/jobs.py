"""GET /v1/queue/stats"""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from mlx_mcp.gateway import Gateway, Model, Wait


def register(router: APIRouter, gateway: Gateway) -> None:
    @router.get("/v1/queue/stats")
    async def queue_stats() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """How many requests run and wait, in all and for each model."""
        total = asdict(gateway.queue())
        del total["slots"]
        return total | {"models": {model.id: _of(model) for model in gateway.models()}}

    def _of(model: Model) -> dict[str, Any]:
        waiting = [describe(wait) for wait in gateway.waits_of(model)]
        return asdict(gateway.queue_of(model)) | {"waiting": waiting}


def describe(wait: Wait) -> dict[str, Any]:
    return {
        "id": wait.job.id,
        "request_id": wait.job.request_id,
        "priority": wait.job.priority,
        "ahead": wait.ahead,
        "estimate_s": wait.estimate_s,
        "waits_for": wait.waits_for,
    }
