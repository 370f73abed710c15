# What engines/text builds on, undocumented names included.

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import mlx.core as mx

class StopSequences:
    class Matcher:
        def __init__(self, root: object) -> None: ...
        def advance(self, token: int) -> bool: ...

    def __init__(self, stop_sequences: Sequence[Sequence[int]] | None = None) -> None: ...
    def matcher(self) -> Matcher: ...

class TokenBuffer:
    def update_and_fetch(self, tokens: mx.array) -> mx.array: ...

class PromptProcessingBatch:
    @dataclass
    class Response:
        uid: int
        progress: tuple[int, int]
        end_of_segment: bool
        end_of_prompt: bool

    model: Any
    uids: list[int]
    prompt_cache: list[Any]
    tokens: list[list[int]]
    samplers: list[Any]
    fallback_sampler: Any
    logits_processors: list[list[Any]]
    stop_sequences: list[StopSequences]
    max_tokens: list[int]

    def __len__(self) -> int: ...
    def extend(self, batch: PromptProcessingBatch) -> None: ...
    def split(self, indices: list[int]) -> PromptProcessingBatch: ...
    def prompt(self, tokens: list[list[int]]) -> None: ...
    def generate(self, tokens: list[list[int]]) -> GenerationBatch: ...
    @classmethod
    def empty(cls, model: object, fallback_sampler: object, prefill_step_size: int = 2048) -> Self: ...

class GenerationBatch:
    @dataclass
    class Response:
        uid: int
        token: int
        logprobs: Any
        finish_reason: str | None
        prompt_cache: list[Any] | None
        all_tokens: list[int] | None

    model: Any
    uids: list[int]
    prompt_cache: list[Any]
    tokens: list[list[int]]
    samplers: list[Any]
    logits_processors: list[list[Callable[[mx.array, mx.array], mx.array]]]
    max_tokens: list[int]
    _next_tokens: mx.array
    _next_logprobs: list[None]
    _num_tokens: list[int]
    _matchers: Sequence[StopSequences.Matcher]
    _token_context: list[TokenBuffer]

    def __init__(
        self,
        model: object,
        uids: list[int],
        inputs: mx.array,
        prompt_cache: list[Any],
        tokens: list[list[int]],
        samplers: list[Any],
        fallback_sampler: object,
        logits_processors: list[list[Any]],
        stop_sequences: list[StopSequences],
        max_tokens: list[int],
    ) -> None: ...
    def __len__(self) -> int: ...
    def extend(self, batch: GenerationBatch) -> None: ...
    def next(self) -> list[Response]: ...
    def _step(self) -> tuple[list[int], list[None]]: ...
    @classmethod
    def empty(cls, model: object, fallback_sampler: object) -> Self: ...

class BatchGenerator:
    sampler: Any
    completion_batch_size: int
    prefill_batch_size: int
    _prompt_batch: PromptProcessingBatch
    _generation_batch: GenerationBatch
    _unprocessed_sequences: deque[Any]
    _currently_processing: list[Any]

    def __init__(
        self,
        model: object,
        *,
        stop_tokens: Sequence[Sequence[int]] | None = None,
        completion_batch_size: int = 32,
        prefill_batch_size: int = 8,
        stream: mx.Stream | None = None,
    ) -> None: ...
    prompt_cache_nbytes: int
    def insert_segments(
        self,
        segments: list[list[list[int]]],
        max_tokens: list[int] | None = None,
        caches: list[list[Any] | None] | None = None,
        all_tokens: list[list[int]] | None = None,
        samplers: list[Any] | None = None,
        logits_processors: Sequence[Sequence[Any]] | None = None,
    ) -> list[int]: ...
    def next(self) -> tuple[list[PromptProcessingBatch.Response], list[GenerationBatch.Response]]: ...
    def _next(self) -> tuple[list[PromptProcessingBatch.Response], list[GenerationBatch.Response]]: ...
    def _make_batch(self, n: int) -> PromptProcessingBatch: ...
    def extract_cache(self, uids: list[int]) -> dict[int, tuple[list[Any], list[int]]]: ...
    def remove(self, uids: list[int], return_prompt_caches: bool = False) -> dict[int, tuple[list[Any], list[int]]]: ...
    def close(self) -> None: ...
