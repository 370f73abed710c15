"""What is asked of a server, and what came back."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.prompts import Conversation


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Each stream asks for its next answer as soon as it has the last one."""

    conversations: Sequence[Conversation]
    streams: int
    answer_tokens: int
    """The most that an answer may have."""
    temperature: float = 0.0
    seed: int = 0
    retries: int = 0
    """How often a request whose connection was refused or reset is sent again, its clock running."""
    timeout_s: float = 600.0
    """For one try of a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Times are seconds on one clock, whose zero means nothing."""

    sent: float
    ended: float
    arrivals: tuple[float, ...] = ()
    """When each piece of text came: a token's, as a rule."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0
    """As the server counts them, an end-of-text token included; without a count, the pieces."""
    finish: str | None = None
    """The finish reason; None when there is no whole answer."""
    problems: tuple[str, ...] = ()
    """What went wrong, a word for each try that failed."""


class Answers(Protocol):
    """Somebody who can be asked."""

    async def ask(
        self, conversation: Conversation, load: Load, on_text: Callable[[float], None] | None = None
    ) -> Answer: ...


async def drive(server: Answers, load: Load) -> list[Answer]:
    """All answers, in the order in which they ended."""
    waiting = iter(load.conversations)
    answers: list[Answer] = []

    async def stream() -> None:
        for conversation in waiting:
            answers.append(await server.ask(conversation, load))  # noqa: PERF401 - other streams' come between

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(load.streams, len(load.conversations))):
            tasks.create_task(stream())
    return answers
