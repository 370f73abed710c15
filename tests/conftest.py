"""Fixtures for all tests. MLX is set up before anything imports it."""

import os

os.environ["MLX_DISABLE_COMPILE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import httpx2 as httpx
import pytest
import rich.logging  # noqa: F401 - the MCP SDK would import it in the event loop
from blockbuster import BlockBuster, blockbuster_ctx
from fastapi import FastAPI
from hypothesis import settings as hypothesis_settings

from mlx_mcp.app import build_app
from mlx_mcp.engines.blas import load_fast_blas
from mlx_mcp.gateway import Gateway
from mlx_mcp.mcp_server import build_server
from mlx_mcp.runtime import Runtime
from mlx_mcp.settings import ModelSettings, Settings
from tests.fakes import EchoEngine, EndlessEngine, Engines

hypothesis_settings.register_profile("ours", deadline=None, derandomize=True, database=None)
hypothesis_settings.load_profile("ours")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def blockbuster() -> Generator[BlockBuster]:
    """Any call in our code that blocks the event loop fails the test."""
    with blockbuster_ctx("mlx_mcp") as blocking:
        yield blocking


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a text model that loads and answers within milliseconds."""
    load_fast_blas()
    from tests import tiny

    return tiny.make(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def settings() -> Settings:
    models = [ModelSettings(id=name, source=f"/models/{name}") for name in ("echo", "endless", "missing")]
    return Settings(models=tuple(models), queue_size=2, max_concurrency=1, queue_timeout=20, keep_alive=0.2)


@pytest.fixture
def echo() -> EchoEngine:
    return EchoEngine()


@pytest.fixture
def endless() -> EndlessEngine:
    return EndlessEngine()


@pytest.fixture
async def runtime(settings: Settings, echo: EchoEngine, endless: EndlessEngine) -> AsyncGenerator[Runtime]:
    async with Engines(echo=echo, endless=endless).runtime(settings) as runtime:
        yield runtime
        echo.gate.set()


@pytest.fixture
def gateway(runtime: Runtime) -> Gateway:
    return runtime.gateway


@pytest.fixture
async def app(runtime: Runtime) -> AsyncGenerator[FastAPI]:
    app = build_app(runtime, build_server(runtime.gateway))
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def client(app: FastAPI) -> AsyncGenerator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
        yield client
