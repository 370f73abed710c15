"""What a run was asked to do."""

from dataclasses import dataclass
from pathlib import Path

OURS = "ours"
MODEL = "starter:smollm2-135m-instruct"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The options of the command line; see there."""

    scenario: str
    target: str = OURS
    against: str | None = None
    pairs: int = 5
    model: str = MODEL
    second: str | None = None
    third: str | None = None

    streams: int = 8
    requests: int = 16
    prompt_tokens: int = 40
    answer_tokens: int = 24
    shared_prefix: int = 0
    unique: bool = True
    temperature: float = 0.0
    seed: int = 0
    retries: int = 5
    timeout: float = 600.0

    long_prompt_tokens: int = 2000
    fill: int | None = None
    cycles: int = 60

    max_concurrency: int | None = None
    queue_size: int | None = None
    prompt_cache_bytes: int = 1 << 30
    prompt_cache_size: int = 1024
    url_model: str | None = None

    json: Path | None = None
    command: str = ""

    @property
    def slots(self) -> int:
        """How many requests a server may work on at once."""
        return self.max_concurrency or max(32, self.streams)

    @property
    def queue(self) -> int:
        return self.queue_size or max(100, self.streams)
