"""The one request path, with engines that have no model."""

from contextlib import AsyncExitStack

import anyio
import pytest

from mlx_mcp.errors import (
    EngineFailed,
    InvalidRequest,
    JobCancelled,
    JobExpired,
    ModelUnavailable,
    QueueFull,
    UnknownJob,
    UnknownModel,
)
from mlx_mcp.gateway import Gateway
from mlx_mcp.settings import Settings
from mlx_mcp.types import ChatRequest, Door, Event, Loading, Message, Origin, Queued, Started, Text
from tests.fakes import EchoEngine, EndlessEngine, Engines

ORIGIN = Origin(door=Door.HTTP, request_id="mine", client="tests")


def ask(text: str, model: str = "echo") -> ChatRequest:
    return ChatRequest(model=model, messages=(Message(role="user", content=text),))


async def test_run_folds_the_events_and_leaves_a_record(gateway: Gateway) -> None:
    job, result = await gateway.run(ask("one two"), ORIGIN)
    assert result.text == "one two "
    assert (job.status, job.finish_reason, job.request_id, job.door) == ("succeeded", "stop", "mine", "http")
    assert job.usage is not None and job.usage.completion_tokens == 2
    assert job.started_at and job.first_token_at and job.finished_at
    assert job.created_at <= job.started_at <= job.first_token_at <= job.finished_at
    assert await gateway.job(job.id) == job
    assert list(await gateway.recent_jobs()) == [job]


async def test_events_tell_the_load_the_start_and_the_text(gateway: Gateway) -> None:
    async with gateway.submit(ask("one two"), ORIGIN) as ticket:
        events = [event async for event in ticket]
    kinds = [type(event) for event in events]
    assert kinds.index(Loading) < kinds.index(Started) < kinds.index(Text)


async def test_an_unknown_model_is_refused_with_the_names_of_the_known(gateway: Gateway) -> None:
    with pytest.raises(UnknownModel, match="'echo', 'endless', 'missing'"):
        gateway.submit(ask("hi", model="nope"), ORIGIN)
    assert list(await gateway.recent_jobs()) == []


async def test_a_model_that_cannot_be_loaded_fails_its_jobs_and_no_others(gateway: Gateway) -> None:
    with pytest.raises(ModelUnavailable, match="nowhere to be found"):
        await gateway.run(ask("hi", model="missing"), ORIGIN)
    assert gateway.model("missing").state == "failed"
    _, result = await gateway.run(ask("hi"), ORIGIN)
    assert result.text == "hi "


async def test_leaving_a_ticket_cancels_its_job_and_frees_the_slot(gateway: Gateway, endless: EndlessEngine) -> None:
    async with gateway.submit(ask("x", "endless"), ORIGIN) as ticket:
        await ticket.admitted()
        async for event in ticket:
            if isinstance(event, Text):
                break
    with pytest.raises(JobCancelled):
        await ticket.wait()
    assert (await gateway.job(ticket.job.id)).status == "cancelled"
    with anyio.fail_after(5):
        while endless.keys:
            await anyio.lowlevel.checkpoint()
    assert gateway.queue().running == 0


async def test_a_waiting_job_is_cancelled_before_its_turn(gateway: Gateway, echo: EchoEngine) -> None:
    async with gateway.submit(ask("wait"), ORIGIN) as first:
        await first.admitted()
        async with gateway.submit(ask("never"), ORIGIN) as second:
            gateway.cancel(second.job.id)
            with pytest.raises(JobCancelled):
                await second.wait()
        echo.gate.set()
        assert (await first.wait()).text == "wait "
    assert second.job.started_at is None


async def test_a_full_queue_refuses_at_once(gateway: Gateway, echo: EchoEngine) -> None:
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(gateway.submit(ask("wait"), ORIGIN))
        await running.admitted()
        waiting = [await stack.enter_async_context(gateway.submit(ask("x"), ORIGIN)) for _ in range(2)]
        with pytest.raises(QueueFull) as refused:
            gateway.submit(ask("y"), ORIGIN)
        assert refused.value.retry_after_s >= 1
        stats = gateway.queue_of(gateway.model("echo"))
        assert (stats.running, stats.queued, stats.max_queued, stats.slots) == (1, 2, 2, 1)
        echo.gate.set()
        for ticket in waiting:
            assert (await ticket.wait()).text == "x "
    assert gateway.queue().queued == 0


async def test_who_waits_is_told_how_many_are_before(gateway: Gateway, echo: EchoEngine) -> None:
    lane_is_full = 3  # the slot and the two at the engine's door
    async with AsyncExitStack() as stack:
        tickets = [await stack.enter_async_context(gateway.submit(ask("wait"), ORIGIN)) for _ in range(lane_is_full)]
        await tickets[0].admitted()
        with pytest.raises(QueueFull):
            gateway.submit(ask("x"), ORIGIN)
        echo.gate.set()


async def test_a_failing_step_fails_its_job_clearly_and_the_next_one_succeeds(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(EngineFailed) as failed:
        await gateway.run(ask("one boom"), ORIGIN)
    assert isinstance(failed.value.__cause__, RuntimeError)
    assert "boom" in caplog.text
    _, result = await gateway.run(ask("next"), ORIGIN)
    assert result.text == "next "
    health = gateway.model("echo").health
    assert health is not None and health.ok and health.incidents == 1
    assert gateway.health().ok


async def test_a_failing_step_leaves_the_jobs_of_another_model_alone(gateway: Gateway) -> None:
    async with gateway.submit(ask("x", "endless"), ORIGIN) as ticket:
        await ticket.admitted()
        with pytest.raises(EngineFailed):
            await gateway.run(ask("boom"), ORIGIN)
        words = len(ticket.result.pieces)
        with anyio.fail_after(5):
            while len(ticket.result.pieces) == words:
                await anext(ticket)
    health = gateway.model("endless").health
    assert health is not None and health.incidents == 0


async def test_an_engine_that_cannot_be_reset_is_loaded_anew_for_the_next_job(
    gateway: Gateway, echo: EchoEngine
) -> None:
    await gateway.run(ask("warm"), ORIGIN)
    echo.resets_work = False
    with pytest.raises(EngineFailed):
        await gateway.run(ask("boom"), ORIGIN)
    with anyio.fail_after(5):
        while gateway.model("echo").state != "broken":
            await anyio.lowlevel.checkpoint()
    assert not gateway.health().ok
    echo.resets_work = True
    _, result = await gateway.run(ask("again"), ORIGIN)
    assert result.text == "again "
    assert gateway.health().ok


async def test_a_request_that_the_engine_refuses_fails_alone(gateway: Gateway) -> None:
    with pytest.raises(InvalidRequest, match=r"No\."):
        await gateway.run(ask("refuse"), ORIGIN)
    health = gateway.model("echo").health
    assert health is not None and health.incidents == 0


async def test_the_deadline_counts_from_the_arrival(settings: Settings, endless: EndlessEngine) -> None:
    engines = Engines(endless=endless)
    short = settings.model_copy(update={"queue_timeout": 0.05})
    async with engines.runtime(short) as runtime:
        with anyio.fail_after(5), pytest.raises(JobExpired):
            await runtime.gateway.run(ask("x", "endless"), ORIGIN)
        (job,) = await runtime.gateway.recent_jobs()
        assert (job.status, job.error_code) == ("expired", "deadline_exceeded")


async def test_a_detached_job_goes_on_and_its_result_is_kept(gateway: Gateway, echo: EchoEngine) -> None:
    async with gateway.submit(ask("one wait two"), ORIGIN) as ticket:
        await ticket.admitted()
        ticket.detach()
    echo.gate.set()
    result = await gateway.result(ticket.job.id)
    assert result.text == "one wait two "
    assert (await gateway.job(ticket.job.id)).status == "succeeded"
    assert await gateway.result(ticket.job.id) is result


async def test_a_detached_job_can_be_cancelled_by_its_id(gateway: Gateway) -> None:
    async with gateway.submit(ask("x", "endless"), ORIGIN) as ticket:
        await ticket.admitted()
        ticket.detach()
    gateway.cancel(ticket.job.id)
    with pytest.raises(JobCancelled):
        await gateway.result(ticket.job.id)


async def test_an_unknown_job_is_an_error(gateway: Gateway) -> None:
    for look in (gateway.job, gateway.result):
        with pytest.raises(UnknownJob):
            await look("job_nope")
    with pytest.raises(UnknownJob):
        gateway.cancel("job_nope")


async def test_two_streams_of_one_model_interleave(gateway: Gateway) -> None:
    seen: list[str] = []

    async def read(name: str) -> None:
        async with gateway.submit(ask("x", "endless"), ORIGIN) as ticket:
            async for event in ticket:
                if isinstance(event, Text):
                    seen.append(name)
                if seen.count("a") > 3 and seen.count("b") > 3:
                    return

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, "a")
            tasks.start_soon(read, "b")
    first, last = seen.index("b"), len(seen) - 1 - seen[::-1].index("a")
    assert first < last


async def test_a_lagging_reader_gets_the_text_joined(gateway: Gateway) -> None:
    async with gateway.submit(ask("one two three"), ORIGIN) as ticket:
        await ticket.wait()
        events: list[Event] = [event async for event in ticket]
    assert [event for event in events if isinstance(event, Text)] == [Text("one two three ")]


async def test_closing_the_runtime_interrupts_what_runs(settings: Settings, endless: EndlessEngine) -> None:
    engines = Engines(endless=endless)
    async with engines.runtime(settings) as runtime:
        ticket = runtime.gateway.submit(ask("x", "endless"), ORIGIN)
        await ticket.admitted()
    assert ticket.job.status == "interrupted"


async def test_positions_are_told_to_those_who_wait(settings: Settings, echo: EchoEngine) -> None:
    engines = Engines(echo=echo)
    roomy = settings.model_copy(update={"queue_size": 10})
    async with engines.runtime(roomy) as runtime, AsyncExitStack() as stack:
        for _ in range(4):
            ticket = await stack.enter_async_context(runtime.gateway.submit(ask("wait"), ORIGIN))
        with anyio.fail_after(5):
            async for event in ticket:
                if event == Queued(2):
                    break
        echo.gate.set()
