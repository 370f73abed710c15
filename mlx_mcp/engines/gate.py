"""Who computes now."""

import sys
import threading
from collections import deque
from contextlib import AbstractContextManager, nullcontext

ComputeGate = AbstractContextManager[None]
"""Held by an engine for each of its steps."""


class TurnGate(ComputeGate):
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


def create_gate(wanted: str) -> ComputeGate:
    """
    `wanted`: on, off, or auto.

    Auto is on where Metal is, since engines that share a GPU slow each other down, and off on a CPU, whose scheduler
    shares it out better than we could.
    """
    return TurnGate() if wanted == "on" or (wanted == "auto" and sys.platform == "darwin") else nullcontext()
