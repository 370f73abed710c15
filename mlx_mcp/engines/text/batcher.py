"""
mlx-lm's continuous batching, with two differences.

1. A call of `next` decodes or prefills, never both, so that decoded tokens do not wait for a prefill; and a prompt
   whose prefill is over joins the decoding rows at once.
2. While rows decode, prefills take no more than their share of the time, however long the prompts are.
"""

import time
from collections.abc import Sequence

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, GenerationBatch, PromptProcessingBatch

from mlx_mcp.engines.text.rows import Prompts, Rows

SMALLEST_CHUNK = 32
DECODE_SHARE = 0.7
"""Of the time while both go on."""
MOST_CREDIT_S = 1.0
"""Time that rows have decoded alone, for which newcomers may be read without a pause."""
ONE_STEP_S = 1e-6
"""A debt that the next decode pays."""


class Batcher(BatchGenerator):
    def __init__(
        self,
        model: object,
        *,
        stop_tokens: Sequence[Sequence[int]],
        slots: int,
        stream: mx.Stream,
        prefill_rows: int = 8,
        busy_tokens: int,
        idle_tokens: int,
    ) -> None:
        """
        Args:
            prefill_rows: The most prompts that are read together.
            busy_tokens: The most prompt tokens in one prefill over all rows, while others decode.
            idle_tokens: The same while none does.
        """
        super().__init__(
            model,
            stop_tokens=stop_tokens,
            completion_batch_size=slots,
            prefill_batch_size=min(prefill_rows, slots),
            stream=stream,
        )
        self._busy_tokens, self._idle_tokens = busy_tokens, idle_tokens
        self._prompt_batch = Prompts.empty(model, self.sampler, idle_tokens)
        self._generation_batch = Rows.empty(model, self.sampler)
        self._debt_s = 0.0
        """Decoding that is owed before the next prefill; below zero it is a credit."""

    def _next(self) -> tuple[list[PromptProcessingBatch.Response], list[GenerationBatch.Response]]:
        rows = self._generation_batch
        room = self.completion_batch_size - len(rows) - len(self._prompt_batch)
        n = min(self.prefill_batch_size - len(self._prompt_batch), room, len(self._unprocessed_sequences))
        if n > 0:
            self._prompt_batch.extend(self._make_batch(n))
        began = time.perf_counter()
        if len(rows) and (self._debt_s > 0 or not self._currently_processing):
            tokens = rows.next()
            self._debt_s = max(self._debt_s - (time.perf_counter() - began), -MOST_CREDIT_S)
            return [], tokens
        if not len(rows):
            return self._prefill(self._idle_tokens) + self._join(), []
        responses = self._prefill(self._busy_tokens) + self._join()
        if self._currently_processing:  # a long prompt; the end of a short one brings a row into every step
            self._debt_s += (time.perf_counter() - began) * DECODE_SHARE / (1 - DECODE_SHARE)
        else:
            self._debt_s = max(self._debt_s, ONE_STEP_S)
        return responses, []

    def _prefill(self, budget: int) -> list[PromptProcessingBatch.Response]:
        chunk = max(SMALLEST_CHUNK, budget // max(1, len(self._currently_processing)))
        chunks: list[list[int]] = []
        responses: list[PromptProcessingBatch.Response] = []
        for uid, state in zip(self._prompt_batch.uids, self._currently_processing, strict=True):
            segments = state[0]
            size = 0 if _read(segments) else min(chunk, len(segments[0]))
            chunks.append(segments[0][:size])
            segments[0] = segments[0][size:]
            state[1] += size
            if ended := not segments[0]:
                segments.pop(0)
            responses.append(PromptProcessingBatch.Response(uid, (state[1], state[2]), ended, False))
        if any(chunks):
            self._prompt_batch.prompt(chunks)
        return responses

    def _join(self) -> list[PromptProcessingBatch.Response]:
        ready = [i for i, state in enumerate(self._currently_processing) if _read(state[0])]
        if not ready:
            return []
        last = [self._currently_processing[i][0][0] for i in ready]
        totals = [self._currently_processing[i][2] for i in ready]
        self._currently_processing = [state for state in self._currently_processing if not _read(state[0])]
        joined = self._prompt_batch.split(ready).generate(last)
        uids = list(joined.uids)
        self._generation_batch.extend(joined)
        return [PromptProcessingBatch.Response(u, (t, t), True, True) for u, t in zip(uids, totals, strict=True)]


def _read(segments: list[list[int]]) -> bool:
    """Whether of a prompt nothing is left but its last token."""
    return len(segments) == 1 and len(segments[0]) == 1
