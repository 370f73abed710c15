"""The only bridge between asyncio and MLX: one thread per engine, seen from the event loop."""

import asyncio
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Self

from anyio import AsyncContextManagerMixin, CancelScope, to_thread

from mlx_mcp.engines.base import Engine, Key, Report
from mlx_mcp.engines.commands import Add, Command, Drop, Stop
from mlx_mcp.engines.worker import Worker
from mlx_mcp.errors import EngineFailed, MlxMcpError, ShuttingDown
from mlx_mcp.types import FINAL, Event, Failed, Loading

UNLOAD_TIMEOUT_S = 30.0
SHUTDOWN_TIMEOUT_S = 2.0
"""How long the thread's end is waited for. A step, or a part of a load, that takes longer can't be interrupted."""


THREAD_NAME = "engine"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineHealth:
    ok: bool
    jobs: int
    incidents: int
    """Steps that raised since the engine was loaded."""
    step_s: float
    """Seconds since the running step began; 0 between steps."""


@dataclass(slots=True)
class _Listener:
    put: Callable[[Event], None]
    ended: asyncio.Future[MlxMcpError | None]


class EngineThread(AsyncContextManagerMixin):
    """
    An engine on a thread of its own, from the opening of the block to its end.

    MLX streams belong to the thread that made them, so one thread loads, steps and unloads the engine.
    """

    def __init__(
        self, name: str, open_engine: Callable[[Report], Engine[Any]], report: Report, *, settle_s: float = 0.003
    ) -> None:
        """`settle_s`: how long an idle engine waits for a request's companions, since the last one came."""
        self.name = name
        self._open_engine = open_engine
        self._report = report
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._worker = Worker(name, self._commands, self._publish, settle_s)
        self._listeners: dict[Key, _Listener] = {}
        self._keys = count()
        self._outbox: list[tuple[Key, Event]] = []
        self._outbox_lock = threading.Lock()
        self._leaving = False
        self._loop: asyncio.AbstractEventLoop
        self._opened: asyncio.Future[Engine[Any]]
        self._engine: Engine[Any]

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        """Raises: ModelUnavailable, or what else the engine raised while it loaded."""
        self._loop = asyncio.get_running_loop()
        self._opened = self._loop.create_future()
        thread = threading.Thread(
            target=self._worker.run,
            args=(lambda: self._open_engine(self._report_on_loop), self._tell_opened),
            name=f"{THREAD_NAME} {self.name}",
            daemon=True,
        )
        thread.start()
        patience_s = SHUTDOWN_TIMEOUT_S
        try:
            self._engine = await self._opened
            yield self
            patience_s = UNLOAD_TIMEOUT_S
        finally:
            self._leaving = True
            self._commands.put(Stop())
            with CancelScope(shield=True):
                await to_thread.run_sync(thread.join, patience_s)

    @property
    def engine(self) -> Engine[Any]:
        """For its plain attributes; its methods belong to its thread."""
        return self._engine

    async def run(self, request: object, put: Callable[[Event], None]) -> None:
        """
        Work on a request and give its events to `put`, up to and with its `Done`.

        Cancelled, it takes the request out at the engine's next step. Raises: the error of its `Failed`.
        """
        key = next(self._keys)
        listener = self._listeners[key] = _Listener(put, self._loop.create_future())
        self._commands.put(Add(key, request))
        try:
            error = await listener.ended
        finally:
            if self._listeners.pop(key, None):
                self._commands.put(Drop(key))
        if error:
            raise error

    @property
    def broken(self) -> bool:
        """A step raised, and the engine could not be brought back."""
        return self._worker.broken is not None

    def health(self) -> EngineHealth:
        began = self._worker.step_began
        return EngineHealth(
            ok=not self.broken,
            jobs=len(self._listeners),
            incidents=self._worker.incidents,
            step_s=0.0 if began is None else round(time.monotonic() - began, 3),
        )

    def _deliver(self) -> None:
        with self._outbox_lock:
            events, self._outbox = self._outbox, []
        for key, event in events:
            if listener := self._listeners.get(key):
                self._hand_over(key, listener, event)

    def _hand_over(self, key: Key, listener: _Listener, event: Event) -> None:
        error = event.error if isinstance(event, Failed) else None
        if error is None:
            listener.put(event)
        if isinstance(event, FINAL):
            del self._listeners[key]
            if not listener.ended.done():  # it is when the waiting task was cancelled in this turn of the loop
                listener.ended.set_result(error)

    # What follows is called on the worker's thread.

    def _publish(self, events: list[tuple[Key, Event]]) -> None:
        with self._outbox_lock:
            scheduled = bool(self._outbox)
            self._outbox += events
        if not scheduled:  # however fast the steps are, the loop has one delivery to make
            self._on_loop(self._deliver)

    def _report_on_loop(self, loading: Loading) -> None:
        if self._leaving:
            raise ShuttingDown  # the one place where a load, which takes minutes, can be interrupted
        self._on_loop(self._report, loading)

    def _tell_opened(self, outcome: Engine[Any] | BaseException) -> None:
        self._on_loop(self._settle_opened, outcome)

    def _settle_opened(self, outcome: Engine[Any] | BaseException) -> None:
        if self._opened.done():  # nobody waits any more
            return
        if isinstance(outcome, Engine):
            self._opened.set_result(outcome)
        elif isinstance(outcome, Exception):
            self._opened.set_exception(outcome)
        else:
            self._opened.set_exception(EngineFailed(f"The engine's thread ended: {outcome!r}"))

    def _on_loop(self, fn: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(fn, *args)
        except RuntimeError:  # the loop is closed: nobody is left to hear it
            return
