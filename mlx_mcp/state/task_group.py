"""A task group for a block's own tasks."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup


@asynccontextmanager
async def task_group() -> AsyncGenerator[TaskGroup]:
    """
    A task group out of which an error of the block itself comes as it is, and not in an ExceptionGroup.

    Whoever opens a scheduler need not know that there are tasks in it.
    """
    raised: Exception | None = None
    async with anyio.create_task_group() as tasks:
        try:
            yield tasks
        except Exception as exc:  # noqa: BLE001 - raised again below
            raised = exc
            tasks.cancel_scope.cancel()
    if raised:
        raise raised
