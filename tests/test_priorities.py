"""Who goes first, through both doors."""

from contextlib import AsyncExitStack

import anyio
import httpx2 as httpx
import pytest
from fastapi import FastAPI
from mcp import Client

from mlx_mcp.gateway import Gateway
from mlx_mcp.mcp_server import build_server
from mlx_mcp.settings import Settings
from mlx_mcp.types import ChatRequest, Door, Message, Origin, Priority
from tests.fakes import EchoEngine

CHAT = "/v1/chat/completions"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"queue_size": 20})


def ask(text: str) -> ChatRequest:
    return ChatRequest(model="echo", messages=(Message(role="user", content=text),))


async def test_urgent_requests_overtake_those_that_wait(gateway: Gateway, echo: EchoEngine) -> None:
    ended: list[str] = []

    async def run(name: str, priority: Priority) -> None:
        await gateway.run(ask("wait"), Origin(door=Door.HTTP, priority=priority))
        ended.append(name)

    async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
        for _ in range(3):  # one inside, and two at the engine's door
            first = await stack.enter_async_context(gateway.submit(ask("wait"), Origin(door=Door.HTTP)))
        for name in ("background", "normal", "interactive"):
            tasks.start_soon(run, name, Priority(name))
        with anyio.fail_after(5):
            while gateway.queue().queued + gateway.queue().running < 6:
                await anyio.lowlevel.checkpoint()
        assert first.job.status == "queued"
        echo.gate.set()
    assert ended == ["interactive", "normal", "background"]


def body(**more: object) -> dict[str, object]:
    return {"model": "echo", "messages": [{"role": "user", "content": "x"}], **more}


async def test_http_takes_the_priority_from_the_body_before_the_header(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    await client.post(CHAT, json=body())
    await client.post(CHAT, json=body(), headers={"x-priority": "background"})
    await client.post(CHAT, json=body(priority="interactive"), headers={"x-priority": "background"})
    priorities = [job.priority for job in reversed(await gateway.recent_jobs())]
    assert priorities == ["normal", "background", "interactive"]


async def test_http_refuses_an_unknown_priority(client: httpx.AsyncClient) -> None:
    in_body = await client.post(CHAT, json=body(priority="high"))
    in_header = await client.post(CHAT, json=body(), headers={"x-priority": "high"})
    assert (in_body.status_code, in_body.json()["error"]["param"]) == (400, "priority")
    assert (in_header.status_code, in_header.json()["error"]["param"]) == (400, "x-priority")


async def test_mcp_takes_the_priority_from_the_meta(app: FastAPI, gateway: Gateway) -> None:
    async with Client(build_server(gateway)) as mcp:
        result = await mcp.call_tool("chat", {"prompt": "x"}, meta={"mlx-mcp/priority": "background"})
        assert not result.is_error
        refused = await mcp.call_tool("chat", {"prompt": "x"}, meta={"mlx-mcp/priority": "high"})
        assert refused.is_error
    (job,) = await gateway.recent_jobs()
    assert job.priority == "background"
