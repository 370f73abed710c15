"""Models into memory and out of it, and aliases, over HTTP."""

from collections.abc import AsyncGenerator

import anyio
import httpx2 as httpx
import pytest

from mlx_mcp.gateway import Gateway
from mlx_mcp.runtime import Runtime
from mlx_mcp.settings import ModelSettings, Settings
from tests.fakes import EchoEngine, EndlessEngine, Engines

CHAT = "/v1/chat/completions"


def body(model: str, text: str = "x") -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


@pytest.fixture
def settings() -> Settings:
    models = (
        ModelSettings(id="echo", source="/a", aliases=("gpt-4o-mini",)),
        ModelSettings(id="endless", source="/b", version="2"),
        ModelSettings(id="missing", source="/c"),
    )
    return Settings(models=models, queue_timeout=20)


@pytest.fixture
async def runtime(settings: Settings, echo: EchoEngine, endless: EndlessEngine) -> AsyncGenerator[Runtime]:
    async with Engines(echo=echo, endless=endless).runtime(settings) as runtime:
        yield runtime
        echo.gate.set()


async def state(client: httpx.AsyncClient, model: str) -> str:
    return (await client.get("/health")).json()["models"][model]["state"]


async def test_a_model_is_loaded_and_unloaded_on_demand(client: httpx.AsyncClient, echo: EchoEngine) -> None:
    loaded = await client.post("/v1/models/load", json={"model": "echo"})
    assert (loaded.status_code, loaded.json()["loaded"]) == (200, True)
    unloaded = await client.post("/v1/models/echo/unload")
    assert (unloaded.status_code, unloaded.json()["loaded"]) == (200, False)
    assert echo.unloaded
    assert await state(client, "echo") == "unloaded"
    again = await client.post("/v1/models/echo/unload")
    assert again.status_code == 200  # it is where it should be


async def test_a_model_at_work_is_not_unloaded(client: httpx.AsyncClient, gateway: Gateway, echo: EchoEngine) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: client.post(CHAT, json=body("echo", "wait")))
        with anyio.fail_after(5):
            while gateway.queue().running < 1:
                await anyio.sleep(0.005)
        refused = await client.post("/v1/models/echo/unload")
        echo.gate.set()
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "model_busy"
    assert "1 request;" in refused.json()["error"]["message"]


async def test_a_model_that_cannot_be_loaded_says_why(client: httpx.AsyncClient) -> None:
    refused = await client.post("/v1/models/load", json={"model": "missing"})
    assert refused.status_code == 503
    assert "nowhere to be found" in refused.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/models/nope/unload", "/v1/models/nope/warmup"])
async def test_an_unknown_model_is_a_404(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.post(path)).status_code == 404
    assert (await client.post("/v1/models/load", json={"model": "nope"})).status_code == 404


async def test_a_warm_up_loads_the_model_and_lets_it_work_once(client: httpx.AsyncClient, gateway: Gateway) -> None:
    reply = await client.post("/v1/models/echo/warmup")
    assert (reply.status_code, reply.json()["loaded"]) == (200, True)
    assert reply.json()["warmup_s"] >= 0
    (job,) = await gateway.recent_jobs()
    assert (job.status, job.model) == ("succeeded", "echo")


@pytest.mark.parametrize("name", ["default", "gpt-4o-mini", "echo"])
async def test_names_and_aliases_reach_the_same_model(client: httpx.AsyncClient, name: str) -> None:
    reply = await client.post(CHAT, json=body(name))
    assert reply.json()["model"] == "echo"


@pytest.mark.parametrize("name", ["endless", "endless@2"])
async def test_a_version_is_part_of_the_name_and_can_be_left_out(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.get(f"/v1/models/{name}")).json()["id"] == "endless@2"


async def test_an_alias_is_switched_for_what_comes_and_not_for_what_runs(
    client: httpx.AsyncClient, gateway: Gateway, echo: EchoEngine
) -> None:
    answers: list[str] = []

    async def ask() -> None:
        reply = await client.post(CHAT, json=body("gpt-4o-mini", "wait"))
        answers.append(reply.json()["model"])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        with anyio.fail_after(5):
            while gateway.queue().running < 1:
                await anyio.sleep(0.005)
        switched = await client.put("/v1/models/aliases/gpt-4o-mini", json={"model": "endless"})
        assert switched.json()["id"] == "endless@2"
        assert "gpt-4o-mini" in switched.json()["aliases"]
        assert (await client.get("/v1/models/gpt-4o-mini")).json()["id"] == "endless@2"
        echo.gate.set()
    assert answers == ["echo"]


async def test_a_models_own_name_is_no_alias(client: httpx.AsyncClient) -> None:
    refused = await client.put("/v1/models/aliases/echo", json={"model": "endless"})
    assert refused.status_code == 400
    unknown = await client.put("/v1/models/aliases/new", json={"model": "nope"})
    assert unknown.status_code == 404
