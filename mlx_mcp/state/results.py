"""Results of detached jobs, until they are fetched or expire."""

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
        self._forget_old()
        self._tickets[ticket.job.id] = self._clock() + KEPT_S, ticket

    def get(self, job_id: str) -> Ticket | None:
        self._forget_old()
        _, ticket = self._tickets.get(job_id, (0.0, None))
        return ticket

    def _forget_old(self) -> None:
        now = self._clock()
        oldest_first = iter(list(self._tickets.items()))
        for job_id, (expires, _) in oldest_first:
            if expires > now and len(self._tickets) < KEPT:
                return
            del self._tickets[job_id]
