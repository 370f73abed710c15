import anyio
import pytest
from anyio.lowlevel import checkpoint

from mlx_mcp.errors import EngineFailed, JobCancelled, JobExpired
from mlx_mcp.state.ticket import Ticket
from mlx_mcp.types import Done, Event, LoadEnded, Loading, Progress, Queued, Started, Text
from tests.state.making import ticket


async def read(ticket: Ticket) -> list[Event]:
    return [event async for event in ticket]


def ended(*events: Event) -> Ticket:
    made = ticket()
    for event in events:
        made.put(event)
    made.end(None)
    return made


@pytest.mark.parametrize(
    ("put", "seen"),
    [
        ([Text("a"), Text("b"), Text("c")], [Text("abc")]),
        ([Queued(3), Queued(2), Queued(1)], [Queued(1)]),
        ([Loading("a", 1, 9), Loading("b", 2, 9)], [Loading("b", 2, 9)]),
        ([Progress(1, 9), Progress(5, 9)], [Progress(5, 9)]),
        ([Loading("a"), LoadEnded(1.0), Loading("b")], [Loading("a"), LoadEnded(1.0), Loading("b")]),
        ([Queued(1), Loading("a"), Queued(0)], [Queued(1), Loading("a"), Queued(0)]),
        ([Started(), Progress(9, 9), Text("a"), Done("stop")], [Started(), Progress(9, 9), Text("a"), Done("stop")]),
    ],
)
async def test_what_nobody_has_read_yet_is_joined_where_nothing_is_lost(put: list[Event], seen: list[Event]) -> None:
    assert await read(ended(*put)) == seen


async def test_a_reader_that_keeps_up_sees_every_event() -> None:
    made = ticket()
    for letter in "abc":
        made.put(Text(letter))
        assert await anext(made) == Text(letter)


async def test_the_result_is_whole_whoever_reads() -> None:
    made = ended(Started(), Text("a"), Text("b"), Done("stop"))
    result = await made.wait()
    assert (result.text, result.done) == ("ab", Done("stop"))
    assert await made.wait() is result


async def test_a_reader_gets_what_came_before_the_error_and_then_the_error() -> None:
    made = ticket()
    made.put(Text("a"))
    made.end(EngineFailed())
    assert await anext(made) == Text("a")
    for attempt in (made.__anext__, made.__anext__, made.wait, made.admitted):
        with pytest.raises(EngineFailed):
            await attempt()


async def test_a_reader_that_waits_is_woken_by_an_event_and_by_the_end() -> None:
    made = ticket()
    seen: list[Event] = []

    async def reader() -> None:
        seen.extend(await read(made))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader)
            await checkpoint()
            made.put(Text("a"))
            await checkpoint()
            await checkpoint()
            made.end(None)
    assert seen == [Text("a")]


async def test_cancelling_the_wait_for_an_event_loses_none() -> None:
    made = ticket()
    with anyio.move_on_after(0):
        await anext(made)
    seen: list[Event] = []

    async def reader() -> None:
        while True:
            seen.append(await anext(made))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reader)
        await checkpoint()
        made.put(Text("a"))  # in the same turn of the loop as the cancellation
        tasks.cancel_scope.cancel()
    made.put(Text("b"))
    made.end(None)
    assert "".join(event.text for event in seen + await read(made) if isinstance(event, Text)) == "ab"


async def test_admitted_waits_for_the_start_or_the_end() -> None:
    made = ticket()
    admitted = anyio.Event()

    async def wait() -> None:
        await made.admitted()
        admitted.set()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            made.put(Queued(1))
            await checkpoint()
            await checkpoint()
            assert not admitted.is_set()
            made.put(Started())
    await ended(Done("stop")).admitted()


async def test_leaving_the_block_cancels_the_job() -> None:
    async with ticket() as made:
        assert not made.scope.cancel_called
    assert made.scope.cancel_called
    assert isinstance(made.cancel_reason, JobCancelled)


async def test_leaving_the_block_of_a_detached_ticket_cancels_nothing() -> None:
    async with ticket() as made:
        made.detach()
    assert made.detached
    assert not made.scope.cancel_called


async def test_leaving_the_block_after_the_end_cancels_nothing() -> None:
    async with ticket() as made:
        made.end(None)
    assert (made.scope.cancel_called, made.cancel_reason) == (False, None)


async def test_the_first_reason_to_cancel_is_the_one() -> None:
    made = ticket()
    made.cancel(JobExpired())
    made.cancel()
    assert isinstance(made.cancel_reason, JobExpired)
