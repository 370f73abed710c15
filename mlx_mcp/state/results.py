"""Results of detached jobs, until they expire."""

import time
from collections.abc import Callable

from mlx_mcp.state.ticket import Ticket

KEPT = 1_000
KEPT_S = 3600.0


class Results:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tickets: dict[str, tuple[float, Ticket]] = {}

    def keep(self, ticket: Ticket) -> None:
        """Beyond the bound the oldest gives way."""
        self._forget_expired()
        while len(self._tickets) >= KEPT:
            del self._tickets[next(iter(self._tickets))]
        self._tickets[ticket.job.id] = self._clock() + KEPT_S, ticket

    def get(self, job_id: str) -> Ticket | None:
        self._forget_expired()
        _, ticket = self._tickets.get(job_id, (0.0, None))
        return ticket

    def _forget_expired(self) -> None:
        now = self._clock()
        for job_id, (expires, _) in list(self._tickets.items()):  # oldest first
            if expires > now:
                return
            del self._tickets[job_id]
