"""The only bridge between asyncio and MLX: one thread per engine, seen from the event loop."""

import asyncio
import queue
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Self

from anyio import AsyncContextManagerMixin, CancelScope, to_thread

from mlx_mcp.engines.base import Engine, Key, Report
from mlx_mcp.engines.commands import Add, Command, Drop, Stop, Trim
from mlx_mcp.engines.gate import ComputeGate
from mlx_mcp.engines.worker import OPEN, EngineCounts, Worker
from mlx_mcp.errors import EngineFailed, ShuttingDown
from mlx_mcp.types import FINAL, Event, Failed, Loading

UNLOAD_TIMEOUT_S = 30.0
SHUTDOWN_TIMEOUT_S = 2.0
"""How long the thread's end is waited for. A step, or a part of a load, that takes longer can't be interrupted."""


THREAD_NAME = "engine"


MakeRoom = Callable[[Engine[Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineHealth:
    ok: bool
    jobs: int
    incidents: int
    """Steps that raised, in all stays of the model in memory."""
    step_s: float
    """Seconds since the running step began; 0 between steps."""


@dataclass(slots=True)
class _Listener:
    put: Callable[[Event], None]
    ended: asyncio.Future[Exception | None]


class EngineThread(AsyncContextManagerMixin):
    """
    An engine on a thread of its own, from the opening of the block to its end.

    MLX streams belong to the thread that made them, so one thread loads, steps and unloads the engine.
    """

    def __init__(
        self,
        name: str,
        open_engine: Callable[[Report], Engine[Any]],
        report: Report,
        *,
        make_room: MakeRoom | None = None,
        gate: ComputeGate = OPEN,
        counts: EngineCounts | None = None,
        settle_s: float = 0.003,
    ) -> None:
        """
        Args:
            name: For logs.
            open_engine: Makes the engine, without its weights; called on the thread.
            report: Told, on the event loop, of what is done while the engine opens and loads.
            make_room: Awaited between the two, on the event loop.
            gate: Held in each step.
            counts: Those of an earlier stay, to go on with.
            settle_s: How long an idle engine waits for a request's companions, since the last one came.
        """
        self.name = name
        self._open_engine = open_engine
        self._report = report
        self._make_room = make_room
        self._admission: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._worker = Worker(name, self._commands, self._publish, settle_s, gate, counts)
        self._listeners: dict[Key, _Listener] = {}
        self._keys = count()
        self._outbox: list[tuple[Key, Event]] = []
        self._outbox_lock = threading.Lock()
        self._leaving = False
        self._trims: set[asyncio.Future[None]] = set()
        self._loop: asyncio.AbstractEventLoop
        self._made: asyncio.Future[Engine[Any]]
        self._opened: asyncio.Future[Engine[Any]]
        self._engine: Engine[Any]

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        """Raises: ModelUnavailable, or what else the engine raised while it loaded."""
        self._loop = asyncio.get_running_loop()
        self._made = self._loop.create_future()
        self._opened = self._loop.create_future()
        thread = threading.Thread(
            target=self._worker.run,
            args=(self._open_and_load, self._tell_opened),
            name=f"{THREAD_NAME} {self.name}",
            daemon=True,
        )
        thread.start()
        patience_s = SHUTDOWN_TIMEOUT_S
        try:
            engine = await self._made
            if self._make_room:
                await self._make_room(engine)
            self._admission.put(True)
            self._engine = await self._opened
            yield self
            patience_s = UNLOAD_TIMEOUT_S
        finally:
            self._leaving = True
            self._admission.put(False)
            self._commands.put(Stop())
            with CancelScope(shield=True):
                await to_thread.run_sync(thread.join, patience_s)
            for answered in self._trims:  # that came too late
                _answer(answered)
            for key in list(self._listeners):  # of a thread that was left behind
                self._end(key, ShuttingDown())

    @property
    def engine(self) -> Engine[Any]:
        """For its plain attributes; its methods belong to its thread."""
        return self._engine

    async def run(self, request: object, put: Callable[[Event], None]) -> None:
        """
        Work on a request and give its events to `put`, up to and with its `Done`.

        Cancelled, it takes the request out at the engine's next step.

        Raises:
            ShuttingDown: The block has ended, or ends before the request does.
            MlxMcpError: The error of its `Failed`.
        """
        if self._leaving:
            raise ShuttingDown
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

    async def trim(self, target_bytes: int) -> int:
        """Have cached things given back until no more than so many bytes are left. Bytes that are left."""
        if self._leaving:
            return 0
        answered: asyncio.Future[None] = self._loop.create_future()
        self._trims.add(answered)
        self._commands.put(Trim(target_bytes, lambda: self._on_loop(_answer, answered)))
        try:
            await answered
        finally:
            self._trims.discard(answered)
        return self.engine.cache_bytes

    def health(self) -> EngineHealth:
        began = self._worker.step_began
        return EngineHealth(
            ok=not self.broken,
            jobs=len(self._listeners),
            incidents=self._worker.counts.incidents,
            step_s=0.0 if began is None else round(time.monotonic() - began, 3),
        )

    def _deliver(self) -> None:
        with self._outbox_lock:
            events, self._outbox = self._outbox, []
        for key, event in events:
            match event:
                case Failed(error):
                    self._end(key, error)
                case _:
                    self._hand_over(key, event)

    def _hand_over(self, key: Key, event: Event) -> None:
        if not (listener := self._listeners.get(key)):
            return
        try:
            listener.put(event)
        except Exception as exc:  # noqa: BLE001 - it ends the job whose listener it is, and is logged there
            self._commands.put(Drop(key))
            self._end(key, exc)
        else:
            if isinstance(event, FINAL):
                self._end(key, None)

    def _end(self, key: Key, error: Exception | None) -> None:
        listener = self._listeners.pop(key, None)
        if listener and not listener.ended.done():  # it is when the waiting task was cancelled in this turn of the loop
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

    def _open_and_load(self) -> Engine[Any]:
        engine = self._open_engine(self._report_on_loop)
        self._on_loop(self._settle, self._made, engine)
        try:
            if not self._admission.get():
                raise ShuttingDown
            engine.load(self._report_on_loop)
        except BaseException as exc:
            traceback.clear_frames(exc.__traceback__)  # they hold what had been read by then
            engine.unload()
            engine.leave_thread()
            raise
        return engine

    def _tell_opened(self, outcome: Engine[Any] | BaseException) -> None:
        self._on_loop(self._settle, self._opened, outcome)
        if isinstance(outcome, BaseException):
            self._on_loop(self._settle, self._made, outcome)

    @staticmethod
    def _settle(future: asyncio.Future[Engine[Any]], outcome: Engine[Any] | BaseException) -> None:
        if future.done():  # nobody waits any more
            return
        if isinstance(outcome, Engine):
            future.set_result(outcome)
        elif isinstance(outcome, Exception) and not isinstance(outcome, StopIteration):  # which futures don't take
            future.set_exception(outcome)
        else:
            future.set_exception(EngineFailed(f"The engine's thread ended: {outcome!r}"))
        future.exception()  # of the two futures one may have nobody who waits for it

    def _on_loop(self, fn: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(fn, *args)
        except RuntimeError:  # the loop is closed: nobody is left to hear it
            return


def _answer(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
