"""Jobs and tickets, without a request."""

import math
from typing import Any

from mlx_mcp.state.jobs import Job
from mlx_mcp.state.ticket import Ticket
from mlx_mcp.types import Capability, Door


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def job(**fields: Any) -> Job:
    return Job(**({"kind": Capability.CHAT, "model": "m", "door": Door.HTTP} | fields))


def ticket(**fields: Any) -> Ticket:
    return Ticket(job(**fields), deadline=math.inf)
