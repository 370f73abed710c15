"""The tool `chat`."""

from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

from mlx_mcp.gateway import Gateway
from mlx_mcp.mcp_server.errors import tool
from mlx_mcp.mcp_server.origin import origin_of
from mlx_mcp.mcp_server.progress import narrate
from mlx_mcp.types import Capability, ChatRequest, Message, Sampling

LOCAL_READ = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=False, open_world_hint=False)


class ChatReply(BaseModel):
    text: str = Field(description="The model's answer.")
    model: str = Field(description="The model that answered.")
    finish_reason: str = Field(description="stop: the answer is complete; length: it was cut at max_tokens.")
    prompt_tokens: int
    completion_tokens: int
    job_id: str


def register(server: MCPServer, gateway: Gateway) -> None:
    @tool(server, title="Chat with a local model", annotations=LOCAL_READ)
    async def chat(  # pyright: ignore[reportUnusedFunction]
        prompt: Annotated[str, Field(description="What to ask.", min_length=1)],
        ctx: Context[Any, Any],
        system: Annotated[str, Field(description="Instructions for the model.")] = "",
        model: Annotated[str, Field(description="An id from list_models; empty for the default model.")] = "",
        max_tokens: Annotated[int, Field(description="Upper bound of the answer's length.", ge=1)] = 512,
        temperature: Annotated[
            float | None, Field(description="0 is deterministic; left out, the model's own default.", ge=0, le=2)
        ] = None,
    ) -> ChatReply:
        """
        Ask a language model on this machine and get its answer: private, free, offline.

        One question, one answer: it remembers no earlier calls and uses no tools. Takes seconds, or minutes for long
        answers and for a model that must be loaded first.
        """
        messages = (Message(role="system", content=system),) if system else ()
        request = ChatRequest(
            model=model or gateway.default_model(Capability.CHAT).id,
            messages=(*messages, Message(role="user", content=prompt)),
            max_tokens=max_tokens,
            sampling=Sampling(temperature=temperature),
        )
        async with gateway.submit(request, origin_of(ctx)) as ticket:
            result = await narrate(ticket, ctx)
        job = ticket.job
        return ChatReply(
            text=result.text,
            model=job.model,
            finish_reason=job.finish_reason or "stop",
            prompt_tokens=job.usage.prompt_tokens if job.usage else 0,
            completion_tokens=job.usage.completion_tokens if job.usage else 0,
            job_id=job.id,
        )
