"""Who asks, and what they call their request."""

import secrets
import time

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from mlx_mcp.errors import InvalidRequest
from mlx_mcp.types import Door, Origin, Priority

HEADER = "x-request-id"
TIME_HEADER = "x-process-time"
LONGEST = 128
PRIORITY_HEADER = "x-priority"


class RequestIds:
    """
    Middleware: each request has an id, the caller's own or one of ours, and the response and the log lines bear it.

    The response also says how long it took, in seconds with decimals, until its headers were sent. For a stream that is
    until the stream began.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if given.isprintable() and 0 < len(given) <= LONGEST else f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        bind_contextvars(request_id=request_id)  # and left so: the server tells of a fault when we are out of the way

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[HEADER] = request_id
                headers[TIME_HEADER] = f"{time.perf_counter() - began:.6f}"
            await send(message)

        await self._app(scope, receive, tell)


def origin_of(request: Request, priority: Priority | None = None) -> Origin:
    """
    `priority`: what the body says of it; it goes before the header.

    Raises: InvalidRequest, when the header names no priority.
    """
    return Origin(
        door=Door.HTTP,
        request_id=request.state.request_id,
        client=request.headers.get("user-agent", "")[:LONGEST] or None,
        priority=priority or _priority(request.headers.get(PRIORITY_HEADER)),
    )


def _priority(named: str | None) -> Priority:
    try:
        return Priority(named or Priority.NORMAL)
    except ValueError:
        raise InvalidRequest(
            f"{named!r} is no priority. Priorities are: {', '.join(Priority)}.", param=PRIORITY_HEADER
        ) from None
