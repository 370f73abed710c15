"""Log lines: whose they are, how they look, and what is never in them."""

import asyncio
import io
import json
import logging
import sys
from collections.abc import AsyncGenerator
from typing import Any

import httpx2 as httpx
import pytest
import structlog
from mcp import Client

from mlx_mcp.app import build_app
from mlx_mcp.errors import EngineFailed, JobCancelled, QueueFull
from mlx_mcp.gateway import Gateway
from mlx_mcp.http.origin import RequestIds
from mlx_mcp.mcp_server import build_server
from mlx_mcp.settings import Settings
from mlx_mcp.state.jobs import Job, current_job
from mlx_mcp.telemetry.logs import configure_logging
from mlx_mcp.types import Capability, Door
from tests.fakes import EchoEngine, EndlessEngine, Engines
from tests.telemetry.making import ORIGIN, Lines, QuotingEngine, ask

CHAT = "/v1/chat/completions"
ERAS = ("2026-07-28", "legacy")
SECRET = "Rumpelstiltskin"

ours = logging.getLogger("mlx_mcp.tests")


def body(text: str, **more: object) -> dict[str, object]:
    return {"model": "echo", "messages": [{"role": "user", "content": text}], **more}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_job_over_http_is_a_line_with_both_ids(client: httpx.AsyncClient, lines: Lines, stream: bool) -> None:
    reply = await client.post(CHAT, json=body("one two", stream=stream), headers={"x-request-id": "mine"})
    line = lines.of("chat succeeded")
    assert (line["job_id"], line["request_id"]) == (reply.headers["x-job-id"], "mine")
    assert (line["door"], line["model"], line["level"]) == ("http", "echo", "info")
    assert (line["prompt_tokens"], line["completion_tokens"], line["finish_reason"]) == (2, 2, "stop")
    assert 0 <= line["wait_s"] <= line["first_token_s"] <= line["total_s"]


@pytest.mark.parametrize("era", ERAS)
async def test_a_job_over_mcp_is_a_line_with_both_ids(gateway: Gateway, lines: Lines, era: str) -> None:
    async with Client(build_server(gateway), mode=era) as mcp:
        result = await mcp.call_tool("chat", {"prompt": "one two"})
    assert result.structured_content is not None
    line = lines.of("chat succeeded")
    assert line["job_id"] == result.structured_content["job_id"]
    assert line["request_id"] and (line["door"], line["model"]) == ("mcp", "echo")


async def test_every_step_of_a_job_is_a_line_at_debug_level(gateway: Gateway, lines: Lines) -> None:
    job, _ = await gateway.run(ask("one"), ORIGIN)
    steps = [line["event"] for line in lines.read() if line.get("job_id") == job.id]
    assert [step for step in steps if step.startswith("chat ")] == [
        "chat queued",
        "chat running",
        "chat speaks",
        "chat succeeded",
    ]


async def test_a_failed_job_is_an_error_with_its_code(gateway: Gateway, lines: Lines) -> None:
    with pytest.raises(EngineFailed):
        await gateway.run(ask("boom"), ORIGIN)
    line = lines.of("chat failed")
    assert (line["level"], line["code"]) == ("error", "engine_failed")


async def test_a_cancelled_job_is_no_alarm(gateway: Gateway, lines: Lines) -> None:
    async with gateway.submit(ask("x", "endless"), ORIGIN) as ticket:
        await ticket.admitted()
    with pytest.raises(JobCancelled):
        await ticket.wait()
    assert lines.of("chat cancelled")["level"] == "info"


async def test_a_refusal_is_a_line_with_its_request_and_without_a_job(
    gateway: Gateway, echo: EchoEngine, lines: Lines
) -> None:
    tickets = [gateway.submit(ask("wait"), ORIGIN) for _ in range(3)]
    with pytest.raises(QueueFull):
        gateway.submit(ask("x"), ORIGIN)
    echo.gate.set()
    for ticket in tickets:
        await ticket.wait()
    line = lines.of("chat refused")
    assert (line["request_id"], line["model"], line["code"]) == ("mine", "echo", "queue_full")
    assert "job_id" not in line


async def test_what_the_engines_thread_says_of_one_request_bears_its_ids(settings: Settings, lines: Lines) -> None:
    async with Engines(echo=QuotingEngine()).runtime(settings) as runtime:
        with pytest.raises(EngineFailed):
            await runtime.gateway.run(ask("choke"), ORIGIN)
        (job,) = await runtime.gateway.recent_jobs()
    line = lines.of("echo could not take a request in")
    assert (line["job_id"], line["request_id"], line["model"]) == (job.id, "mine", "echo")
    assert "ValueError" in line["exception"] and "making.py" in line["exception"]


def test_what_is_said_while_a_job_is_worked_on_bears_its_ids(lines: Lines) -> None:
    job = Job(request_id="mine", kind=Capability.CHAT, model="echo", door=Door.CLI)
    before = current_job.set(job)
    ours.info("at it")
    logging.getLogger("a.library").warning("at it, too")
    current_job.reset(before)
    ours.info("done")
    for event in ("at it", "at it, too"):
        line = lines.of(event)
        assert (line["job_id"], line["request_id"], line["door"], line["model"]) == (job.id, "mine", "cli", "echo")
    assert "job_id" not in lines.of("done")


async def test_what_is_said_within_a_request_over_http_bears_its_id_to_the_very_end(lines: Lines) -> None:
    async def failing(scope: object, receive: object, send: object) -> None:
        ours.info("inside")
        raise OSError

    async def nothing(*_: object) -> Any: ...

    scope = {"type": "http", "headers": [(b"x-request-id", b"mine")]}

    async def as_servers_do() -> None:
        try:
            await RequestIds(failing)(scope, nothing, nothing)
        except OSError:
            logging.getLogger("uvicorn.error").exception("Exception in ASGI application\n")

    await asyncio.create_task(as_servers_do())  # servers have a task for each request
    ours.info("the next")
    assert lines.of("inside")["request_id"] == "mine"
    assert lines.of("Exception in ASGI application")["request_id"] == "mine"
    assert "request_id" not in lines.of("the next")


@pytest.mark.parametrize("era", ERAS)
async def test_what_is_said_within_a_tool_bears_its_requests_id(gateway: Gateway, lines: Lines, era: str) -> None:
    server = build_server(gateway)

    @server.tool()
    async def look() -> str:
        ours.info("inside")
        return "ok"

    async with Client(server, mode=era) as mcp:
        await mcp.call_tool("look", {})
        await gateway.run(ask("x"), ORIGIN)
    assert lines.of("inside")["request_id"] not in {"", "None"}
    assert lines.of("chat succeeded")["request_id"] == "mine"


@pytest.fixture
async def doors(settings: Settings) -> AsyncGenerator[tuple[httpx.AsyncClient, Client]]:
    """A client of each, and behind them an engine whose errors quote."""
    engines = Engines(echo=QuotingEngine(), endless=EndlessEngine())
    async with engines.runtime(settings) as runtime:
        server = build_server(runtime.gateway)
        app = build_app(runtime, server)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client,
            Client(server) as mcp,
        ):
            yield client, mcp


@pytest.mark.parametrize("as_json", [False, True])
async def test_neither_question_nor_answer_is_in_the_log_whatever_fails(
    doors: tuple[httpx.AsyncClient, Client],
    logging_restored: None,
    capsys: pytest.CaptureFixture[str],
    as_json: bool,
) -> None:
    http, mcp = doors
    configure_logging("debug", json=as_json)
    for word in ("fine", "choke", "quote", "scold", "boom", "refuse"):
        for stream in (False, True):
            await http.post(CHAT, json=body(f"{SECRET} {word}", stream=stream))
        await mcp.call_tool("chat", {"prompt": f"{SECRET} {word}"})
    for model in ("missing", SECRET):
        await http.post(CHAT, json=body(SECRET) | {"model": model})
    await http.post(CHAT, json=body(SECRET, temperature=SECRET))
    await http.post(CHAT, json={"messages": SECRET})
    await mcp.call_tool("chat", {"prompt": SECRET, "temperature": SECRET})
    said = capsys.readouterr().err
    assert said.count("chat succeeded") == 3 and said.count("chat failed") == 16
    assert all(f"{kind}: (its text is withheld)" in said for kind in ("ValueError", "KeyError", "RuntimeError"))
    assert SECRET not in said


def test_a_line_is_json_whatever_is_said(lines: Lines) -> None:
    ours.info('two\nlines, "quotes" and \x1b[31m %s', "ünïcödé")
    ours.info("with %s", "fields", extra={"more": 1, "odd": object()})
    try:
        raise ValueError("x")
    except ValueError:
        ours.exception("a fault")
    first, second, third = lines.read()
    assert first["event"] == 'two\\nlines, "quotes" and \\x1b[31m ünïcödé'
    assert (first["level"], first["logger"]) == ("info", "mlx_mcp.tests")
    assert first["timestamp"].endswith("Z")
    assert second["more"] == 1
    assert "ValueError" in third["exception"] and "test_logs.py" in third["exception"]


def test_what_asyncio_says_is_cut_where_it_would_show_values(lines: Lines) -> None:
    logging.getLogger("asyncio").error("Task exception was never retrieved\nfuture: ValueError('%s')", SECRET)
    assert lines.of("Task exception was never retrieved")["level"] == "error"


def test_libraries_are_heard_from_warnings_on_whatever_our_own_level_is(lines: Lines) -> None:
    library = logging.getLogger("a.library")
    library.debug("Received JSON: all of it")
    library.info("Received: much of it")
    library.warning("careful", extra={"message_of_the_user": SECRET})
    (line,) = lines.read()
    assert (line["event"], line["logger"]) == ("careful", "a.library")
    assert SECRET not in line.values()


def test_loggers_of_structlog_write_the_same_lines(lines: Lines) -> None:
    structlog.stdlib.get_logger("a.library").warning("careful", size=3)
    line = lines.of("careful")
    assert (line["size"], line["level"], line["logger"]) == (3, "warning", "a.library")


def test_the_level_holds_for_our_own_lines(logging_restored: None, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("error", json=True)
    ours.warning("careful")
    logging.getLogger("a.library").warning("careful")
    ours.error("broken")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "broken"


def test_configured_twice_a_line_is_written_once(lines: Lines) -> None:
    configure_logging("info", json=True)
    ours.info("once")
    ours.debug("never")
    assert [line["event"] for line in lines.read()] == ["once"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_line_is_for_people(logging_restored: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    configure_logging()
    ours.info("chat succeeded", extra={"request_id": "a job_id=b"})
    (line,) = terminal.getvalue().splitlines()
    assert "\x1b[" in line and "chat succeeded" in line
    assert "'a job_id=b'" in line  # what a caller named is told from what we say
    assert "mlx_mcp" not in line


def test_on_a_terminal_without_colour_there_is_none(logging_restored: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    configure_logging()
    ours.warning("careful")
    assert terminal.getvalue().endswith("[warning  ] careful\n")
    assert "\x1b" not in terminal.getvalue()


def test_elsewhere_a_line_is_json_unless_lines_for_people_are_asked_for(
    logging_restored: None, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging()
    ours.info("one")
    configure_logging(json=False)
    ours.info("two")
    one, two = capsys.readouterr().err.splitlines()
    assert json.loads(one)["event"] == "one"
    assert two.endswith("[info     ] two") and "\x1b" not in two


def test_lines_go_to_whatever_stderr_is_by_then(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", later := io.StringIO())
    ours.info("below the progress bar")
    assert json.loads(later.getvalue())["event"] == "below the progress bar"


async def test_a_load_is_about_no_ones_request(gateway: Gateway, lines: Lines) -> None:
    await gateway.run(ask("one"), ORIGIN)
    (loaded,) = [line for line in lines.read() if "is loaded after" in line["event"]]
    assert "job_id" not in loaded and "request_id" not in loaded
