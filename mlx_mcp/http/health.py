"""GET /health"""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from mlx_mcp.gateway import Gateway, Model


def register(router: APIRouter, gateway: Gateway) -> None:
    @router.get("/health", response_model=None)
    async def health() -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        """200 when requests can be served, else 503 and why not."""
        state = gateway.health()
        body = {
            "status": "ok" if state.ok else "unavailable",
            "reasons": list(state.reasons),
            "models": {model.id: describe(model) for model in gateway.models()},
        }
        return JSONResponse(body, 200 if state.ok else 503)


def describe(model: Model) -> dict[str, Any]:
    """`engine` is None while the model is not in memory."""
    loading = model.loading
    return {
        "state": model.state,
        "loading": asdict(loading) if loading else None,
        "failure": str(model.failure) if model.failure else None,
        "engine": asdict(model.health) if model.health else None,
    }
