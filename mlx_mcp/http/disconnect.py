"""Work that stops when nobody listens any more."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


class DisconnectOnShutdown:
    """Middleware: an application sees its client leave as soon as the server is stopping."""

    def __init__(self, app: ASGIApp, stopping: anyio.Event) -> None:
        self._app = app
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def receive_or_stop() -> Message:
            message: Message = {"type": "http.disconnect"}

            async def stop() -> None:
                await self._stopping.wait()
                tasks.cancel_scope.cancel()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stop)
                message = await receive()
                tasks.cancel_scope.cancel()
            return message

        async def send_once(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                if begun and self._stopping.is_set():  # the SDK's SSE route answers once more when its stream ends
                    return
                begun = True
            await send(message)

        await self._app(scope, receive_or_stop, send_once)
