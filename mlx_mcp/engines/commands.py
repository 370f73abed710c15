"""What the event loop asks of an engine's thread."""

from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any

from mlx_mcp.engines.base import Key


@dataclass(frozen=True, slots=True)
class Add:
    key: Key
    request: Any
    context: Context = field(default_factory=copy_context)
    """Of the one who asks, so that what is logged about the request can name it."""


@dataclass(frozen=True, slots=True)
class Drop:
    key: Key


@dataclass(frozen=True, slots=True)
class Trim:
    """Give cached things back until no more than so many bytes are left, and answer."""

    target_bytes: int
    answer: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Stop:
    pass


Command = Add | Drop | Trim | Stop
