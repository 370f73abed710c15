"""What the event loop asks of an engine's thread."""

from dataclasses import dataclass
from typing import Any

from mlx_mcp.engines.base import Key


@dataclass(frozen=True, slots=True)
class Add:
    key: Key
    request: Any


@dataclass(frozen=True, slots=True)
class Drop:
    key: Key


@dataclass(frozen=True, slots=True)
class Stop:
    pass


Command = Add | Drop | Stop
