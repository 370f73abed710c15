"""
Requests inside the engine whose prompts are not being read yet.

One waits for a prefix that another row is just reading, so that it is read once; or for memory that other rows hold.
"""

from dataclasses import dataclass

from mlx_mcp.engines.base import Key
from mlx_mcp.engines.text.row import Row
from mlx_mcp.types import ChatRequest

SHARED_TOKENS = 64
"""A shared prefix shorter than this is quicker to read than to wait for."""


@dataclass(slots=True)
class Waiting:
    key: Key
    request: ChatRequest
    prompt: list[int]
    max_tokens: int
    places: list[int]
    """Where the prompt's caches will be kept while it is read; none where any beginning can be had of one."""
    leader: int | None = None
    """The row that reads the prefix; None where memory is what is missing."""
    needs: int = 0
    """How many tokens of it."""

    @property
    def tokens(self) -> int:
        """That the row may come to hold."""
        return len(self.prompt) + self.max_tokens


def find_leader(prompt: list[int], cached: int, reading: dict[int, Row], *, trimmable: bool) -> tuple[int, int] | None:
    """The row that will soon have read most of the prompt, and how much, if that is worth waiting for."""
    best, most = None, cached + SHARED_TOKENS - 1
    for uid, row in reading.items():
        common = min(_common(prompt, row.prompt), len(row.prompt) - 1, len(prompt) - 1)
        if not trimmable:
            common = max((place for place in row.places if row.cached < place <= common), default=0)
        if common > most:
            best, most = uid, common
    return None if best is None else (best, most)


def _common(one: list[int], other: list[int]) -> int:
    limit = min(len(one), len(other))
    if one[:limit] == other[:limit]:
        return limit
    low, high = 0, limit  # equal up to low, different before high
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
