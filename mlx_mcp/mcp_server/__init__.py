"""MCP tools: one module for each subject, each with one `register`."""

from mcp.server import MCPServer

from mlx_mcp import __version__
from mlx_mcp.gateway import Gateway
from mlx_mcp.mcp_server import chat, jobs, models
from mlx_mcp.mcp_server.arguments import KnownArguments
from mlx_mcp.mcp_server.origin import name_request

__all__ = ["build_server"]

INSTRUCTIONS = (
    "Local MLX models on this machine, shared by everything that runs on it: nothing leaves the machine. "
    "Call list_models to see what is served, and queue_status when an answer takes long."
)


def build_server(gateway: Gateway) -> MCPServer:
    server = MCPServer("mlx-mcp", title="MLX", version=__version__, instructions=INSTRUCTIONS)
    server.middleware.extend([name_request, KnownArguments(server)])
    for subject in (chat, models, jobs):
        subject.register(server, gateway)
    return server
