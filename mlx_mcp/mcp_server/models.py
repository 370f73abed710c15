"""The tool `list_models`."""

from mcp.server import MCPServer
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

from mlx_mcp.gateway import Gateway, Model
from mlx_mcp.mcp_server.errors import tool

LOOK = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)


class ModelEntry(BaseModel):
    id: str = Field(description="What to give as `model` to the other tools.")
    capabilities: list[str] = Field(description="What it can be asked for.")
    family: str | None
    context_length: int | None = Field(description="Tokens, prompt and answer together.")
    state: str = Field(description="loaded, loading, unloaded (it loads when it is asked), failed or broken.")


class ModelList(BaseModel):
    models: list[ModelEntry]


def register(server: MCPServer, gateway: Gateway) -> None:
    @tool(server, title="List local models", annotations=LOOK)
    async def list_models() -> ModelList:  # pyright: ignore[reportUnusedFunction]
        """List the models on this machine, what each can do, and whether it is in memory. The first is the default."""
        return ModelList(models=[describe(model) for model in gateway.models()])


def describe(model: Model) -> ModelEntry:
    info = model.info
    return ModelEntry(
        id=model.id,
        capabilities=sorted(info.capabilities),
        family=info.family,
        context_length=info.context_length,
        state=model.state,
    )
