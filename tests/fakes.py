"""Engines without a model, for everything that is not about models."""

import threading
from collections.abc import Generator
from typing import Any

from mlx_mcp.engines.base import Engine, Key, Report, SerialEngine
from mlx_mcp.errors import InvalidRequest, ModelUnavailable
from mlx_mcp.runtime import Runtime
from mlx_mcp.settings import ModelSettings, Settings
from mlx_mcp.types import Capability, ChatRequest, Done, Event, Loading, ModelInfo, Text, Usage


def words_of(request: ChatRequest) -> list[str]:
    return request.messages[-1].content.split()


class EchoEngine(SerialEngine[ChatRequest]):
    """
    Says the last message's words, one a step.

    `boom` raises in the middle of a step, `refuse` on the way in, and `wait` stays until the gate is open.
    """

    capabilities = frozenset({Capability.CHAT})
    context_length = 100

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.loads = 0
        self.unloaded = False
        self.resets_work = True

    def load(self, report: Report) -> None:
        report(Loading("reading the weights", 1, 2))
        self.loads += 1
        if not self.resets_work and self.loads > 1:
            raise OSError("the disk is gone")

    def unload(self) -> None:
        super().unload()
        self.unloaded = True

    def add(self, key: Key, request: ChatRequest) -> None:
        if "refuse" in words_of(request):
            raise InvalidRequest("No.", param="messages")
        super().add(key, request)

    def run(self, request: ChatRequest) -> Generator[Event]:
        words = words_of(request)[: request.max_tokens]
        for word in words:
            if word == "boom":
                raise RuntimeError("boom")
            if word == "wait":
                assert self.gate.wait(20)
            yield Text(word + " ")
        yield Done("stop", Usage(prompt_tokens=len(words), completion_tokens=len(words)))


class EndlessEngine(Engine[ChatRequest]):
    """Two slots; each step gives every key a word, for ever, `step_s` apart."""

    capabilities = frozenset({Capability.CHAT})

    def __init__(self, step_s: float = 0.002, slots: int = 2) -> None:
        self.slots = slots
        self.step_s = step_s
        self.keys: set[Key] = set()
        self.dropped: list[Key] = []
        self.steps = 0

    def load(self, report: Report) -> None: ...

    def unload(self) -> None:
        self.keys.clear()

    def add(self, key: Key, request: ChatRequest) -> None:
        if "refuse" in words_of(request):
            raise InvalidRequest("No.", param="messages")
        self.keys.add(key)

    def step(self) -> list[tuple[Key, Event]]:
        threading.Event().wait(self.step_s)
        self.steps += 1
        return [(key, Text("word ")) for key in self.keys]

    def drop(self, key: Key) -> None:
        self.keys.discard(key)
        self.dropped.append(key)


class Engines:
    """Makes one engine for each model, and remembers it."""

    def __init__(self, **engines: Engine[Any]) -> None:
        self.made = engines

    def open(self, model: ModelSettings, report: Report) -> Engine[Any]:
        if model.id not in self.made:
            raise ModelUnavailable(f"{model.id} is nowhere to be found.")
        return self.made[model.id]

    def runtime(self, settings: Settings) -> Runtime:
        info = ModelInfo(kind="text", family="fake", context_length=100, capabilities=frozenset({Capability.CHAT}))
        return Runtime(settings, open_engine=self.open, describe=lambda _: info)
