"""mlx-mcp models"""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mlx_mcp.cli import options
from mlx_mcp.settings import load_settings


def models(
    models: options.Models = None,
    cache_dir: options.CacheDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """List the models that `serve` would serve, and what of them is on this machine. Loads nothing."""
    from mlx_mcp import engines  # noqa: PLC0415 - a third of a second of imports
    from mlx_mcp.errors import ModelUnavailable  # noqa: PLC0415

    settings = load_settings(models=models or None, cache_dir=cache_dir)
    rows: list[dict[str, Any]] = []
    for model in engines.served(settings):
        problem = None
        try:
            info = engines.check(model, settings)
            path = engines.find(model.source, settings.cache_dir)
        except ModelUnavailable as exc:
            info, path, problem = engines.describe(model, settings), None, str(exc)
        rows.append(
            {
                "id": model.id,
                "source": model.source,
                "kind": info.kind,
                "family": info.family,
                "context_length": info.context_length,
                "quantization": info.quantization,
                "size_bytes": info.size_bytes,
                "path": str(path) if path else None,
                "problem": problem,
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        Console().print(_table(rows))


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("model", "kind", "family", "context", "weights", "size", "where"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        size = f"{row['size_bytes'] / 1e6:,.0f} MB" if row["size_bytes"] else ""
        where = row["problem"] or row["path"] or "fetched on first use"
        context = f"{row['context_length']:,}" if row["context_length"] else ""
        table.add_row(row["id"], row["kind"], row["family"], context, row["quantization"], size, where)
    return table
