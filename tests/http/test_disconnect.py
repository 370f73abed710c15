"""Clients that leave, over real sockets."""

from collections.abc import AsyncGenerator

import anyio
import httpx2 as httpx
import pytest
import uvicorn
from fastapi import FastAPI

from mlx_mcp.gateway import Gateway
from tests.fakes import EndlessEngine

URL = "/v1/chat/completions"
BODY = {"model": "endless", "messages": [{"role": "user", "content": "x"}]}


@pytest.fixture
async def remote(app: FastAPI) -> AsyncGenerator[httpx.AsyncClient]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        with anyio.fail_after(5):
            while not server.started:
                await anyio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield client
        server.should_exit = True


async def ends_as(gateway: Gateway, status: str, steps: int, endless: EndlessEngine) -> None:
    """The one job ends with that status, and its slot is free at most so many steps later."""
    with anyio.fail_after(10):
        while True:
            (job,) = await gateway.recent_jobs()
            if job.ended:
                break
            await anyio.sleep(0.001)
        before = endless.steps
        while endless.keys:
            await anyio.sleep(0.001)
    assert job.status == status
    assert endless.steps - before <= steps
    stats = gateway.queue()
    assert (stats.running, stats.queued) == (0, 0)


@pytest.mark.parametrize("step_s", [0.05, 0.001])
async def test_a_stream_that_is_left_is_cancelled_within_a_step(
    remote: httpx.AsyncClient, gateway: Gateway, endless: EndlessEngine, step_s: float
) -> None:
    endless.step_s = step_s
    async with remote.stream("POST", URL, json=BODY | {"stream": True}) as reply:
        async for line in reply.aiter_lines():
            if "word" in line:
                break
    await ends_as(gateway, "cancelled", 1, endless)


async def test_an_unstreamed_request_that_is_left_is_cancelled_too(
    remote: httpx.AsyncClient, gateway: Gateway, endless: EndlessEngine
) -> None:
    with anyio.move_on_after(0.5):
        await remote.post(URL, json=BODY)
    await ends_as(gateway, "cancelled", 1, endless)


async def test_a_waiting_stream_that_is_left_is_cancelled_before_its_turn(
    remote: httpx.AsyncClient, gateway: Gateway, endless: EndlessEngine
) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(lambda: remote.post(URL, json=BODY))
        with anyio.fail_after(10):
            while gateway.queue().running < 2:
                await anyio.sleep(0.005)
            async with remote.stream("POST", URL, json=BODY | {"stream": True}) as reply:
                async for line in reply.aiter_lines():
                    if line.startswith(":"):
                        break
            while gateway.queue().queued:
                await anyio.sleep(0.005)
        newest = (await gateway.recent_jobs())[0]
        assert (newest.status, newest.started_at) == ("cancelled", None)
        tasks.cancel_scope.cancel()


async def test_a_silent_stream_is_kept_alive_with_comments(
    remote: httpx.AsyncClient, app: FastAPI, endless: EndlessEngine
) -> None:
    endless.step_s = 1
    with anyio.fail_after(10):
        async with remote.stream("POST", URL, json=BODY | {"stream": True}) as reply:
            async for line in reply.aiter_lines():
                if line == ": keep-alive":
                    return


async def test_many_clients_at_once_are_all_answered(remote: httpx.AsyncClient) -> None:
    answers: list[int] = []

    async def ask() -> None:
        reply = await remote.get("/v1/models")
        answers.append(reply.status_code)

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(ask)
    assert answers == [200] * 50
