"""mlx-mcp demo"""

import os
import socket
import sys
import time
from typing import Annotated, Any, cast

import anyio
import typer
from rich.console import Console

from mlx_mcp.cli import options
from mlx_mcp.errors import MlxMcpError

QUESTION = "What is the capital of France?"
START_S = 60
ANSWER_S = 600.0
"""The first answer waits for the model to be fetched."""


def demo(
    question: Annotated[str, typer.Option(help="What to ask.")] = QUESTION,
    models: options.Models = None,
) -> None:
    """Start the server, ask a model through each of its doors, and show what came back."""
    from mcp import MCPError  # noqa: PLC0415 - a second of imports
    from openai import OpenAIError  # noqa: PLC0415

    try:
        anyio.run(_demo, question, models or [])
    except BaseExceptionGroup as group:
        known, unknown = group.split((OpenAIError, MCPError, DemoFailed))
        if known is None or unknown is not None:
            raise
        raise MlxMcpError(f"the demo failed: {_innermost(known)}") from None


async def _demo(question: str, models: list[str]) -> None:
    from mcp import Client, StdioServerParameters  # noqa: PLC0415 - a second of imports

    console = Console()
    port = _free_port()
    arguments = ["-m", "mlx_mcp", "stdio", *models, "--port", str(port)]
    console.print(f"[dim]starting one process: mlx-mcp {' '.join(arguments[2:])}[/]")
    async with Client(StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ))) as mcp:
        await _until_up(port)
        await _ask_over_http(console, port, question)
        await _ask_over_mcp(console, mcp, question)


async def _ask_over_http(console: Console, port: int, question: str) -> None:
    from openai import AsyncOpenAI  # noqa: PLC0415 - a second of imports

    began = time.monotonic()
    async with AsyncOpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=ANSWER_S, max_retries=0
    ) as client:
        model = (await client.models.list()).data[0].id
        raw = await client.chat.completions.with_raw_response.create(
            model=model, messages=[{"role": "user", "content": question}], max_tokens=64
        )
    answer = raw.parse()
    text = answer.choices[0].message.content or ""
    _show(console, "HTTP, OpenAI SDK", question, text, model, raw.headers["x-job-id"], time.monotonic() - began)


async def _ask_over_mcp(console: Console, mcp: Any, question: str) -> None:
    from mcp.types import TextContent  # noqa: PLC0415

    began = time.monotonic()

    async def show_progress(_: float, __: float | None, message: str | None) -> None:
        console.print(f"[dim]  … {message}[/]")

    result = await mcp.call_tool(
        "chat", {"prompt": question, "max_tokens": 64}, read_timeout_seconds=ANSWER_S, progress_callback=show_progress
    )
    reply = result.structured_content
    if result.is_error or reply is None:
        text = " ".join(block.text for block in result.content if isinstance(block, TextContent))
        raise DemoFailed(text)
    seconds = time.monotonic() - began
    _show(console, "MCP, tool chat over stdio", question, reply["text"], reply["model"], reply["job_id"], seconds)


class DemoFailed(Exception):
    """A tool answered with an error."""


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error


def _show(console: Console, door: str, question: str, answer: str, model: str, job_id: str, seconds: float) -> None:
    console.print(f"\n[bold]{door}[/]  [dim]{model}  {job_id}  {seconds:.2f} s[/]", soft_wrap=True)
    console.print(f"  > {question}\n  {answer}", highlight=False, markup=False)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def _until_up(port: int) -> None:
    with anyio.fail_after(START_S):
        while True:
            try:
                await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
            except OSError:
                await anyio.sleep(0.1)
            else:
                return
