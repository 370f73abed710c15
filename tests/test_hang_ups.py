"""Callers that leave at any time, on the real engine."""

import random
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint

from mlx_mcp.errors import JobCancelled
from mlx_mcp.gateway import Gateway
from mlx_mcp.runtime import Runtime
from mlx_mcp.settings import ModelSettings, Settings
from mlx_mcp.types import ChatRequest, Door, Message, Origin

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CALLERS = 2_000
AT_A_TIME = 64
BEGINNINGS = ("Tell me a story. " * 20, "Count upwards. " * 5, "")
ORIGIN = Origin(door=Door.HTTP)


def ask(text: str, words: int) -> ChatRequest:
    return ChatRequest(model="tiny", messages=(Message(role="user", content=text),), max_tokens=words)


async def call_and_leave(gateway: Gateway, dice: random.Random) -> None:
    text = dice.choice(BEGINNINGS) + str(dice.randrange(50))
    async with gateway.submit(ask(text, dice.randrange(1, 80)), ORIGIN) as ticket:
        match dice.randrange(5):
            case 0:  # at once
                return
            case 1:  # by its id, while it waits, is read or decodes
                for _ in range(dice.randrange(200)):
                    await checkpoint()
                if not ticket.job.ended:
                    gateway.cancel(ticket.job.id)
                    with pytest.raises(JobCancelled):
                        await ticket.wait()
            case 2:  # after some events
                for _ in range(dice.randrange(10)):
                    if ticket.job.ended:
                        return
                    await anext(ticket, None)
            case 3:  # after some time
                with anyio.move_on_after(dice.random() / 10):
                    await ticket.wait()
            case _:  # at the end
                await ticket.wait()


@pytest.fixture
def settings(tiny_model_path: Path) -> Settings:
    model = ModelSettings(id="tiny", source=str(tiny_model_path), max_concurrency=8)
    return Settings(models=(model,), queue_size=CALLERS, queue_timeout=500)


async def test_two_thousand_callers_that_leave_at_any_time_leave_nothing_behind(settings: Settings) -> None:
    dice = random.Random(20261122)
    async with Runtime(settings) as runtime:
        gateway = runtime.gateway
        limiter = anyio.CapacityLimiter(AT_A_TIME)

        async def call() -> None:
            async with limiter:
                await call_and_leave(gateway, dice)

        async with anyio.create_task_group() as tasks:
            for _ in range(CALLERS):
                tasks.start_soon(call)
        with anyio.fail_after(20):
            while gateway.queue().running or gateway.queue().queued:
                await checkpoint()
        jobs = await gateway.recent_jobs(CALLERS)
        assert len(jobs) == CALLERS
        assert {job.status for job in jobs} == {"succeeded", "cancelled"}
        health = gateway.model("tiny").health
        assert health is not None
        assert (health.jobs, health.incidents) == (0, 0)
        _, result = await gateway.run(ask("Are you there?", 3), ORIGIN)
        assert result.done is not None and result.done.usage.completion_tokens == 3
