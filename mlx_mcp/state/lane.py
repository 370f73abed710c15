"""The queue in front of one model: who goes next, and how many may be inside."""

import heapq
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from itertools import count

import anyio

from mlx_mcp.errors import QueueFull
from mlx_mcp.state.jobs import Job
from mlx_mcp.state.ticket import Ticket
from mlx_mcp.types import Priority, Queued

HEAD_START_S = {Priority.INTERACTIVE: 60.0, Priority.NORMAL: 50.0, Priority.BACKGROUND: 0.0}
"""
How much earlier than it did a job counts as arrived. Ageing comes with it: a background job that has waited a minute
goes before an interactive one that has just come.
"""
LOOKAHEAD = 2
"""Jobs that may be at the engine's door beyond its slots, so that a freed slot is filled without a trip to the loop."""
REMEMBERED = 32
"""Recent ends of jobs, from which the rate is measured at which the queue drains."""
MEASURABLE = 4
UNMEASURED_RETRY_S = 5.0


class Lane:
    def __init__(self, max_queued: int, clock: Callable[[], float] = anyio.current_time, *, slots: int = 1) -> None:
        """`slots`: how many jobs can be worked on at once, until the loaded model says better."""
        self._clock = clock
        self.max_queued = max_queued
        self._slots = slots
        self._members: dict[str, Ticket] = {}
        self._inside: set[Ticket] = set()
        self._waiting: list[tuple[float, int, Ticket, anyio.Event]] = []
        self._told: dict[Ticket, Queued] = {}
        self._order = count()
        self._ends: deque[float] = deque(maxlen=REMEMBERED)

    @property
    def jobs(self) -> list[Job]:
        """All that have joined and not left."""
        return [ticket.job for ticket in self._members.values()]

    def widen(self, slots: int) -> None:
        """So many jobs can be worked on at once."""
        self._slots = slots
        self._admit()

    def join(self, ticket: Ticket) -> None:
        """Raises: QueueFull"""
        if len(self._members) >= self._slots + self.max_queued:
            raise QueueFull(len(self._members) - self._slots, self.retry_after_s())
        self._members[ticket.job.id] = ticket

    def leave(self, ticket: Ticket) -> None:
        del self._members[ticket.job.id]
        self._ends.append(self._clock())
        if not self._members:  # the pause that begins says nothing about the rate
            self._ends.clear()

    def retry_after_s(self) -> float:
        """Seconds until the queue has probably moved by one."""
        interval = self._interval_s()
        return UNMEASURED_RETRY_S if interval is None else float(min(60, max(1, math.ceil(interval))))

    def estimate_s(self, ahead: int) -> float | None:
        """Seconds until who has so many ahead is probably worked on; None before there is anything to go by."""
        interval = self._interval_s()
        return None if interval is None else round((ahead + 1) * interval, 1)

    def _interval_s(self) -> float | None:
        """Between two ends of jobs, on the average of the last ones."""
        if len(self._ends) < MEASURABLE:
            return None
        return (self._clock() - self._ends[0]) / len(self._ends)

    def queued(self) -> list[Job]:
        """Those that no engine works on yet, in the order in which they will go."""
        inside = [ticket for ticket in self._members.values() if ticket in self._inside]
        waiting = [ticket for _, _, ticket, _ in sorted(self._waiting)]
        return [ticket.job for ticket in (*inside, *waiting) if ticket.job.started_at is None]

    @asynccontextmanager
    async def turn(self, ticket: Ticket) -> AsyncGenerator[None]:
        """Wait for the ticket's turn, and be inside until the block ends."""
        mine = anyio.Event()
        entry = (self._clock() - HEAD_START_S[ticket.job.priority], next(self._order), ticket, mine)
        heapq.heappush(self._waiting, entry)
        self._admit()
        try:
            await mine.wait()
            yield
        finally:
            if mine.is_set():
                self._inside.discard(ticket)
            else:
                self._waiting.remove(entry)
                heapq.heapify(self._waiting)
            self._told.pop(ticket, None)
            self._admit()

    def _admit(self) -> None:
        """Let in whoever there is room for."""
        while self._waiting and len(self._inside) < self._slots + LOOKAHEAD:
            _, _, ticket, mine = heapq.heappop(self._waiting)
            self._inside.add(ticket)
            mine.set()
        self.tell_positions()

    def tell_positions(self) -> None:
        """To those who wait: how many are before them that no engine works on yet."""
        ahead = sum(ticket.job.started_at is None for ticket in self._inside)
        for place, (_, _, ticket, _) in enumerate(sorted(self._waiting)):
            position = Queued(ahead + place)
            if self._told.get(ticket) != position:
                self._told[ticket] = position
                ticket.put(position)
