"""GET /v1/models, /health, /v1/queue/stats"""

import anyio
import httpx2 as httpx

from mlx_mcp.gateway import Gateway
from tests.fakes import EchoEngine

CHAT = "/v1/chat/completions"


def body(text: str, model: str = "echo") -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


async def test_models_are_listed_with_what_is_known_of_them(client: httpx.AsyncClient) -> None:
    reply = (await client.get("/v1/models")).json()
    assert reply["object"] == "list"
    first = reply["data"][0]
    assert (first["id"], first["object"], first["owned_by"]) == ("echo", "model", "mlx-mcp")
    assert (first["family"], first["context_length"], first["capabilities"]) == ("fake", 100, ["chat"])
    assert isinstance(first["created"], int) and first["loaded"] is False


async def test_a_model_is_loaded_after_its_first_request(client: httpx.AsyncClient) -> None:
    await client.post(CHAT, json=body("x"))
    assert (await client.get("/v1/models/echo")).json()["loaded"] is True


async def test_an_unknown_model_is_a_404(client: httpx.AsyncClient) -> None:
    reply = await client.get("/v1/models/mlx-community/nope")
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "model_not_found"


async def test_health_is_ok_while_models_wait_to_be_asked_for(client: httpx.AsyncClient) -> None:
    reply = await client.get("/health")
    assert reply.status_code == 200
    assert reply.json()["models"]["echo"] == {"state": "unloaded", "loading": None, "failure": None, "engine": None}


async def test_health_tells_of_a_loaded_engine_and_of_a_failed_load(client: httpx.AsyncClient) -> None:
    for model in ("echo", "missing"):
        await client.post(CHAT, json=body("x", model))
    reply = await client.get("/health")
    assert reply.status_code == 200  # the others can be served
    models = reply.json()["models"]
    assert models["echo"]["engine"] == {"ok": True, "jobs": 0, "incidents": 0, "step_s": 0.0}
    assert "nowhere to be found" in models["missing"]["failure"]


async def test_health_is_503_with_the_reason_when_an_engine_is_broken(
    client: httpx.AsyncClient, echo: EchoEngine
) -> None:
    await client.post(CHAT, json=body("x"))
    echo.resets_work = False
    await client.post(CHAT, json=body("boom"))
    with anyio.fail_after(5):
        while (await client.get("/health")).status_code == 200:
            await anyio.sleep(0.005)
    reply = (await client.get("/health")).json()
    assert reply["reasons"] == ["echo is broken"]


async def test_queue_stats_count_what_runs_and_waits(
    client: httpx.AsyncClient, gateway: Gateway, echo: EchoEngine
) -> None:
    empty = (await client.get("/v1/queue/stats")).json()
    assert {key: empty[key] for key in ("running", "queued", "max_queued", "oldest_wait_s")} == {
        "running": 0,
        "queued": 0,
        "max_queued": 6,
        "oldest_wait_s": 0.0,
    }
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(lambda: client.post(CHAT, json=body("wait")))
        with anyio.fail_after(5):
            while gateway.queue().running < 1 or gateway.queue().queued < 1:
                await anyio.sleep(0.005)
        stats = (await client.get("/v1/queue/stats")).json()
        echo.gate.set()
    assert (stats["running"], stats["queued"]) == (1, 1)
    assert stats["oldest_wait_s"] > 0
    assert stats["models"]["echo"]["slots"] == 1
    (wait,) = stats["models"]["echo"]["waiting"]
    assert (wait["ahead"], wait["estimate_s"], wait["waits_for"]) == (0, None, "a free slot")
    assert wait["id"].startswith("job_")
    assert stats["models"]["endless"]["slots"] is None
