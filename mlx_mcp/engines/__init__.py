"""The engines, by kind. Values are import paths, so that a name costs nothing until a model needs it."""

from importlib import import_module
from typing import Any

from mlx_mcp.engines.base import Engine, EngineOptions, Report
from mlx_mcp.engines.blas import load_fast_blas
from mlx_mcp.engines.inspection import inspect
from mlx_mcp.engines.sources import fetch, find
from mlx_mcp.engines.starters import STARTERS
from mlx_mcp.errors import ModelUnavailable
from mlx_mcp.settings import STARTER, ModelSettings, Settings
from mlx_mcp.types import ModelInfo, Sampling

ENGINES = {
    "text": "mlx_mcp.engines.text:TextEngine",
}


def served(settings: Settings) -> tuple[ModelSettings, ...]:
    """The models that the settings name, or else the starter models."""
    return settings.models or tuple(ModelSettings.model_validate(f"{STARTER}{name}") for name in STARTERS)


def describe(model: ModelSettings, settings: Settings) -> ModelInfo:
    """What can be known of a model without loading it, or fetching it. Reads files."""
    try:
        return check(model, settings)
    except ModelUnavailable:  # whoever asks for the model is told why
        return ModelInfo(kind=model.kind or settings.model_type)


def check(model: ModelSettings, settings: Settings) -> ModelInfo:
    """The same. Raises: ModelUnavailable, when it is clear already that the model can't be served."""
    path = find(model.source, settings.cache_dir)
    if path is not None:
        return inspect(path, model.kind or settings.model_type)
    starter = STARTERS.get(model.source.removeprefix(STARTER))
    return starter.info if starter else ModelInfo(kind=model.kind or settings.model_type)


def open_engine(model: ModelSettings, settings: Settings, report: Report) -> Engine[Any]:
    """
    The model's engine, its files at hand and its weights not yet in memory.

    Takes as long as it takes to get the files; call it on the thread that will own the engine.

    Raises:
        ModelUnavailable: Its files cannot be had, or no engine can serve them.
    """
    path = fetch(model.source, settings.cache_dir, report)
    info = inspect(path, model.kind or settings.model_type)
    limits = [n for n in (model.context_length or settings.context_length, info.context_length) if n]
    options = EngineOptions(
        path=path,
        context_length=min(limits, default=None),
        info=info,
        sampling=Sampling(**model.sampling.model_dump()),
        trust_remote_code=model.trust_remote_code,
        slots=model.max_concurrency or settings.max_concurrency,
        default_max_tokens=settings.default_max_tokens,
        prompt_cache_bytes=settings.prompt_cache_bytes,
    )
    load_fast_blas()  # must come before the first import of MLX
    module, _, name = ENGINES[info.kind or ""].partition(":")
    engine: Engine[Any] = getattr(import_module(module), name)(options)
    return engine
