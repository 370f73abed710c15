"""Both doors on the real text engine, with a tiny model of random weights."""

from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import openai
import pytest
import uvicorn
from fastapi import FastAPI
from mcp import Client

from mlx_mcp.gateway import Gateway
from mlx_mcp.mcp_server import build_server
from mlx_mcp.runtime import Runtime
from mlx_mcp.settings import ModelSettings, Settings
from mlx_mcp.types import ChatRequest, Door, Message, Origin, Sampling

ORIGIN = Origin(door=Door.HTTP)
QUESTION = "What is the capital of France?"


@pytest.fixture
def settings(tiny_model_path: Path) -> Settings:
    models = tuple(ModelSettings(id=name, source=str(tiny_model_path)) for name in ("tiny", "twin"))
    return Settings(models=models, queue_timeout=60)


@pytest.fixture
async def runtime(settings: Settings) -> AsyncGenerator[Runtime]:
    async with Runtime(settings) as runtime:
        yield runtime


@pytest.fixture
async def url(app: FastAPI) -> AsyncGenerator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        with anyio.fail_after(5):
            while not server.started:
                await anyio.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.should_exit = True


@pytest.fixture
async def sdk(url: str) -> AsyncGenerator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=30) as client:
        yield client


async def test_both_doors_and_both_forms_say_the_same(sdk: openai.AsyncOpenAI, gateway: Gateway) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    whole = await sdk.chat.completions.create(model="tiny", messages=messages, max_tokens=12, temperature=0)
    stream = await sdk.chat.completions.create(
        model="tiny",
        messages=messages,
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    pieces, usage = [], None
    async for chunk in stream:
        pieces += [choice.delta.content or "" for choice in chunk.choices]
        usage = chunk.usage or usage
    async with Client(build_server(gateway)) as mcp:
        called = await mcp.call_tool("chat", {"prompt": QUESTION, "max_tokens": 12, "temperature": 0})
    assert called.structured_content is not None
    assert whole.choices[0].message.content == "".join(pieces) == called.structured_content["text"] != ""
    assert whole.usage is not None and usage is not None
    assert whole.usage.completion_tokens == usage.completion_tokens == 12
    assert whole.choices[0].finish_reason == called.structured_content["finish_reason"] == "length"
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1


async def test_a_prompt_beyond_the_context_is_a_400_with_both_numbers(sdk: openai.AsyncOpenAI) -> None:
    card = await sdk.models.retrieve("tiny")
    length = (card.model_extra or {})["context_length"]
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x" * (length + 1)}])
    assert refused.value.code == "context_length_exceeded"
    assert str(length) in refused.value.message
    assert refused.value.param == "messages"


async def test_streams_of_one_model_and_of_another_go_on_side_by_side(sdk: openai.AsyncOpenAI) -> None:
    seen: list[str] = []

    async def read(name: str, model: str) -> None:
        stream = await sdk.chat.completions.create(
            model=model, messages=[{"role": "user", "content": name}], max_tokens=200, temperature=1, stream=True
        )
        async for _ in stream:
            seen.append(name)  # noqa: PERF401 - the others' come between

    async with anyio.create_task_group() as tasks:
        for name, model in (("a", "tiny"), ("b", "tiny"), ("c", "twin")):
            tasks.start_soon(read, name, model)
    first = {name: seen.index(name) for name in "abc"}
    last = {name: len(seen) - 1 - seen[::-1].index(name) for name in "abc"}
    assert max(first.values()) < min(last.values())


async def test_running_rows_and_a_second_model_stay_within_the_budget(settings: Settings) -> None:
    """The first model's rows go on growing after the second has got its share."""
    weights, row = 430_000, 1_050_000
    budget = 2 * weights + row + 500_000
    async with Runtime(settings.model_copy(update={"memory_budget": budget})) as runtime:
        gateway, worst = runtime.gateway, 0
        tiny, twin = (gateway.model(name) for name in ("tiny", "twin"))

        def ask(model: str, words: int) -> ChatRequest:
            message = Message(role="user", content="x" * 100)
            return ChatRequest(model=model, messages=(message,), max_tokens=words, sampling=Sampling(temperature=1))

        async with gateway.submit(ask("tiny", 1_800), ORIGIN) as long:
            await long.admitted()
            while not long.job.ended:
                await gateway.run(ask("twin", 100), ORIGIN)
                engines = [model.thread.engine for model in (tiny, twin) if model.thread]
                worst = max(worst, sum(engine.weights_bytes + engine.cache_bytes for engine in engines))
            result = await long.wait()
    assert result.done is not None
    assert 2 * weights < worst <= budget
