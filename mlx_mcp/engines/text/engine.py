"""The engine: requests become rows of a batch, and the batch's tokens events."""

import gc
import logging
import random
from typing import Any

import mlx.core as mx
from mlx_lm.generate import GenerationBatch, PromptProcessingBatch

from mlx_mcp.engines.base import Engine, EngineOptions, Key, Report
from mlx_mcp.engines.memory import return_freed
from mlx_mcp.engines.text.batcher import Batcher
from mlx_mcp.engines.text.model import TextModel, estimated_bytes
from mlx_mcp.engines.text.penalties import penalties
from mlx_mcp.engines.text.prompt_cache import Kind, PromptCache
from mlx_mcp.engines.text.row import Row
from mlx_mcp.engines.text.sampling import Draw, shape_of, with_defaults
from mlx_mcp.engines.text.stops import StopText
from mlx_mcp.engines.text.template import boundaries, split, tokenize
from mlx_mcp.engines.text.waiting import Waiting, find_leader
from mlx_mcp.errors import ContextOverflow, EngineFailed, MlxMcpError, PromptTooLarge
from mlx_mcp.types import Capability, ChatRequest, Event, Failed, Loading, Progress

logger = logging.getLogger(__name__)

SNAPSHOT_TOKENS = 64
"""Prompts with at least so many new tokens are cached before they have their answer."""
BUSY_TOKENS, IDLE_TOKENS = 256, 2048
"""Prompt tokens read in one step, while rows decode and while none does."""
CPU_BUSY_TOKENS, CPU_IDLE_TOKENS = 64, 512
"""The same on a CPU, where larger steps are no faster, and nobody is heard before they end."""


class TextEngine(Engine[ChatRequest]):
    capabilities = frozenset({Capability.CHAT})
    caches = True

    def __init__(self, options: EngineOptions) -> None:
        self.slots = options.slots
        self.context_length = options.context_length
        self.info = options.info
        self.estimated_bytes = estimated_bytes(options)
        self._options = options
        self._rows: dict[int, Row] = {}
        self._reading: dict[int, Row] = {}  #: those of the rows whose prompts are not read yet
        self._uids: dict[Key, int] = {}
        self._waiting: dict[Key, Waiting] = {}
        self._loaded: TextModel | None = None
        self._batch: Batcher | None = None
        self._cache = PromptCache(0)

    def load(self, report: Report) -> None:
        report(Loading("reading the weights"))
        self._loaded = TextModel.load(self._options)
        self.weights_bytes = self._loaded.weights_bytes
        self._open()

    @property
    def _model(self) -> TextModel:
        assert self._loaded, "the model is not in memory"  # noqa: S101
        return self._loaded

    @property
    def _rows_in(self) -> Batcher:
        assert self._batch, "the model is not in memory"  # noqa: S101
        return self._batch

    def _open(self) -> None:
        self._cache = PromptCache(self._options.prompt_cache_bytes)
        device = mx.default_device()
        self._batch = Batcher(
            self._model.model,
            stop_tokens=[[token] for token in self._model.tokenizer.eos_token_ids],
            slots=self.slots,
            stream=mx.default_stream(device),
            busy_tokens=CPU_BUSY_TOKENS if device == mx.cpu else BUSY_TOKENS,
            idle_tokens=CPU_IDLE_TOKENS if device == mx.cpu else IDLE_TOKENS,
        )

    def reset(self) -> None:
        """Drops the batch and the prompt cache, which a failed step may have left half written; keeps the weights."""
        self._close()
        self._open()

    def _close(self) -> None:
        for held in (self._rows, self._reading, self._uids, self._waiting):
            held.clear()
        if self._batch:
            self._batch.close()
            self._batch = None
        self._cache = PromptCache(0)
        self.cache_bytes = self.committed_bytes = 0

    def unload(self) -> None:
        self._close()
        self._loaded = None
        self.weights_bytes = 0
        gc.collect()
        mx.clear_cache()
        return_freed()

    def leave_thread(self) -> None:
        mx.synchronize()
        mx.clear_streams()

    def trim(self, target_bytes: int) -> None:
        self._cache.trim(target_bytes - (self.cache_bytes - self._cache.nbytes))
        self._weigh()
        mx.clear_cache()

    def add(self, key: Key, request: ChatRequest) -> None:
        prompt = tokenize(self._model.tokenizer, request.messages)
        max_tokens = request.max_tokens or self._options.default_max_tokens
        if self.context_length:
            if len(prompt) >= self.context_length:
                raise ContextOverflow(len(prompt), self.context_length)
            max_tokens = min(max_tokens, self.context_length - len(prompt))
        places = [] if self._model.trimmable else boundaries(self._model.tokenizer, request.messages, prompt)
        waiting = Waiting(key, request, prompt, max_tokens, places)
        self._check_memory(waiting)
        self._waiting[key] = waiting

    def _check_memory(self, waiting: Waiting) -> None:
        """Raises: PromptTooLarge, when even an engine that does nothing else could not hold it."""
        need = self._model.cost.of(waiting.tokens)
        if self.allowance_bytes is not None and need > self.allowance_bytes:
            raise PromptTooLarge(need, self.allowance_bytes)

    def _start_waiting(self) -> list[tuple[Key, Event]]:
        """Those who need not wait any more, in the order of arrival; nobody overtakes one who waits for memory."""
        events: list[tuple[Key, Event]] = []
        for waiting in list(self._waiting.values()):
            if waiting.leader in self._reading and self._reading[waiting.leader].read < waiting.needs:
                continue
            try:
                if not self._rows:
                    self._check_memory(waiting)  # what is allowed may have shrunk since it came
                if not self._has_room(waiting):
                    break
                self._start(waiting)
            except Exception as exc:  # one who cannot start must not take others with it
                self._waiting.pop(waiting.key, None)
                if not isinstance(exc, MlxMcpError):
                    logger.exception("a request could not be started")
                    exc = EngineFailed("The engine could not take this request in; its log says why.")
                events.append((waiting.key, Failed(exc)))
        return events

    def _start(self, waiting: Waiting) -> None:
        """Into the batch, or behind the row that is reading the same."""
        cache, rest = self._cache.fetch(waiting.prompt)
        cached = len(waiting.prompt) - len(rest)
        found = find_leader(waiting.prompt, cached, self._reading, trimmable=self._model.trimmable)
        if found:
            waiting.leader, waiting.needs = found
            if self._reading[waiting.leader].read < waiting.needs:
                return
        self._insert(waiting, cache, cached)
        del self._waiting[waiting.key]

    def _has_room(self, waiting: Waiting) -> bool:
        """Whether the row fits beside the others, all at their full length; cached prompts make room for it."""
        if self.allowance_bytes is None:
            return True
        room = self.allowance_bytes - self._held(waiting.tokens)
        if room >= 0:
            self._cache.trim(room)
        return room >= 0

    def _held(self, *more: int) -> int:
        """Bytes of the rows, and of more of so many tokens: each as wide as the longest, since they are one batch."""
        tokens = [*(row.tokens for row in self._rows.values()), *more]
        return len(tokens) * self._model.cost.of(max(tokens, default=0))

    def _keep(self, cache: list[Any], tokens: list[int], kind: Kind) -> None:
        self._cache.keep(cache, tokens, kind)
        if self.allowance_bytes is not None:
            self._cache.trim(self.allowance_bytes - self._held())

    def _insert(self, waiting: Waiting, cache: list[Any] | None, cached: int) -> None:
        request, prompt, model = waiting.request, waiting.prompt, self._model
        sampling = with_defaults(request.sampling, model.generation_config, self._options.sampling)
        seed = random.getrandbits(64) if request.seed is None else request.seed
        (uid,) = self._rows_in.insert_segments(
            [split(prompt, cached, waiting.places)],
            max_tokens=[waiting.max_tokens],
            caches=[cache],
            all_tokens=[prompt[:cached]],
            samplers=[Draw(shape_of(sampling), seed)],
            logits_processors=[penalties(sampling, len(prompt))],
        )
        row = Row(
            waiting.key,
            prompt,
            waiting.places,
            waiting.tokens,
            cached,
            model.tokenizer.detokenizer,
            StopText(request.stop),
        )
        self._rows[uid] = self._reading[uid] = row
        self._uids[waiting.key] = uid
        self.cached_tokens += cached

    def step(self) -> list[tuple[Key, Event]]:
        events = self._start_waiting() if self._waiting else []
        self._weigh()
        if not self._rows:
            return events
        prompts, tokens = self._rows_in.next()
        events += [self._progress(response) for response in prompts]
        for response in tokens:
            events += self._decoded(response)
        self._weigh()
        return events

    def _progress(self, response: PromptProcessingBatch.Response) -> tuple[Key, Event]:
        row = self._rows[response.uid]
        done, total = response.progress
        row.read = row.cached + done
        wanted = any(waiting.leader == response.uid and row.read >= waiting.needs for waiting in self._waiting.values())
        if response.end_of_prompt:
            self._reading.pop(response.uid, None)
            if wanted or total >= SNAPSHOT_TOKENS:
                self._snapshot(response.uid, "user")
        elif wanted or (response.end_of_segment and not self._model.trimmable):
            self._snapshot(response.uid, "system")
        return row.key, Progress(row.read, len(row.prompt))

    def _snapshot(self, uid: int, kind: Kind) -> None:
        self._keep(*self._rows_in.extract_cache([uid])[uid], kind)

    def _decoded(self, response: GenerationBatch.Response) -> list[tuple[Key, Event]]:
        row = self._rows[response.uid]
        events, finish = row.feed(response.token, response.finish_reason)
        if response.prompt_cache is not None and response.all_tokens is not None:
            self._keep(response.prompt_cache, response.all_tokens, "assistant")
        elif finish:
            self._remove(response.uid)
        if finish:
            self._forget(response.uid)
        return [(row.key, event) for event in events]

    def drop(self, key: Key) -> None:
        self._waiting.pop(key, None)
        if (uid := self._uids.get(key)) is not None:
            self._remove(uid)
            self._forget(uid)
            self._weigh()

    def _remove(self, uid: int) -> None:
        """Out of the batch; what was computed for it goes to the prompt cache."""
        cache, tokens = self._rows_in.remove([uid], return_prompt_caches=True)[uid]
        if len(tokens) > self._rows[uid].cached:
            self._keep(cache, tokens, "assistant")

    def _forget(self, uid: int) -> None:
        self._reading.pop(uid, None)
        del self._uids[self._rows.pop(uid).key]

    def _weigh(self) -> None:
        if self._batch:
            self.cache_bytes = self._cache.nbytes + self._batch.prompt_cache_nbytes
            self.committed_bytes = self._held()
