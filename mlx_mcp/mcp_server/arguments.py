"""Arguments that no tool has are an error. The SDK would drop them silently."""

import difflib
from typing import Any

from mcp.server import MCPServer
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.types import CallToolResult, TextContent


class KnownArguments:
    """Middleware of an MCP server."""

    def __init__(self, server: MCPServer) -> None:
        self._server = server

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        params = ctx.params
        if ctx.method == "tools/call" and params and (complaint := await self._complaint(params)):
            return CallToolResult(is_error=True, content=[TextContent(text=complaint)])
        return await call_next(ctx)

    async def _complaint(self, params: Any) -> str | None:
        arguments: dict[str, object] = params.get("arguments") or {}
        for tool in await self._server.list_tools():
            if tool.name == params.get("name"):
                known = sorted(tool.input_schema.get("properties", {}))
                for name in arguments:
                    if name not in known:
                        return _unknown(tool.name, name, known)
        return None


def _unknown(tool: str, name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"{tool} has no argument {name!r}.{hint} Its arguments are: {', '.join(known) or 'none'}."
