"""Drawing the next token of every row, in one call for each distinct setting."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p

from mlx_mcp.engines.arrays import categorical
from mlx_mcp.engines.base import NO_SAMPLING
from mlx_mcp.types import Sampling

MIX_SEED = 0x9E3779B97F4A7C15
MIX_POSITION = 0xBF58476D1CE4E5B9
"""Odd 64-bit constants (of the splitmix64 generator): neighbouring seeds and positions give unrelated keys."""
COLDEST = 1e-5
"""Logits divided by a lower temperature leave float32's range; the likeliest token is what they would come to."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is done to the distribution. Rows of equal shapes are drawn together."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float


@dataclass(frozen=True, slots=True)
class Draw:
    """How one row is sampled. It stands where mlx-lm keeps a row's sampler, and so follows the row."""

    shape: Shape
    seed: int

    def key(self, position: int) -> tuple[int, int]:
        """Depends on seed and position alone: the batch around the row cannot change it."""
        mixed = ((self.seed + 1) * MIX_SEED + position * MIX_POSITION) % 2**64
        return mixed >> 32, mixed % 2**32


def with_defaults(
    sampling: Sampling, generation_config: dict[str, Any], configured: Sampling = NO_SAMPLING
) -> Sampling:
    """
    What the request leaves open, filled from the model's settings here, and then from its `generation_config.json`.

    What all leave open is greedy decoding without penalties, as in mlx-lm. A model that says it does not sample
    still has its penalty.
    """
    samples = generation_config.get("do_sample", True)

    def pick(name: str, neutral: float, *, default: bool = samples) -> float:
        asked = getattr(sampling, name)
        asked = getattr(configured, name) if asked is None else asked
        return (float(generation_config.get(name) or neutral) if default else neutral) if asked is None else asked

    return Sampling(
        temperature=pick("temperature", 0.0),
        top_p=pick("top_p", 1.0),
        top_k=int(pick("top_k", 0)),
        min_p=pick("min_p", 0.0),
        repetition_penalty=pick("repetition_penalty", 1.0, default=True),
        presence_penalty=pick("presence_penalty", 0.0, default=False),
        frequency_penalty=pick("frequency_penalty", 0.0, default=False),
    )


def shape_of(sampling: Sampling) -> Shape:
    """Of a sampling that `with_defaults` has completed."""
    temperature = sampling.temperature or 0.0
    return Shape(
        temperature=temperature if temperature >= COLDEST else 0.0,
        top_p=1.0 if sampling.top_p is None else sampling.top_p,
        top_k=sampling.top_k or 0,
        min_p=sampling.min_p or 0.0,
    )


def draw(logits: mx.array, draws: Sequence[Draw], positions: Sequence[int]) -> mx.array:
    """
    One token for each row.

    Args:
        logits: (rows, vocabulary), not normalised.
        draws: One for each row.
        positions: How many tokens each row has produced.

    Returns: (rows,)
    """
    groups: dict[Shape, list[int]] = {}
    for row, each in enumerate(draws):
        groups.setdefault(each.shape, []).append(row)
    if len(groups) == 1:
        return _draw_group(logits, draws, positions)
    parts: list[mx.array] = []
    order: list[int] = []
    for rows in groups.values():
        parts.append(_draw_group(logits[mx.array(rows)], [draws[r] for r in rows], [positions[r] for r in rows]))
        order += rows
    back = sorted(range(len(order)), key=order.__getitem__)
    return mx.concatenate(parts)[mx.array(back)]


def _draw_group(logits: mx.array, draws: Sequence[Draw], positions: Sequence[int]) -> mx.array:
    shape = draws[0].shape
    if shape.temperature == 0:
        return mx.argmax(logits, axis=-1)
    for narrow in _filters(shape, logits.shape[-1]):
        logits = narrow(logits)
    keys = mx.array([d.key(p) for d, p in zip(draws, positions, strict=True)], dtype=mx.uint32)
    return categorical(logits * (1 / shape.temperature), keys)


def _filters(shape: Shape, vocabulary: int) -> list[Callable[[mx.array], mx.array]]:
    """In mlx-lm's order. Only top-p looks at probabilities: the others do not mind an unnormalised row."""
    filters: list[Callable[[mx.array], mx.array]] = []
    if 0 < shape.top_p < 1:
        filters.append(lambda x: apply_top_p(x - mx.logsumexp(x, axis=-1, keepdims=True), shape.top_p))
    if shape.min_p > 0:
        filters.append(lambda x: apply_min_p(x, shape.min_p))
    if 0 < shape.top_k < vocabulary:
        filters.append(lambda x: apply_top_k(x, shape.top_k))
    return filters
