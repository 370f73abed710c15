"""OpenAI-compatible routes: one module for each subject, each with one `register`."""

from fastapi import APIRouter

from mlx_mcp.gateway import Gateway
from mlx_mcp.http import chat, health, jobs, metrics, models
from mlx_mcp.http.errors import install_error_handlers
from mlx_mcp.telemetry.metrics import Metrics

__all__ = ["build_router", "install_error_handlers"]


def build_router(gateway: Gateway, numbers: Metrics, *, keep_alive_s: float) -> APIRouter:
    """`keep_alive_s`: seconds of silence before a stream gets a comment."""
    router = APIRouter()
    for subject in (health, models, jobs):
        subject.register(router, gateway)
    chat.register(router, gateway, keep_alive_s=keep_alive_s)
    metrics.register(router, numbers)
    return router
