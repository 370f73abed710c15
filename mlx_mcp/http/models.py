"""GET /v1/models, GET /v1/models/{id}, and what brings models into memory and out of it"""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from mlx_mcp.gateway import Gateway, Model
from mlx_mcp.http.disconnect import until_gone
from mlx_mcp.http.origin import origin_of


class Named(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str


def register(router: APIRouter, gateway: Gateway) -> None:
    @router.get("/v1/models")
    async def models() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """The models that are served, in memory or not."""
        return {"object": "list", "data": [describe(model) for model in gateway.models()]}

    @router.post("/v1/models/load")
    async def load(body: Named, http: Request) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Bring a model into memory, and answer when it is there. Whoever leaves before does not stop the load."""
        return describe(await until_gone(http.receive, lambda: gateway.load(body.model)))

    @router.post("/v1/models/{model_id:path}/unload")
    async def unload(model_id: str) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Give a model's memory back; 409 while it works."""
        return describe(await gateway.unload(model_id))

    @router.post("/v1/models/{model_id:path}/warmup")
    async def warm_up(model_id: str, http: Request) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Load a model and let it work once, so that the first user does not wait for its kernels."""
        origin = origin_of(http)
        seconds = await until_gone(http.receive, lambda: gateway.warm_up(model_id, origin))
        return describe(gateway.model(model_id)) | {"warmup_s": round(seconds, 3)}

    @router.put("/v1/models/aliases/{alias:path}")
    async def set_alias(alias: str, body: Named) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Point an alias at a model: what has begun goes on where it is, what comes next goes there."""
        return describe(gateway.set_alias(alias, body.model))

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
        "aliases": list(model.aliases),
        "version": model.settings.version,
        "pinned": model.settings.pin,
        "kind": info.kind,
        "family": info.family,
        "capabilities": sorted(info.capabilities),
        "context_length": info.context_length,
        "quantization": info.quantization,
        "size": info.size_bytes,
        "loaded": model.state == "loaded",
        "memory": {"weights": model.weights_bytes, "caches": model.cache_bytes},
    }
