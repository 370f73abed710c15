"""The command `mlx-mcp`: one file a command."""

import sys
from typing import Annotated

import typer

from mlx_mcp import __version__
from mlx_mcp.cli import demo, models, serve, stdio
from mlx_mcp.errors import MlxMcpError

__all__ = ["app", "main"]

app = typer.Typer(
    name="mlx-mcp",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Local MLX models for agents and programs: an MCP server and an OpenAI-compatible HTTP API in one process.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mlx-mcp {__version__}")
        raise typer.Exit


@app.callback()
def _root(  # pyright: ignore[reportUnusedFunction]
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    del version


for command in (serve.serve, stdio.stdio, demo.demo, models.models):
    app.command()(command)


def main() -> None:
    """Errors that we know are one line on stderr and exit code 1; others are bugs, and keep their traceback."""
    try:
        app()
    except MlxMcpError as exc:
        typer.echo(f"mlx-mcp: {exc}", err=True)
        sys.exit(1)
