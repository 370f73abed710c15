"""Text models on mlx-lm, many requests at a time."""

from mlx_mcp.engines.text.engine import TextEngine

__all__ = ["TextEngine"]
