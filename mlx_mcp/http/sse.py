"""Server-sent events, of a job."""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any

import anyio
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from mlx_mcp.errors import JobCancelled, MlxMcpError
from mlx_mcp.gateway import Job, Ticket
from mlx_mcp.http.disconnect import until_gone
from mlx_mcp.http.errors import body_of
from mlx_mcp.types import Done, Event, Loading, Progress, Queued, Started, Text

ADMISSION_S = 1.0
"""How long an answer's headers wait for the engine to take the job in, and so for an error to get a status."""

Render = Callable[[Event], list[dict[str, Any]]]
"""The frames of one event."""


class JobStream(Response):
    """
    A job as server-sent events. The job is submitted when the response begins, and cancelled when it is left.

    An error of the first moments becomes a status, as on any other route; a later one is a frame.
    """

    def __init__(self, submit: Callable[[], Ticket], renderer: Callable[[Job], Render], *, keep_alive_s: float) -> None:
        super().__init__(media_type="text/event-stream")
        self._submit = submit
        self._renderer = renderer
        self._keep_alive_s = keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(JobCancelled):  # of a client that is gone
            await until_gone(receive, lambda: self._answer(send))

    async def _answer(self, send: Send) -> None:
        async with self._submit() as ticket:
            with anyio.move_on_after(ADMISSION_S):
                await ticket.admitted()
            headers = [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-cache"),
                (b"x-accel-buffering", b"no"),
                (b"x-job-id", ticket.job.id.encode()),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async with aclosing(self._frames(ticket)) as frames:
                async for frame in frames:
                    await send({"type": "http.response.body", "body": frame, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def _frames(self, ticket: Ticket) -> AsyncGenerator[bytes]:
        render = self._renderer(ticket.job)
        try:
            while True:
                event: Event | None = None
                with anyio.move_on_after(self._keep_alive_s):
                    event = await anext(ticket)
                if comment := _comment(event):
                    yield comment
                elif event:
                    for payload in render(event):
                        yield data(payload)
        except StopAsyncIteration:
            pass
        except MlxMcpError as exc:
            yield data(body_of(exc))
        yield b"data: [DONE]\n\n"


def data(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _comment(event: Event | None) -> bytes | None:
    """What clients skip, and what keeps them and the proxies between from giving up. None where there is data."""
    match event:
        case Text() | Done():
            return None
        case Queued(ahead):
            said = f"queued behind {ahead}"
        case Loading(what, done, total):
            said = f"{what} {100 * done // total} %" if total else what
        case Started():
            said = "started"
        case Progress(done, total):
            said = f"prompt {done}/{total}"
        case _:
            said = "keep-alive"
    return f": {said}\n\n".encode()
