"""What is told while a job runs."""

from mlx_mcp.mcp_server.progress import Narration
from mlx_mcp.types import Done, Loading, Progress, Queued, Started, Text


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_kind_of_event_has_its_words() -> None:
    narration = Narration(Clock())
    events = [Queued(3), Loading("downloading"), Loading("x", 1, 4), Started(), Progress(5, 9), Text("a"), Done("stop")]
    told = [narration.message(event) for event in events]
    assert told == [
        "queued behind 3",
        "downloading",
        "x, 25 %",
        "started",
        "reading the prompt, 5 of 9 tokens",
        "generating, 1 piece of text",
        None,
    ]


def test_one_kind_is_told_at_most_twice_a_second() -> None:
    clock = Clock()
    narration = Narration(clock)
    told: list[str | None] = []
    for _ in range(11):
        told.append(narration.message(Text("a")))
        clock.now += 0.125
    assert [message for message in told if message] == [
        "generating, 1 piece of text",
        "generating, 5 pieces of text",
        "generating, 9 pieces of text",
    ]
    assert narration.count == 3
