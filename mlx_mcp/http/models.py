"""GET /v1/models, GET /v1/models/{id}"""

from typing import Any

from fastapi import APIRouter

from mlx_mcp.gateway import Gateway, Model


def register(router: APIRouter, gateway: Gateway) -> None:
    @router.get("/v1/models")
    async def models() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """The models that are served, in memory or not."""
        return {"object": "list", "data": [describe(model) for model in gateway.models()]}

    @router.get("/v1/models/{model_id:path}")
    async def model(model_id: str) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """One of them, by its id or an alias."""
        return describe(gateway.model(model_id))


def describe(model: Model) -> dict[str, Any]:
    info = model.info
    return {
        "id": model.id,
        "object": "model",
        "created": int(model.created_at.timestamp()),
        "owned_by": "mlx-mcp",
        "aliases": list(model.settings.aliases),
        "kind": info.kind,
        "family": info.family,
        "capabilities": sorted(info.capabilities),
        "context_length": info.context_length,
        "quantization": info.quantization,
        "size": info.size_bytes,
        "loaded": model.state == "loaded",
    }
