"""Who calls a tool."""

from typing import Any

from mcp.server.mcpserver import Context

from mlx_mcp.types import Door, Origin


def origin_of(ctx: Context[Any, Any]) -> Origin:
    params = ctx.session.client_params
    info = params.client_info if params else None
    return Origin(
        door=Door.MCP, request_id=str(ctx.request_id), client=f"{info.name} {info.version}".strip() if info else None
    )
