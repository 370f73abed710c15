"""What runs on an engine's own thread: commands in, events out, and the engine kept alive."""

import logging
import queue
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from mlx_mcp.engines.base import Engine, Key
from mlx_mcp.engines.commands import Add, Command, Drop, Stop, Trim
from mlx_mcp.engines.gate import ComputeGate
from mlx_mcp.errors import EngineFailed, MlxMcpError, ShuttingDown
from mlx_mcp.types import FINAL, Event, Failed, Started

logger = logging.getLogger(__name__)

OPEN: ComputeGate = nullcontext()
Publish = Callable[[list[tuple[Key, Event]]], None]
FAULTS = (Exception, SystemExit)
"""What an engine may raise. Libraries that give up call `sys.exit`, which would end the thread without a word."""


@dataclass(slots=True)
class EngineCounts:
    """What has happened on an engine's thread. Given from outside, it goes on over loads and unloads."""

    incidents: int = 0
    """Steps that raised."""
    steps_by_rows: Counter[int] = field(default_factory=Counter[int])
    """Steps, by the number of requests that each worked on."""


class Worker:
    """
    One engine on one thread.

    `step_began`, `counts` and `broken` may be read from any thread.
    """

    def __init__(
        self,
        name: str,
        commands: queue.SimpleQueue[Command],
        publish: Publish,
        settle_s: float,
        gate: ComputeGate = OPEN,
        counts: EngineCounts | None = None,
    ) -> None:
        self._name = name
        self._commands = commands
        self._publish = publish
        self._settle_s = settle_s
        self._gate = gate
        self.counts = counts or EngineCounts()
        self._waiting: deque[Add] = deque()
        self._active: set[Key] = set()
        self._stopping = False
        self._engine: Engine[Any]
        self.step_began: float | None = None
        """When the step that is running began, on the monotonic clock."""
        self.broken: BaseException | None = None
        """Why the engine could not be brought back after one."""

    def run(
        self, open_engine: Callable[[], Engine[Any]], opened: Callable[[Engine[Any] | BaseException], None]
    ) -> None:
        """Open the engine, tell `opened`, and serve until `Stop`."""
        try:
            self._engine = open_engine()
        except BaseException as exc:  # noqa: BLE001 - whatever it is, the one who waits for the engine gets it
            opened(exc)
            return
        opened(self._engine)
        while self._obey_or_wait():
            self._admit()
            if self._active:
                self._guard(self._step)
        for leave in (self._engine.unload, self._engine.leave_thread):
            try:
                leave()
            except FAULTS:
                logger.exception("%s failed as it was unloaded", self._name)

    def _obey_or_wait(self) -> bool:
        """Obey what has been asked; wait for it when there is nothing else to do. False at the end."""
        if not (self._active or self._waiting or self._stopping):
            self._obey(self._commands.get())
            self._obey_all(self._settle_s)  # an idle engine gives a request's companions the time to come, too
        self._obey_all(None)
        if self._stopping:
            self._fail([*self._active, *(add.key for add in self._waiting)], ShuttingDown())
        return not self._stopping

    def _obey_all(self, patience_s: float | None) -> None:
        try:
            while True:
                self._obey(self._commands.get(patience_s is not None, patience_s))
        except queue.Empty:
            return

    def _obey(self, command: Command) -> None:
        match command:
            case Add():
                self._waiting.append(command)
            case Drop(key):
                self._waiting = deque(add for add in self._waiting if add.key != key)
                if key in self._active:
                    self._active.discard(key)
                    self._guard(lambda: self._engine.drop(key))
            case Trim(target_bytes, answer):
                self._guard(lambda: self._engine.trim(target_bytes))
                answer()
            case Stop():
                self._stopping = True

    def _admit(self) -> None:
        while self._waiting and len(self._active) < self._engine.slots:
            add = self._waiting.popleft()
            add.context.run(self._take_in, add)

    def _take_in(self, add: Add) -> None:
        try:
            if self.broken:
                raise EngineFailed from self.broken
            self._engine.add(add.key, add.request)
        except MlxMcpError as exc:
            self._fail([add.key], exc)
        except FAULTS as exc:
            logger.exception("%s could not take a request in", self._name)
            self._fail([add.key], _engine_failed(exc, "The engine could not take this request in; its log says why."))
        else:
            self._active.add(add.key)
            self._publish([(add.key, Started())])

    def _step(self) -> None:
        self.step_began = time.monotonic()
        try:
            with self._gate:
                events = self._engine.step()
            self.counts.steps_by_rows[len(self._active)] += 1
        finally:
            self.step_began = None
        if events:
            self._active.difference_update(key for key, event in events if isinstance(event, FINAL))
            self._publish(events)

    def _guard(self, work: Callable[[], None]) -> None:
        """Whatever `work` raises fails the jobs inside and resets the engine; the thread goes on."""
        try:
            work()
        except FAULTS as exc:
            logger.exception("%s failed, and %d jobs with it", self._name, len(self._active))
            self.counts.incidents += 1
            keys, self._active = list(self._active), set()
            error = _engine_failed(exc)
            self._reset()
            self._fail(keys, error)

    def _reset(self) -> None:
        try:
            self._engine.reset()
        except FAULTS as exc:
            logger.exception("%s could not be reset", self._name)
            self.broken = exc.with_traceback(None)

    def _fail(self, keys: list[Key], error: MlxMcpError) -> None:
        if keys:
            self._publish([(key, Failed(error)) for key in keys])


def _engine_failed(exc: BaseException, message: str | None = None) -> EngineFailed:
    error = EngineFailed(message)
    error.__cause__ = exc.with_traceback(None)  # the traceback is logged; kept, it would keep arrays alive
    return error
