"""To ask a text engine, and to step it."""

from collections.abc import Hashable, Mapping
from typing import Any

from mlx_mcp.engines.text import TextEngine
from mlx_mcp.types import ChatRequest, Done, Event, Message, Progress, Text


def ask(text: str, max_tokens: int | None = 12, **options: Any) -> ChatRequest:
    return ChatRequest(model="m", messages=(Message(role="user", content=text),), max_tokens=max_tokens, **options)


def drain(engine: TextEngine, requests: Mapping[Hashable, ChatRequest]) -> dict[Hashable, tuple[str, Done]]:
    """The whole text and the end of each, all added at once."""
    for key, request in requests.items():
        engine.add(key, request)
    events: dict[Hashable, list[Event]] = {key: [] for key in requests}
    while not all(_ended(each) for each in events.values()):
        for key, event in engine.step():
            events[key].append(event)
    return {key: (text_of(each), done_of(each)) for key, each in events.items()}


def run(engine: TextEngine, request: ChatRequest) -> tuple[str, Done]:
    return drain(engine, {"alone": request})["alone"]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def done_of(events: list[Event]) -> Done:
    assert isinstance(events[-1], Done)
    return events[-1]


def progress_of(events: list[tuple[Hashable, Event]], key: Hashable) -> list[Progress]:
    return [event for k, event in events if k == key and isinstance(event, Progress)]


def _ended(events: list[Event]) -> bool:
    return bool(events) and isinstance(events[-1], Done)
