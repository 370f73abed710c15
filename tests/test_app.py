"""Both doors of one application."""

import anyio
import httpx2 as httpx
import pytest
import uvicorn
from fastapi import FastAPI
from mcp import Client
from mcp.client.sse import sse_client

from mlx_mcp import create_app
from mlx_mcp.gateway import Gateway
from mlx_mcp.mcp_server import build_server
from mlx_mcp.settings import Settings

ERAS = ("2026-07-28", "legacy")


async def test_the_same_request_gives_the_same_answer_through_both_doors(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    body = {"model": "echo", "messages": [{"role": "user", "content": "same words"}]}
    over_http = (await client.post("/v1/chat/completions", json=body)).json()
    async with Client(build_server(gateway)) as mcp:
        over_mcp = await mcp.call_tool("chat", {"model": "echo", "prompt": "same words"})
    assert over_mcp.structured_content is not None
    assert over_http["choices"][0]["message"]["content"] == over_mcp.structured_content["text"] == "same words "


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_mcp_is_served_beside_the_routes(app: FastAPI, path: str, era: str) -> None:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        with anyio.fail_after(5):
            while not server.started:
                await anyio.sleep(0.01)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}{path}"
        async with Client(sse_client(url) if path == "/sse" else url, mode=era) as mcp:
            result = await mcp.call_tool("chat", {"prompt": "over the wire"})
        server.should_exit = True
    assert result.structured_content is not None
    assert result.structured_content["text"] == "over the wire "


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000"])
async def test_mcp_refuses_other_hosts_names(client: httpx.AsyncClient, host: str) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    headers = {"accept": "application/json, text/event-stream", "host": host}
    assert (await client.post("/mcp", json=call, headers=headers)).status_code == 421


async def test_an_unknown_path_is_a_404_in_openais_form(client: httpx.AsyncClient) -> None:
    reply = await client.get("/v1/nope")
    assert reply.status_code == 404
    assert reply.json()["error"]["type"] == "invalid_request_error"


@pytest.fixture
def own_app() -> FastAPI:
    return create_app(Settings())


async def test_an_app_of_its_own_opens_and_closes_its_runtime(own_app: FastAPI) -> None:
    transport = httpx.ASGITransport(own_app)
    async with (
        own_app.router.lifespan_context(own_app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        models = (await client.get("/v1/models")).json()["data"]
    assert [model["id"] for model in models] == ["smollm2-135m-instruct"]
    assert models[0]["context_length"] == 8192
