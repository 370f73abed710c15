"""What a host is told while a job runs."""

import time
from collections.abc import Callable
from typing import Any

from mcp.server.mcpserver import Context

from mlx_mcp.gateway import Ticket
from mlx_mcp.types import Event, Loading, Progress, Queued, Result, Started, Text

INTERVAL_S = 0.5
"""The least time between two messages about one thing."""


async def narrate(ticket: Ticket, ctx: Context[Any, Any]) -> Result:
    """
    The job's result, with its progress reported on the way to hosts that asked for it.

    Raises: the error that ended the job.
    """
    narration = Narration()
    async for event in ticket:
        if message := narration.message(event):
            await ctx.report_progress(narration.count, message=message)
    return await ticket.wait()


class Narration:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: object = None
        self._last_at = 0.0
        self._pieces = 0
        self.count = 0
        """Messages so far. Progress must rise, and the work has no common unit: so they are what is counted."""

    def message(self, event: Event) -> str | None:
        """None when it is too early to say something again."""
        self._pieces += isinstance(event, Text)
        now = self._clock()
        subject = event.what if isinstance(event, Loading) else type(event)
        if subject == self._last and now - self._last_at < INTERVAL_S:
            return None
        message = self._say(event)
        if message:
            self._last, self._last_at = subject, now
            self.count += 1
        return message

    def _say(self, event: Event) -> str | None:
        match event:
            case Queued(ahead):
                return f"queued behind {ahead}"
            case Loading(what, done, total):
                return f"{what}, {100 * done // total} %" if total else what
            case Started():
                return "started"
            case Progress(done, total):
                return f"reading the prompt, {done} of {total} tokens"
            case Text():
                return f"generating, {self._pieces} piece{'s' if self._pieces > 1 else ''} of text"
            case _:
                return None
