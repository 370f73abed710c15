"""mlx-mcp serve"""

import anyio

from mlx_mcp.cli import options
from mlx_mcp.settings import load_settings


def serve(
    models: options.Models = None,
    host: options.Host = None,
    port: options.Port = None,
    model_type: options.ModelType = None,
    context_length: options.ContextLength = None,
    max_concurrency: options.MaxConcurrency = None,
    queue_size: options.QueueSize = None,
    queue_timeout: options.QueueTimeout = None,
    default_max_tokens: options.DefaultMaxTokens = None,
    log_level: options.LogLevel = None,
    log_format: options.LogFormat = None,
    cache_dir: options.CacheDir = None,
) -> None:
    """Serve models over HTTP: the OpenAI API at /v1, MCP at /mcp and /sse."""
    settings = load_settings(
        models=models or None,
        host=host,
        port=port,
        model_type=model_type,
        context_length=context_length,
        max_concurrency=max_concurrency,
        queue_size=queue_size,
        queue_timeout=queue_timeout,
        default_max_tokens=default_max_tokens,
        log_level=log_level,
        log_format=log_format,
        cache_dir=cache_dir,
    )
    from mlx_mcp.cli.process import Process, leave  # noqa: PLC0415 - a second of imports

    anyio.run(Process(settings).serve)
    leave()
