"""
One process that hosts MLX models behind MCP and OpenAI-compatible HTTP.

The names are imported when they are first used: a command that serves nothing must not wait for a web framework.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_mcp.app import create_app
    from mlx_mcp.settings import Settings

__all__ = ["Settings", "__version__", "create_app"]

__version__ = version("mlx-mcp")

_HOMES = {"create_app": "mlx_mcp.app", "Settings": "mlx_mcp.settings"}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
