"""Who goes next. The clock stands still unless a test moves it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from mlx_mcp.errors import QueueFull
from mlx_mcp.state.lane import HEAD_START_S, LOOKAHEAD, UNMEASURED_RETRY_S, Lane
from mlx_mcp.state.ticket import Ticket
from mlx_mcp.types import Priority, Queued, Started
from tests.state.making import Clock, ticket

ROOM = 1 + LOOKAHEAD
"""How many are inside a lane of one slot."""


class Visits:
    """Jobs in a lane, each of which stays inside until it is told to go."""

    def __init__(self, lane: Lane, tasks: TaskGroup) -> None:
        self.lane = lane
        self.order: list[str] = []
        self._tasks = tasks
        self._go: dict[str, anyio.Event] = {}
        self._scopes: dict[str, anyio.CancelScope] = {}
        self.tickets: dict[str, Ticket] = {}

    async def come(self, *names: str, priority: Priority = Priority.NORMAL) -> None:
        for name in names:
            self._go[name], self._scopes[name] = anyio.Event(), anyio.CancelScope()
            self.tickets[name] = ticket(priority=priority)
            self.lane.join(self.tickets[name])
            self._tasks.start_soon(self._visit, name)
            await settle()

    async def go(self, *names: str) -> None:
        for name in names:
            self._go[name].set()
            await settle()

    async def cancel(self, name: str) -> None:
        self._scopes[name].cancel()
        await settle()

    def told(self, name: str) -> int | None:
        """The last position that the ticket was told."""
        positions = [event.ahead for event in self.tickets[name]._events if isinstance(event, Queued)]
        return positions[-1] if positions else None

    async def _visit(self, name: str) -> None:
        with self._scopes[name]:
            async with self.lane.turn(self.tickets[name]):
                self.order.append(name)
                await self._go[name].wait()
        self.lane.leave(self.tickets[name])


async def settle() -> None:
    for _ in range(5):
        await checkpoint()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lane(clock: Clock) -> Lane:
    return Lane(10, clock)


@asynccontextmanager
async def visiting(lane: Lane) -> AsyncGenerator[Visits]:
    async with anyio.create_task_group() as tasks:
        yield Visits(lane, tasks)
        tasks.cancel_scope.cancel()


async def test_there_is_room_for_the_slots_and_a_few_at_the_engines_door(lane: Lane) -> None:
    async with visiting(lane) as visits:
        await visits.come(*"abcde")
        assert visits.order == list("abcde")[:ROOM]
        lane.widen(2)
        await settle()
        assert visits.order == list("abcde")[: ROOM + 1]


async def test_equals_go_in_the_order_of_their_arrival(lane: Lane) -> None:
    async with visiting(lane) as visits:
        await visits.come(*"abcdef")
        await visits.go(*"cabdef")
        assert visits.order == list("abcdef")


async def test_the_more_urgent_go_first(lane: Lane) -> None:
    async with visiting(lane) as visits:
        await visits.come(*"abc")
        await visits.come("background", priority=Priority.BACKGROUND)
        await visits.come("normal", priority=Priority.NORMAL)
        await visits.come("interactive", priority=Priority.INTERACTIVE)
        await visits.go(*"abc")
        assert visits.order[3:] == ["interactive", "normal", "background"]


@pytest.mark.parametrize(
    ("older", "younger"),
    [
        (Priority.NORMAL, Priority.INTERACTIVE),
        (Priority.BACKGROUND, Priority.INTERACTIVE),
        (Priority.BACKGROUND, Priority.NORMAL),
    ],
)
async def test_who_has_waited_for_longer_than_the_others_head_start_goes_first(
    clock: Clock, older: Priority, younger: Priority
) -> None:
    head_start = HEAD_START_S[younger] - HEAD_START_S[older]
    for waited, first in ((head_start - 1, "younger"), (head_start + 1, "older")):
        async with visiting(Lane(10, clock)) as visits:
            await visits.come(*"abc")
            await visits.come("older", priority=older)
            clock.now += waited
            await visits.come("younger", priority=younger)
            await visits.go("a")
            assert visits.order[3:] == [first]


async def test_who_waits_is_told_how_many_no_engine_works_on_yet_are_before(lane: Lane) -> None:
    async with visiting(lane) as visits:
        await visits.come(*"abcdef")
        assert [visits.told(name) for name in "abcdef"] == [None, None, None, 3, 4, 5]
        started = visits.tickets["a"]
        started.job = started.job.started()
        started.put(Started())
        lane.tell_positions()
        assert [visits.told(name) for name in "def"] == [2, 3, 4]
        await visits.go("a")
        assert visits.order[-1] == "d"
        assert [visits.told(name) for name in "ef"] == [3, 4]
        await visits.come("urgent", priority=Priority.INTERACTIVE)
        assert [visits.told(name) for name in ("urgent", "e", "f")] == [3, 4, 5]


async def test_a_position_is_told_once(lane: Lane) -> None:
    async with visiting(lane) as visits:
        await visits.come(*"abcd")
        waiting = visits.tickets["d"]
        assert await anext(waiting) == Queued(3)
        lane.tell_positions()
        lane.widen(1)
        assert not waiting._events


async def test_one_that_is_cancelled_while_it_waits_makes_the_others_move_up(lane: Lane) -> None:
    async with visiting(lane) as visits:
        await visits.come(*"abcdef")
        await visits.cancel("e")
        assert [visits.told(name) for name in "df"] == [3, 4]
        await visits.go("a", "b", "c")
        assert visits.order == list("abcdf")
        assert len(lane.jobs) == 2


async def test_one_that_is_cancelled_as_its_turn_comes_leaves_the_turn_to_the_next(lane: Lane) -> None:
    async with visiting(lane) as visits:
        await visits.come(*"abcde")
        visits._go["a"].set()
        visits._scopes["d"].cancel()
        await settle()
        assert visits.order == list("abce")


async def test_a_turn_that_ends_by_an_error_is_free_again(lane: Lane) -> None:
    for name in range(ROOM):
        with pytest.raises(LookupError):
            async with lane.turn(ticket()):
                raise LookupError(name)
    async with visiting(lane) as visits:
        await visits.come("a")
        assert visits.order == ["a"]


async def test_a_lane_holds_as_many_as_its_slots_and_its_queue(clock: Clock) -> None:
    lane = Lane(2, clock)
    lane.widen(3)
    async with visiting(lane) as visits:
        await visits.come(*"abcde")
        with pytest.raises(QueueFull, match="2 requests wait") as refused:
            lane.join(ticket())
        assert refused.value.retry_after_s == UNMEASURED_RETRY_S
        assert len(lane.jobs) == 5
        await visits.go("b")
        await visits.come("f")
        assert len(lane.jobs) == 5


def pass_through(lane: Lane, clock: Clock, n: int, interval_s: float) -> None:
    for _ in range(n):
        passing = ticket()
        lane.join(passing)
        clock.now += interval_s
        lane.leave(passing)


@pytest.mark.parametrize(("interval_s", "seconds"), [(8.0, 8), (0.01, 1), (300.0, 60)])
async def test_the_time_to_come_back_is_measured_by_the_jobs_that_ended(
    lane: Lane, clock: Clock, interval_s: float, seconds: int
) -> None:
    lane.join(ticket())
    pass_through(lane, clock, 3, interval_s)
    assert lane.retry_after_s() == UNMEASURED_RETRY_S
    pass_through(lane, clock, 30, interval_s)
    assert lane.retry_after_s() == seconds


async def test_while_nothing_ends_the_time_to_come_back_grows(lane: Lane, clock: Clock) -> None:
    lane.join(ticket())
    pass_through(lane, clock, 5, 1.0)
    soon = lane.retry_after_s()
    clock.now += 60
    assert lane.retry_after_s() > soon


async def test_a_pause_without_jobs_is_not_taken_for_slowness(lane: Lane, clock: Clock) -> None:
    first = ticket()
    lane.join(first)
    pass_through(lane, clock, 10, 1.0)
    lane.leave(first)
    clock.now += 3600
    lane.join(ticket())
    assert lane.retry_after_s() == UNMEASURED_RETRY_S
    pass_through(lane, clock, 10, 1.0)
    assert lane.retry_after_s() == 1
