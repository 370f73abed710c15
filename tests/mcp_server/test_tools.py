"""The MCP tools, in memory, in both protocol eras."""

from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.types import TextContent

from mlx_mcp.gateway import Gateway
from mlx_mcp.mcp_server import build_server
from tests.fakes import EchoEngine, EndlessEngine

ERAS = ("2026-07-28", "legacy")


@pytest.fixture(params=ERAS)
async def mcp(request: pytest.FixtureRequest, gateway: Gateway) -> AsyncGenerator[Client]:
    async with Client(build_server(gateway), mode=request.param) as client:
        yield client


def text_of(result: Any) -> str:
    return "".join(block.text for block in result.content if isinstance(block, TextContent))


async def test_every_tool_says_what_it_is_and_what_it_does_not_do(mcp: Client) -> None:
    tools = {tool.name: tool for tool in (await mcp.list_tools()).tools}
    assert set(tools) == {"chat", "list_models", "queue_status"}
    for tool in tools.values():
        assert tool.title and tool.description and tool.output_schema
        assert "\n " not in tool.description  # no indentation from the source
        assert tool.annotations is not None
        assert (tool.annotations.read_only_hint, tool.annotations.open_world_hint) == (True, False)
    properties = tools["chat"].input_schema["properties"]
    assert set(properties) == {"prompt", "system", "model", "max_tokens", "temperature"}
    assert all(schema["description"] for schema in properties.values())
    assert tools["chat"].input_schema["required"] == ["prompt"]


async def test_chat_answers_the_same_as_text_and_as_structure(mcp: Client, gateway: Gateway) -> None:
    result = await mcp.call_tool("chat", {"prompt": "one two"})
    assert not result.is_error
    reply = result.structured_content
    assert reply is not None
    assert (reply["text"], reply["model"], reply["finish_reason"]) == ("one two ", "echo", "stop")
    assert '"one two "' in text_of(result)
    job = await gateway.job(reply["job_id"])
    assert (job.door, job.status) == ("mcp", "succeeded")
    assert job.client and job.request_id


async def test_chat_passes_its_arguments_on(mcp: Client) -> None:
    result = await mcp.call_tool("chat", {"prompt": '{"a": 1}', "system": "be brief", "max_tokens": 1})
    assert result.structured_content is not None
    assert result.structured_content["text"] == '{"a": '


async def test_progress_tells_the_load_and_the_text(mcp: Client) -> None:
    told: list[tuple[float, str]] = []

    async def listen(progress: float, _: float | None, message: str | None) -> None:
        told.append((progress, message or ""))

    await mcp.call_tool("chat", {"prompt": "one two three"}, progress_callback=listen)
    messages = [message for _, message in told]
    assert "reading the weights, 50 %" in messages
    assert "started" in messages
    assert any(message.startswith("generating") for message in messages)
    assert [progress for progress, _ in told] == sorted({progress for progress, _ in told})


async def test_a_cancelled_call_cancels_its_job_and_frees_the_slot(
    mcp: Client, gateway: Gateway, endless: EndlessEngine
) -> None:
    with anyio.move_on_after(0.3):
        await mcp.call_tool("chat", {"prompt": "x", "model": "endless"})
    with anyio.fail_after(5):
        while not all(job.ended for job in await gateway.recent_jobs()) or endless.keys:
            await anyio.sleep(0.005)
    (job,) = await gateway.recent_jobs()
    assert job.status == "cancelled"
    assert gateway.queue().running == 0


@pytest.mark.parametrize(
    ("tool", "arguments", "told"),
    [
        ("chat", {"prompt": "x", "model": "nope"}, "Served are: 'echo'"),
        ("chat", {"prompt": "x", "model": "missing"}, "Choose another model"),
        ("chat", {"prompt": "boom"}, "Call the tool once more"),
        ("chat", {"prompt": "refuse"}, "No."),
        ("chat", {"prompt": ""}, "at least 1 character"),
        ("chat", {"prompt": "x", "temperature": 7}, "less than or equal to 2"),
        ("chat", {"prompt": "x", "temprature": 0}, "Did you mean temperature?"),
        ("chat", {"prompt": "x", "model": "echo", "tokens": 1}, "Its arguments are"),
        ("queue_status", {"job_id": "job_nope"}, "Job ids begin with job_"),
    ],
)
async def test_an_error_tells_what_to_do(mcp: Client, tool: str, arguments: dict[str, object], told: str) -> None:
    result = await mcp.call_tool(tool, arguments)
    assert result.is_error
    assert told in text_of(result)


async def test_a_full_queue_is_an_error_with_the_time_to_come_back(
    mcp: Client, gateway: Gateway, echo: EchoEngine
) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(mcp.call_tool, "chat", {"prompt": "wait"})
        with anyio.fail_after(5):
            while gateway.queue().queued + gateway.queue().running < 3:
                await anyio.sleep(0.005)
        status = await mcp.call_tool("queue_status", {})
        assert status.structured_content is not None
        assert status.structured_content["running"] + status.structured_content["queued"] == 3
        result = await mcp.call_tool("chat", {"prompt": "x"})
        echo.gate.set()
    assert result.is_error and "Try again in" in text_of(result)


async def test_list_models_tells_their_states(mcp: Client) -> None:
    await mcp.call_tool("chat", {"prompt": "x"})
    result = await mcp.call_tool("list_models", {})
    assert result.structured_content is not None
    states = {model["id"]: model["state"] for model in result.structured_content["models"]}
    assert states == {"echo": "loaded", "endless": "unloaded", "missing": "unloaded"}


async def test_queue_status_finds_a_job(mcp: Client) -> None:
    chat = await mcp.call_tool("chat", {"prompt": "x"})
    assert chat.structured_content is not None
    result = await mcp.call_tool("queue_status", {"job_id": chat.structured_content["job_id"]})
    assert result.structured_content is not None
    assert result.structured_content["job"]["status"] == "succeeded"


async def test_queue_status_tells_a_waiting_job_its_place(mcp: Client, gateway: Gateway, echo: EchoEngine) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(mcp.call_tool, "chat", {"prompt": "wait"})
        with anyio.fail_after(5):
            while gateway.queue().queued < 2 or not gateway.queue().running:
                await anyio.sleep(0.005)
        last = (await gateway.recent_jobs())[0]
        overview = await mcp.call_tool("queue_status", {})
        assert overview.structured_content is not None
        assert overview.structured_content["models"][0]["waiting"][1] == last.id
        result = await mcp.call_tool("queue_status", {"job_id": last.id})
        echo.gate.set()
    assert result.structured_content is not None
    job = result.structured_content["job"]
    assert (job["status"], job["ahead"], job["waits_for"]) == ("queued", 1, "a free slot")


async def test_the_server_names_itself(gateway: Gateway) -> None:
    async with Client(build_server(gateway)) as mcp:
        assert mcp.server_info is not None
        assert mcp.server_info.name == "mlx-mcp" and mcp.server_info.version
        assert "list_models" in (mcp.instructions or "")
