"""Work that stops when nobody listens any more."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from starlette.types import Receive

from mlx_mcp.errors import JobCancelled

T = TypeVar("T")


async def until_gone(receive: Receive, work: Callable[[], Awaitable[T]]) -> T:
    """
    The result of `work`, which is cancelled when the client closes the connection.

    Raises: JobCancelled, when it did.
    """
    results: list[T] = []
    errors: list[Exception] = []
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        try:
            results.append(await work())
        except Exception as exc:  # noqa: BLE001 - raised below: out of here it would be in a group
            errors.append(exc)
        tasks.cancel_scope.cancel()
    if errors:
        raise errors[0]
    if results:
        return results[0]
    raise JobCancelled("The client closed the connection.")
