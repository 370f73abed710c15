"""From a request to its end: what the gateway's tests do not see from outside."""

import threading
from collections.abc import Generator
from contextlib import AsyncExitStack

import anyio
import pytest
from anyio.lowlevel import checkpoint

from mlx_mcp.engines.base import Report
from mlx_mcp.errors import EngineFailed, JobExpired, ShuttingDown
from mlx_mcp.gateway import Gateway
from mlx_mcp.settings import Settings
from mlx_mcp.state.lane import Lane
from mlx_mcp.state.ticket import Ticket
from mlx_mcp.types import Done, Text
from tests.fakes import EchoEngine, EndlessEngine, Engines
from tests.test_gateway import ORIGIN, ask


async def test_who_leaves_with_the_last_event_in_hand_has_not_cancelled_the_job(gateway: Gateway) -> None:
    async with gateway.submit(ask("one two"), ORIGIN) as ticket:
        async for event in ticket:
            if isinstance(event, Done):
                break
    assert (await ticket.wait()).text == "one two "
    assert (await gateway.job(ticket.job.id)).status == "succeeded"


async def test_a_cancellation_that_comes_after_the_last_event_is_too_late(gateway: Gateway) -> None:
    async with gateway.submit(ask("one"), ORIGIN) as ticket:
        while ticket.result.done is None:
            await checkpoint()
        ticket.cancel()
        assert (await ticket.wait()).text == "one "
    assert ticket.job.status == "succeeded"


async def test_a_fault_of_the_server_ends_its_job_and_no_other(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise LookupError("a fault in the lane")

    with monkeypatch.context() as faulty:
        faulty.setattr(Lane, "widen", fail)
        with pytest.raises(EngineFailed, match="The server failed"):
            await gateway.run(ask("one"), ORIGIN)
    assert "a fault in the lane" in caplog.text
    (job,) = await gateway.recent_jobs()
    assert job.status == "failed"
    _, result = await gateway.run(ask("two"), ORIGIN)
    assert result.text == "two "
    assert gateway.queue().running == gateway.queue().queued == 0


async def test_stopping_interrupts_what_runs_and_what_waits_and_refuses_what_comes(
    settings: Settings, echo: EchoEngine
) -> None:
    roomy = settings.model_copy(update={"queue_size": 10})
    async with Engines(echo=echo).runtime(roomy) as runtime, AsyncExitStack() as stack:
        gateway = runtime.gateway
        tickets = [await stack.enter_async_context(gateway.submit(ask("wait"), ORIGIN)) for _ in range(6)]
        await tickets[0].admitted()
        gateway.stop()
        with pytest.raises(ShuttingDown):
            gateway.submit(ask("x"), ORIGIN)
        for ticket in tickets:
            with anyio.fail_after(10), pytest.raises(ShuttingDown):
                await ticket.wait()
        echo.gate.set()
    assert {ticket.job.status for ticket in tickets} == {"interrupted"}


class Slow(Engines):
    """Whose loads wait for a gate."""

    def __init__(self) -> None:
        super().__init__(echo=EchoEngine())
        self.gate = threading.Event()
        self.began = threading.Event()

    def open(self, model: object, report: Report) -> EchoEngine:
        self.began.set()
        assert self.gate.wait(20)
        return EchoEngine()


@pytest.fixture
def slow() -> Generator[Slow]:
    slow = Slow()
    yield slow
    slow.gate.set()


async def test_jobs_that_wait_for_a_load_end_at_once_when_the_server_stops(settings: Settings, slow: Slow) -> None:
    async with slow.runtime(settings) as runtime:
        async with runtime.gateway.submit(ask("x"), ORIGIN) as ticket:
            while not slow.began.is_set():
                await checkpoint()
            runtime.gateway.stop()
            with anyio.fail_after(10), pytest.raises(ShuttingDown):
                await ticket.wait()
        assert not slow.gate.is_set()
        slow.gate.set()


async def test_the_deadline_holds_during_a_load_and_the_load_goes_on(settings: Settings, slow: Slow) -> None:
    short = settings.model_copy(update={"queue_timeout": 0.01})
    async with slow.runtime(short) as runtime:
        with anyio.fail_after(10), pytest.raises(JobExpired):
            await runtime.gateway.run(ask("x"), ORIGIN)
        assert runtime.gateway.model("echo").state == "loading"
        slow.gate.set()
        with anyio.fail_after(10):
            while runtime.gateway.model("echo").state != "loaded":
                await checkpoint()


async def test_the_queue_tells_what_runs_and_what_waits(gateway: Gateway, echo: EchoEngine) -> None:
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(gateway.submit(ask("wait"), ORIGIN))
        await running.admitted()
        await stack.enter_async_context(gateway.submit(ask("x"), ORIGIN))
        endless = await stack.enter_async_context(gateway.submit(ask("x", "endless"), ORIGIN))
        await endless.admitted()
        total, mine = gateway.queue(), gateway.queue_of(gateway.model("echo"))
        assert (total.running, total.queued, total.max_queued, total.slots) == (2, 1, 6, None)
        assert (mine.running, mine.queued, mine.max_queued, mine.slots) == (1, 1, 2, 1)
        assert mine.oldest_wait_s >= 0
        echo.gate.set()


async def test_a_model_does_not_wait_for_another(gateway: Gateway, endless: EndlessEngine) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(endless.slots):
            busy = await stack.enter_async_context(gateway.submit(ask("x", "endless"), ORIGIN))
            await busy.admitted()
        with anyio.fail_after(10):
            _, result = await gateway.run(ask("one"), ORIGIN)
        assert result.text == "one "


async def test_an_error_beside_a_running_job_comes_out_of_the_runtime_as_it_is(
    settings: Settings, endless: EndlessEngine
) -> None:
    tickets: list[Ticket] = []

    async def fail_beside_a_job() -> None:
        async with Engines(endless=endless).runtime(settings) as runtime:
            tickets.append(runtime.gateway.submit(ask("x", "endless"), ORIGIN))
            await tickets[0].admitted()
            raise LookupError

    with pytest.raises(LookupError):
        await fail_beside_a_job()
    assert tickets[0].job.status == "interrupted"
    assert not endless.keys


async def test_first_token_is_the_time_of_the_first_text(gateway: Gateway) -> None:
    async with gateway.submit(ask("one two"), ORIGIN) as ticket:
        async for event in ticket:
            if isinstance(event, Text):
                first = ticket.job.first_token_at
                assert first is not None
        assert ticket.job.first_token_at == first
