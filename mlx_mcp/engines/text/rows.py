"""
mlx-lm's batches of rows, with two differences.

1. A prompt's last token rides along with the next decode step; mlx-lm runs a forward pass of its own for it.
2. The vocabulary is not normalised in each step: sampling rarely needs it.

Reaches into names that mlx-lm does not document: it is pinned, and `tests/engines/text` judges an upgrade.
"""

import mlx.core as mx
from mlx_lm.generate import GenerationBatch, PromptProcessingBatch, StopSequences

from mlx_mcp.engines.arrays import async_evaluate, evaluate
from mlx_mcp.engines.text.sampling import Draw, draw


class AfterPrompt(StopSequences.Matcher):
    """A stop matcher that does not look at the row's first token, which is the prompt's last."""

    def __init__(self, matcher: StopSequences.Matcher) -> None:  # pyright: ignore[reportMissingSuperCall]
        self._matcher = matcher
        self._in_prompt = True

    def advance(self, token: int) -> bool:
        if self._in_prompt:
            self._in_prompt = False
            return False
        return self._matcher.advance(token)


class Rows(GenerationBatch):
    """The rows that decode. Before its first step a row's `_num_tokens` is -1: that step reads its prompt's end."""

    _built = False

    def __init__(
        self,
        model: object,
        uids: list[int],
        inputs: mx.array,
        prompt_cache: list[object],
        tokens: list[list[int]],
        samplers: list[Draw],
        fallback_sampler: object,
        logits_processors: list[list[object]],
        stop_sequences: list[StopSequences],
        max_tokens: list[int],
    ) -> None:
        super().__init__(
            model,
            uids,
            inputs,
            prompt_cache,
            tokens,
            samplers,
            fallback_sampler,
            logits_processors,
            stop_sequences,
            max_tokens,
        )  # its constructor takes a step, which `_step` declines
        self._built = True
        self._next_logprobs = [None] * len(self.uids)
        self._num_tokens = [-1] * len(self.uids)
        self._matchers = [AfterPrompt(matcher) for matcher in self._matchers]

    def next(self) -> list[GenerationBatch.Response]:
        joined = {uid for uid, produced in zip(self.uids, self._num_tokens, strict=True) if produced < 0}
        return [response for response in super().next() if response.uid not in joined]

    def _step(self) -> tuple[list[int], list[None]]:
        if not self._built:
            return [], []
        inputs = self._next_tokens
        finishing = all(n + 1 >= limit for n, limit in zip(self._num_tokens, self.max_tokens, strict=True))
        if not finishing:  # or else nobody would want the result
            self._launch(inputs)
        evaluate(inputs)
        tokens: list[int] = inputs.tolist()  # pyright: ignore[reportAssignmentType]
        if not finishing:
            for held, token in zip(self.tokens, tokens, strict=True):
                held.append(token)
        return tokens, [None] * len(tokens)

    def _launch(self, inputs: mx.array) -> None:
        """Start the forward pass after `inputs`, of shape (rows,), and the draw from it."""
        logits, contexts = self._process(self.model(inputs[:, None], cache=self.prompt_cache)[:, -1, :], inputs)
        self._next_tokens = draw(logits, self.samplers, [n + 1 for n in self._num_tokens])
        async_evaluate(self._next_tokens, *contexts)

    def _process(self, logits: mx.array, inputs: mx.array) -> tuple[mx.array, list[mx.array]]:
        if not any(self.logits_processors):
            return logits, []
        rows: list[mx.array] = []
        contexts: list[mx.array] = []
        for i, processors in enumerate(self.logits_processors):
            row = logits[i : i + 1]
            if processors:
                contexts.append(self._token_context[i].update_and_fetch(inputs[i : i + 1]))
            for processor in processors:
                row = processor(contexts[-1], row)
            rows.append(row)
        return mx.concatenate(rows), contexts


class Prompts(PromptProcessingBatch):
    """The rows whose prompts are being read."""

    def split(self, indices: list[int]) -> PromptProcessingBatch:
        return self if len(indices) == len(self) else super().split(indices)  # spares a deep copy

    def generate(self, tokens: list[list[int]]) -> Rows:
        """Rows that decode, from rows whose prompts have been read but for their last tokens."""
        rows = Rows(
            self.model,
            self.uids,
            mx.array([t[-1] for t in tokens], mx.uint32),
            self.prompt_cache,
            self.tokens,
            self.samplers,
            self.fallback_sampler,
            self.logits_processors,
            self.stop_sequences,
            self.max_tokens,
        )
        self.uids, self.tokens, self.prompt_cache = [], [], []
        self.samplers, self.logits_processors, self.stop_sequences, self.max_tokens = [], [], [], []
        return rows
