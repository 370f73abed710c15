"""The contract that every engine keeps."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from mlx_mcp.types import FINAL, Capability, Event, Loading, ModelInfo, Sampling

Key = Hashable
Report = Callable[[Loading], None]
"""Tells those who wait for a model what is being done. May be called from any thread."""

R = TypeVar("R")

NO_SAMPLING = Sampling()
UNKNOWN = ModelInfo()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What an engine is built from."""

    path: Path
    context_length: int | None
    """Tokens; None where neither the model nor the settings bound it."""
    slots: int
    default_max_tokens: int
    prompt_cache_bytes: int
    sampling: Sampling = NO_SAMPLING
    """For requests that say nothing themselves."""
    trust_remote_code: bool = False
    info: ModelInfo = UNKNOWN


class Engine(ABC, Generic[R]):
    """
    One model in memory, for requests of type `R`.

    Synchronous, and confined to one thread, which calls every method: an engine never sees an event loop, a socket or
    a job.
    """

    capabilities: frozenset[Capability]
    slots: int
    """How many keys may be inside at once."""
    context_length: int | None = None
    """Tokens, known once it is loaded; None where the word has no meaning."""
    info: ModelInfo | None = None
    """What its files say of it, where it has files."""
    estimated_bytes: int = 0
    """Of the weights, before they are loaded."""
    weights_bytes: int = 0
    """As measured, once they are loaded."""
    caches: bool = False
    """Whether it keeps anything that grows with its requests."""
    cache_bytes: int = 0
    """What that weighs now."""
    committed_bytes: int = 0
    """What its running requests may make of that, and what no trimming gives back."""
    allowance_bytes: int | None = None
    """How much it may weigh. Set from outside, at any time, from another thread; None is no limit."""
    cached_tokens: int = 0
    """Prompt tokens that were found in a cache since the load."""

    @abstractmethod
    def load(self, report: Report) -> None:
        """Bring the weights into memory. Raises: ModelUnavailable, or whatever the library raises."""

    @abstractmethod
    def unload(self) -> None:
        """Forget every key and give the memory back. Safe to call twice, after a step or a `load` that raised."""

    def reset(self) -> None:
        """Forget every key, after a step that raised. Engines that can keep their weights override it."""
        self.unload()
        self.load(lambda _: None)

    @abstractmethod
    def add(self, key: Key, request: R) -> None:
        """
        Take a request in.

        Raises: what concerns this request alone, as `InvalidRequest`; the engine is unharmed.
        """

    @abstractmethod
    def step(self) -> list[tuple[Key, Event]]:
        """
        One bounded piece of work: one decode, or one chunk of prefill.

        A key's last event is `Done` or `Failed`, which frees its slot. Raises: anything; every key inside is then lost,
        and `reset` comes next.
        """

    @abstractmethod
    def drop(self, key: Key) -> None:
        """Free the key's slot now. No event of it follows. Unknown keys are ignored."""

    def trim(self, target_bytes: int) -> None:
        """Bring `cache_bytes` down to the target, or as far as no running request needs what is there."""
        return

    def leave_thread(self) -> None:
        """The last call of all, as the thread ends: give back what belongs to the thread."""
        return


class SerialEngine(Engine[R]):
    """One key at a time: subclasses write `run`, and each step advances it by one event."""

    slots = 1

    def __init__(self) -> None:
        self._running: dict[Key, Generator[Event]] = {}

    @abstractmethod
    def run(self, request: R) -> Generator[Event]:
        """Yield events, ending with `Done`. Closed early, it stops."""

    def add(self, key: Key, request: R) -> None:
        self._running[key] = self.run(request)

    def step(self) -> list[tuple[Key, Event]]:
        for key, events in self._running.items():
            event = next(events)
            if isinstance(event, FINAL):
                self.drop(key)
            return [(key, event)]
        return []

    def drop(self, key: Key) -> None:
        if events := self._running.pop(key, None):
            events.close()

    def unload(self) -> None:
        """Subclasses call this, and give the memory back."""
        for key in list(self._running):
            self.drop(key)
