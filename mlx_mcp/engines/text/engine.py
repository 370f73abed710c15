"""The engine: requests become rows of a batch, and the batch's tokens events."""

import gc
import json
import random
from typing import Any

import jinja2
import mlx.core as mx
from mlx_lm import load
from mlx_lm.generate import GenerationBatch, PromptProcessingBatch
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_mcp.engines.arrays import evaluate
from mlx_mcp.engines.base import Engine, EngineOptions, Key, Report
from mlx_mcp.engines.text.batcher import Batcher
from mlx_mcp.engines.text.penalties import penalties
from mlx_mcp.engines.text.prompt_cache import PromptCache
from mlx_mcp.engines.text.row import Row
from mlx_mcp.engines.text.sampling import Draw, shape_of, with_defaults
from mlx_mcp.engines.text.stops import StopText
from mlx_mcp.errors import ContextOverflow, InvalidRequest, ModelUnavailable, NotCapable
from mlx_mcp.types import Capability, ChatRequest, Event, Loading, Message, Progress

SNAPSHOT_TOKENS = 64
"""Prompts with at least so many new tokens are cached before they have their answer."""


class TextEngine(Engine[ChatRequest]):
    capabilities = frozenset({Capability.CHAT})

    def __init__(self, options: EngineOptions) -> None:
        self.slots = options.slots
        self.context_length = options.context_length
        self._options = options
        self._rows: dict[int, Row] = {}
        self._uids: dict[Key, int] = {}
        self._model: Any = None
        self._tokenizer: TokenizerWrapper
        self._batch: Batcher
        self._cache: PromptCache
        self._generation_config: dict[str, Any] = {}

    def load(self, report: Report) -> None:
        path = self._options.path
        report(Loading("reading the weights"))
        self._model, self._tokenizer = load(str(path), lazy=True)
        if mx.default_device() == mx.cpu:  # float32 is the only type whose matrix products are fast there
            self._model.set_dtype(mx.float32)
        evaluate(self._model.parameters())
        if not all(hasattr(layer, "merge") for layer in make_prompt_cache(self._model)):
            raise ModelUnavailable(f"{path} has a prompt cache of a kind that cannot be batched.")
        config = path / "generation_config.json"
        self._generation_config = json.loads(config.read_text()) if config.exists() else {}
        self._open()

    def _open(self) -> None:
        self._cache = PromptCache(self._options.prompt_cache_bytes)
        self._batch = Batcher(
            self._model,
            stop_tokens=[[token] for token in self._tokenizer.eos_token_ids],
            slots=self.slots,
            stream=mx.default_stream(mx.default_device()),
        )

    def reset(self) -> None:
        """Drops the batch and the prompt cache, which a failed step may have left half written; keeps the weights."""
        self._close()
        self._open()

    def _close(self) -> None:
        self._rows.clear()
        self._uids.clear()
        self._batch.close()

    def unload(self) -> None:
        if self._model is not None:
            self._close()
            del self._batch, self._cache, self._tokenizer
            self._model = None
        gc.collect()
        mx.clear_cache()

    def leave_thread(self) -> None:
        mx.synchronize()
        mx.clear_streams()

    def add(self, key: Key, request: ChatRequest) -> None:
        prompt = self._tokenize(request.messages)
        max_tokens = request.max_tokens or self._options.default_max_tokens
        if self.context_length:
            if len(prompt) >= self.context_length:
                raise ContextOverflow(len(prompt), self.context_length)
            max_tokens = min(max_tokens, self.context_length - len(prompt))
        sampling = with_defaults(request.sampling, self._generation_config)
        seed = random.getrandbits(64) if request.seed is None else request.seed
        cache, rest = self._cache.fetch(prompt)
        cached = len(prompt) - len(rest)
        (uid,) = self._batch.insert(
            [rest],
            max_tokens=[max_tokens],
            caches=[cache],
            all_tokens=[prompt[:cached]],
            samplers=[Draw(shape_of(sampling), seed)],
            logits_processors=[penalties(sampling, len(prompt))],
        )
        self._rows[uid] = Row(key, len(prompt), cached, self._tokenizer.detokenizer, StopText(request.stop))
        self._uids[key] = uid

    def _tokenize(self, messages: tuple[Message, ...]) -> list[int]:
        """Raises: NotCapable without a chat template, InvalidRequest when the template refuses the messages."""
        if not self._tokenizer.has_chat_template:
            raise NotCapable("This model has no chat template: it is not made for conversations.", param="model")
        turns = [
            {"role": m.role, "content": m.content} | ({"name": m.name} if m.name is not None else {}) for m in messages
        ]
        try:
            return list(self._tokenizer.apply_chat_template(turns, add_generation_prompt=True))
        except jinja2.TemplateError as exc:
            raise InvalidRequest(f"The model's chat template refuses the messages: {exc}", param="messages") from exc

    def step(self) -> list[tuple[Key, Event]]:
        prompts, tokens = self._batch.next()
        events = [self._progress(response) for response in prompts]
        for response in tokens:
            events += self._decoded(response)
        return events

    def _progress(self, response: PromptProcessingBatch.Response) -> tuple[Key, Event]:
        row = self._rows[response.uid]
        done, total = response.progress
        if response.end_of_prompt and total >= SNAPSHOT_TOKENS:
            self._cache.keep(*self._batch.extract_cache([response.uid])[response.uid])
        return row.key, Progress(row.cached + done, row.cached + total)

    def _decoded(self, response: GenerationBatch.Response) -> list[tuple[Key, Event]]:
        row = self._rows[response.uid]
        events, finish = row.feed(response.token, response.finish_reason)
        if response.prompt_cache is not None and response.all_tokens is not None:
            self._cache.keep(response.prompt_cache, response.all_tokens)
        elif finish:
            self._remove(response.uid)
        if finish:
            self._forget(response.uid)
        return [(row.key, event) for event in events]

    def drop(self, key: Key) -> None:
        if (uid := self._uids.get(key)) is not None:
            self._remove(uid)
            self._forget(uid)

    def _remove(self, uid: int) -> None:
        """Out of the batch; what was computed for it goes to the prompt cache."""
        cache, tokens = self._batch.remove([uid], return_prompt_caches=True)[uid]
        if len(tokens) > self._rows[uid].cached:
            self._cache.keep(cache, tokens)

    def _forget(self, uid: int) -> None:
        del self._uids[self._rows.pop(uid).key]
