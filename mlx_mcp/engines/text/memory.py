"""What a row's keys and values weigh."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlx_mcp.engines.arrays import evaluate, leaves

STEP = 256
"""Caches grow by so many tokens at a time (`step` in mlx-lm's caches)."""


@dataclass(frozen=True, slots=True)
class Growth:
    """Of one layer: bytes a token, up to so many tokens."""

    per_token: float
    limit: int | None


@dataclass(frozen=True, slots=True)
class RowCost:
    fixed: int
    """Bytes that do not depend on the number of tokens: recurrent states."""
    growths: tuple[Growth, ...]

    def of(self, tokens: int) -> int:
        """Bytes of one row that holds so many tokens."""
        allocated = -(-tokens // STEP) * STEP
        return self.fixed + int(sum(g.per_token * min(allocated, g.limit or allocated) for g in self.growths))


def measure(model: Callable[..., Any]) -> RowCost:
    """By letting the model read one token: its configuration tells it in as many ways as there are architectures."""
    cache = make_prompt_cache(model)
    model(mx.array([[0]]), cache=cache)
    evaluate([layer.state for layer in cache])
    fixed = 0
    growths: list[Growth] = []
    for layer in _flat(cache):
        keys = getattr(layer, "keys", None)
        if keys is None:
            fixed += layer.nbytes
        else:
            limit = getattr(layer, "max_size", None)
            growths.append(Growth(layer.nbytes / keys.shape[2], max(limit, STEP) if limit else None))
    return RowCost(fixed, tuple(growths))


def _flat(cache: Iterable[Any]) -> Iterable[Any]:
    for layer in cache:
        if inner := getattr(layer, "caches", None):
            yield from _flat(inner)
        else:
            yield layer


def weights_bytes(model: Any) -> int:
    return sum(array.nbytes for array in leaves(model.parameters()))
