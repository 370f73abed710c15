"""A text model in memory: weights, tokenizer, and what is known of them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import mlx.core as mx
from mlx_lm import load
from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_mcp.engines.arrays import evaluate
from mlx_mcp.engines.base import EngineOptions
from mlx_mcp.engines.text.memory import RowCost, measure, weights_bytes
from mlx_mcp.errors import ModelUnavailable


@dataclass(frozen=True, slots=True, eq=False)
class TextModel:
    model: Any
    tokenizer: TokenizerWrapper
    weights_bytes: int
    cost: RowCost
    """Of a row's keys and values."""
    trimmable: bool
    """Whether a cached prompt can be cut back to any of its beginnings; recurrent states can't."""
    generation_config: dict[str, Any]
    """The defaults of its maker; empty where there are none."""

    @classmethod
    def load(cls, options: EngineOptions) -> Self:
        """Raises: ModelUnavailable, or whatever the library raises."""
        path, trust = options.path, options.trust_remote_code
        model, tokenizer = load(
            str(path), lazy=True, trust_remote_code=trust, tokenizer_config={"trust_remote_code": trust}
        )
        if mx.default_device() == mx.cpu:  # float32 is the only type whose matrix products are fast there
            model.set_dtype(mx.float32)
        evaluate(model.parameters())
        cache = make_prompt_cache(model)
        if not all(hasattr(layer, "merge") for layer in cache):
            raise ModelUnavailable(f"{path} has a prompt cache of a kind that cannot be batched.")
        config = path / "generation_config.json"
        return cls(
            model=model,
            tokenizer=tokenizer,
            weights_bytes=weights_bytes(model),
            cost=measure(model),
            trimmable=can_trim_prompt_cache(cache) and not any(slides(layer) for layer in cache),
            generation_config=json.loads(config.read_text()) if config.exists() else {},
        )


def slides(layer: Any) -> bool:
    """Whether a layer's cache is a window, which can be cut back only as long as nothing has left it."""
    inner = getattr(layer, "caches", ())
    return getattr(layer, "max_size", None) is not None or any(slides(each) for each in inner)


def estimated_bytes(options: EngineOptions) -> int:
    """Of the weights in memory, from their size on disk."""
    on_disk = options.info.size_bytes or 0
    if mx.default_device() != mx.cpu:
        return on_disk
    return on_disk * (2 if _is_half(options.path) else 1)


def _is_half(path: Path) -> bool:
    """Whether the weights are of a 16-bit type, which `TextModel.load` widens."""
    config = json.loads((path / "config.json").read_text())
    names = (config.get("dtype"), config.get("torch_dtype"))
    return "quantization" not in config and any(name in {"float16", "bfloat16"} for name in names)
