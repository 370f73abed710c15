"""What runs on an engine's own thread: commands in, events out, and the engine kept alive."""

import logging
import queue
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from mlx_mcp.engines.base import Engine, Key
from mlx_mcp.engines.commands import Add, Command, Drop, Stop
from mlx_mcp.errors import EngineFailed, MlxMcpError, ShuttingDown
from mlx_mcp.types import FINAL, Event, Failed, Started

logger = logging.getLogger(__name__)

Publish = Callable[[list[tuple[Key, Event]]], None]


class Worker:
    """
    One engine on one thread.

    `step_began`, `incidents` and `broken` may be read from any thread.
    """

    def __init__(self, name: str, commands: queue.SimpleQueue[Command], publish: Publish, settle_s: float) -> None:
        self._name = name
        self._commands = commands
        self._publish = publish
        self._settle_s = settle_s
        self._waiting: deque[Add] = deque()
        self._active: set[Key] = set()
        self._stopping = False
        self._engine: Engine[Any]
        self.step_began: float | None = None
        """When the step that is running began, on the monotonic clock."""
        self.incidents = 0
        """Steps that raised."""
        self.broken: Exception | None = None
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
        self._engine.unload()
        self._engine.leave_thread()

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
            case Stop():
                self._stopping = True

    def _admit(self) -> None:
        while self._waiting and len(self._active) < self._engine.slots:
            add = self._waiting.popleft()
            try:
                if self.broken:
                    raise EngineFailed from self.broken
                self._engine.add(add.key, add.request)
            except MlxMcpError as exc:
                self._fail([add.key], exc)
            except Exception as exc:
                logger.exception("%s could not take a request in", self._name)
                self._fail([add.key], _engine_failed(exc))
            else:
                self._active.add(add.key)
                self._publish([(add.key, Started())])

    def _step(self) -> None:
        self.step_began = time.monotonic()
        try:
            events = self._engine.step()
        finally:
            self.step_began = None
        if events:
            self._active.difference_update(key for key, event in events if isinstance(event, FINAL))
            self._publish(events)

    def _guard(self, work: Callable[[], None]) -> None:
        """Whatever `work` raises fails the jobs inside and resets the engine; the thread goes on."""
        try:
            work()
        except Exception as exc:
            logger.exception("%s failed, and %d jobs with it", self._name, len(self._active))
            self.incidents += 1
            keys, self._active = list(self._active), set()
            error = _engine_failed(exc)
            self._reset()
            self._fail(keys, error)

    def _reset(self) -> None:
        try:
            self._engine.reset()
        except Exception as exc:
            logger.exception("%s could not be reset", self._name)
            self.broken = exc

    def _fail(self, keys: list[Key], error: MlxMcpError) -> None:
        if keys:
            self._publish([(key, Failed(error)) for key in keys])


def _engine_failed(exc: Exception) -> EngineFailed:
    error = EngineFailed()
    error.__cause__ = exc.with_traceback(None)  # the traceback is logged; kept, it would keep arrays alive
    return error
