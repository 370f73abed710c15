"""Which errors an agent gets to read, and what it is told to do about them. No tool handles an error itself."""

import inspect
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

from mlx_mcp.errors import (
    ContextOverflow,
    EngineFailed,
    JobExpired,
    MlxMcpError,
    ModelUnavailable,
    NotCapable,
    QueueFull,
    ShuttingDown,
    UnknownJob,
    UnknownModel,
)

P = ParamSpec("P")
T = TypeVar("T")

ADVICE: dict[type[MlxMcpError], str] = {
    ContextOverflow: "Send less text, or split it.",
    EngineFailed: "Call the tool once more.",
    JobExpired: "Ask for a shorter answer, or try again when queue_status says that less is waiting.",
    ModelUnavailable: "Choose another model from list_models, or tell the user what is wrong with this one.",
    NotCapable: "Choose another model from list_models.",
    QueueFull: "Wait that long before the next call.",
    ShuttingDown: "Tell the user; the server must be started again.",
    UnknownJob: "Job ids begin with job_ and are in the tools' results.",
    UnknownModel: "Leave the model out to get the default one, or choose one of these.",
}


def message_of(error: MlxMcpError) -> str:
    advice = next((ADVICE[cls] for cls in type(error).__mro__ if cls in ADVICE), "")
    return f"{error} {advice}".rstrip()


def tool(
    server: MCPServer, *, title: str, annotations: ToolAnnotations
) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
    """`server.tool()`, with our errors made readable: the SDK hides the text of all but `ToolError`."""

    def decorate(fn: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        @wraps(fn)
        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return await fn(*args, **kwargs)
            except MlxMcpError as exc:
                raise ToolError(message_of(exc)) from exc

        description = inspect.cleandoc(fn.__doc__ or "")
        return server.tool(title=title, description=description, annotations=annotations)(call)

    return decorate
