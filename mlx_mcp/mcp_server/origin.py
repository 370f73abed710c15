"""Who calls a tool."""

from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context
from structlog.contextvars import bound_contextvars

from mlx_mcp.errors import InvalidRequest
from mlx_mcp.types import Door, Origin, Priority

PRIORITY = "mlx-mcp/priority"
"""In the `_meta` of a tool call."""


async def name_request(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Middleware of an MCP server: what is logged for a request bears its id."""
    if ctx.request_id is None:
        return await call_next(ctx)
    with bound_contextvars(request_id=str(ctx.request_id)):
        return await call_next(ctx)


def origin_of(ctx: Context[Any, Any]) -> Origin:
    """Raises: InvalidRequest, when the request's `_meta` names no priority."""
    params = ctx.session.client_params
    info = params.client_info if params else None
    return Origin(
        door=Door.MCP,
        request_id=str(ctx.request_id),
        client=f"{info.name} {info.version}".strip() if info else None,
        priority=_priority((ctx.request_context.meta or {}).get(PRIORITY)),
    )


def _priority(named: object) -> Priority:
    try:
        return Priority(str(named)) if named is not None else Priority.NORMAL
    except ValueError:
        raise InvalidRequest(
            f"{named!r} is no priority. Priorities are: {', '.join(Priority)}.", param=PRIORITY
        ) from None
