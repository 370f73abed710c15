"""GET /v1/queue/stats"""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from mlx_mcp.gateway import Gateway


def register(router: APIRouter, gateway: Gateway) -> None:
    @router.get("/v1/queue/stats")
    async def queue_stats() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """How many requests run and wait, in all and for each model."""
        total = asdict(gateway.queue())
        del total["slots"]
        return total | {"models": {model.id: asdict(gateway.queue_of(model)) for model in gateway.models()}}
