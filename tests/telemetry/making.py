"""Engines and lines for the tests of telemetry."""

import json
from collections.abc import Generator
from typing import Any

import pytest

from mlx_mcp.engines.base import Key
from mlx_mcp.errors import InvalidRequest
from mlx_mcp.types import ChatRequest, Door, Event, Message, Origin
from tests.fakes import EchoEngine, words_of

ORIGIN = Origin(door=Door.HTTP, request_id="mine", client="tests")


def ask(text: str, model: str = "echo") -> ChatRequest:
    return ChatRequest(model=model, messages=(Message(role="user", content=text),))


class QuotingEngine(EchoEngine):
    """Its errors repeat what it was asked: `choke` and `scold` on the way in, `quote` in the middle of a step."""

    def add(self, key: Key, request: ChatRequest) -> None:
        if "choke" in words_of(request):
            raise ValueError(f"cannot tokenize {request.messages[-1].content!r}")
        if "scold" in words_of(request):
            raise InvalidRequest(f"Nobody says {request.messages[-1].content!r}.", param="messages")
        super().add(key, request)

    def run(self, request: ChatRequest) -> Generator[Event]:
        if "quote" in words_of(request):
            try:
                raise KeyError(request.messages[-1].content)
            except KeyError as exc:
                raise RuntimeError(f"after {request.messages[-1].content}") from exc
        yield from super().run(request)


class Lines:
    """What has been written to stderr as JSON, an object a line."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._lines: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        self._lines += [json.loads(line) for line in self._capsys.readouterr().err.splitlines()]
        return self._lines

    def of(self, event: str) -> dict[str, Any]:
        """The one line that says it."""
        (line,) = [line for line in self.read() if line["event"] == event]
        return line
