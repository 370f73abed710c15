"""Logits processors against repetition."""

from collections.abc import Callable

import mlx.core as mx

from mlx_mcp.engines.arrays import subtract_at
from mlx_mcp.types import Sampling

LogitsProcessor = Callable[[mx.array, mx.array], mx.array]
"""(tokens so far, prompt included; logits of shape (1, vocabulary)) -> logits"""


def penalties(sampling: Sampling, prompt_tokens: int) -> list[LogitsProcessor]:
    """
    The request's penalties; none is an empty list, which costs a step nothing.

    Presence and frequency look at the answer alone, as in OpenAI's API; the repetition penalty (Keskar et al. 2019,
    https://arxiv.org/abs/1909.05858) at prompt and answer, as in transformers.
    """
    processors: list[LogitsProcessor] = []
    if (repetition := sampling.repetition_penalty or 1.0) != 1.0:
        processors.append(lambda tokens, logits: _repetition(tokens, logits, repetition))
    presence, frequency = sampling.presence_penalty or 0.0, sampling.frequency_penalty or 0.0
    if presence or frequency:
        processors.append(lambda tokens, logits: _additive(tokens[prompt_tokens:], logits, presence, frequency))
    return processors


def _repetition(tokens: mx.array, logits: mx.array, penalty: float) -> mx.array:
    seen = logits[:, tokens]
    logits[:, tokens] = mx.where(seen < 0, seen * penalty, seen / penalty)  # equal tokens get equal values
    return logits


def _additive(answer: mx.array, logits: mx.array, presence: float, frequency: float) -> mx.array:
    if answer.size == 0:
        return logits
    if presence:
        logits[:, answer] = logits[:, answer] - presence  # once for each distinct token
    return subtract_at(logits, answer, frequency)  # once for each occurrence
