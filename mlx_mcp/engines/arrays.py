"""The parts of `mlx.core` whose own stubs leave types open."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Callable
from typing import cast

import mlx.core as mx
from mlx.utils import tree_flatten

evaluate = cast("Callable[..., None]", mx.eval)
"""Compute the arrays, or the trees of them, and wait for it."""

async_evaluate = cast("Callable[..., None]", mx.async_eval)
"""Begin to compute them."""


def _draw_row(logits: mx.array, key: mx.array) -> mx.array:
    return mx.random.categorical(logits, key=key)


_draw_rows = cast("Callable[[mx.array, mx.array], mx.array]", mx.vmap(_draw_row))


def leaves(tree: object) -> list[mx.array]:
    """All arrays in a tree of dicts and lists."""
    return [array for _, array in cast("list[tuple[str, mx.array]]", tree_flatten(tree))]


def categorical(logits: mx.array, keys: mx.array) -> mx.array:
    """
    Draw one token for each row, each with a key of its own.

    Args:
        logits: (rows, vocabulary)
        keys: (rows, 2), uint32

    Returns: (rows,)
    """
    return _draw_rows(logits, keys)


def subtract_at(logits: mx.array, columns: mx.array, value: float) -> mx.array:
    """`value` off each of the columns, as often as it is named."""
    return logits.at[:, columns].subtract(value)
