"""Who computes now."""

import threading
from collections import deque
from types import TracebackType
from typing import Protocol


class ComputeGate(Protocol):
    """Held by an engine for each of its steps."""

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class OpenGate:
    """Everybody computes: for a CPU, whose scheduler shares it out better than we could."""

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        return


class TurnGate:
    """
    One engine computes at a time, in the order in which they came.

    A lock would not do: one that is released and taken again at once lets nobody in between.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy = False
        self._waiting: deque[threading.Event] = deque()

    def __enter__(self) -> None:
        with self._lock:
            if not self._busy:
                self._busy = True
                return
            mine = threading.Event()
            self._waiting.append(mine)
        mine.wait()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()  # it stays busy, with the next
            else:
                self._busy = False
