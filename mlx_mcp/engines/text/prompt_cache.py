"""Prompts that were read already, shared by all requests of a model."""

from typing import Any, Literal

from mlx_lm.models.cache import LRUPromptCache, can_trim_prompt_cache, trim_prompt_cache

from mlx_mcp.engines.arrays import async_evaluate

MODEL = "model"
"""mlx-lm's cache can serve several models and wants a name; ours serves one."""
Kind = Literal["system", "user", "assistant"]
MAX_PROMPTS = 1024


class PromptCache:
    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lru = LRUPromptCache(max_size=MAX_PROMPTS, max_bytes=max_bytes)

    @property
    def nbytes(self) -> int:
        return self._lru.nbytes

    def fetch(self, prompt: list[int]) -> tuple[list[Any] | None, list[int]]:
        """The longest cached beginning of the prompt, and the rest, of which there is always at least one token."""
        cache, rest = self._lru.fetch_nearest_cache(MODEL, prompt)
        if cache is None or rest:
            return cache, rest
        if not can_trim_prompt_cache(cache):
            return None, prompt
        trim_prompt_cache(cache, 1)
        return cache, prompt[-1:]

    def keep(self, cache: list[Any], tokens: list[int], kind: Kind) -> None:
        """
        Keep what was computed for the tokens, which are those that `cache` holds.

        `kind` is whose turn they end with: when room is needed, answers go first and system messages last.
        """
        async_evaluate([layer.state for layer in cache])  # a lazy slice would hold on to the whole batch's arrays
        self._lru.insert_cache(MODEL, list(tokens), cache, cache_type=kind)

    def trim(self, target_bytes: int) -> None:
        self._lru.trim_to(n_bytes=target_bytes)
