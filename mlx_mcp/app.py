"""The process as one ASGI application: HTTP routes, and MCP over Streamable HTTP and SSE, on one runtime."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
from fastapi import FastAPI
from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.routing import Mount, Route

from mlx_mcp import __version__
from mlx_mcp.http import build_router, install_error_handlers
from mlx_mcp.http.disconnect import DisconnectOnShutdown
from mlx_mcp.http.origin import RequestIds
from mlx_mcp.mcp_server import build_server
from mlx_mcp.runtime import Runtime
from mlx_mcp.settings import Settings

LARGEST_MCP_BODY = 64 << 20
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def create_app(settings: Settings | None = None) -> FastAPI:
    """An application with a runtime of its own, opened and closed by its lifespan."""
    runtime = Runtime(settings or Settings())
    return build_app(runtime, build_server(runtime.gateway), owns_runtime=True)


def build_app(
    runtime: Runtime, server: MCPServer, *, owns_runtime: bool = False, stopping: anyio.Event | None = None
) -> FastAPI:
    """
    The application of a runtime and its MCP server.

    Args:
        runtime: Opened and closed by somebody else, who outlives the application, unless the application owns it.
        server: From `build_server`.
        owns_runtime: The application's lifespan opens and closes the runtime.
        stopping: Set to end the MCP clients' open streams, which would hold up a server that waits for its clients.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            if owns_runtime:
                await stack.enter_async_context(runtime)
            await stack.enter_async_context(server.session_manager.run())
            yield

    # FastAPI's own pages for /docs would load scripts from elsewhere; /openapi.json is there for any reader.
    app = FastAPI(title="mlx-mcp", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.include_router(build_router(runtime.gateway, runtime.metrics, keep_alive_s=runtime.settings.keep_alive))
    install_error_handlers(app)
    app.add_middleware(RequestIds)
    routes = _mcp_routes(server, runtime.settings.host)
    if stopping:
        for route in routes:
            route.app = DisconnectOnShutdown(route.app, stopping)
    app.router.routes.extend(routes)
    return app


def _mcp_routes(server: MCPServer, host: str) -> list[Route | Mount]:
    """`/mcp`, `/sse` and `/messages/`, as routes of ours: a mount at / would swallow every unknown path."""
    hosts = [*LOOPBACK, host]
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=[name + port for name in hosts for port in ("", ":*")],
        allowed_origins=[f"http://{name}{port}" for name in hosts for port in ("", ":*")],
    )
    streamable = server.streamable_http_app(transport_security=security, max_request_body_size=LARGEST_MCP_BODY)
    sse = server.sse_app(transport_security=security, max_request_body_size=LARGEST_MCP_BODY)
    return [route for route in [*streamable.routes, *sse.routes] if isinstance(route, Route | Mount)]
