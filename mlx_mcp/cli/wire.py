"""
stdin and stdout as the wire of a protocol, kept clean of whatever a library prints.

The MCP SDK does some of this while it serves; here it holds from the first import to the exit.
"""

import io
import os
import sys
import threading
from contextlib import suppress
from typing import Self, TextIO

CHUNK = 65536


class Wire:
    def __init__(self, out_fd: int, in_fd: int, pipe_fd: int) -> None:
        self._out_fd = out_fd
        self._in_fd = in_fd
        self._pipe_fd: int | None = pipe_fd
        self._lock = threading.Lock()

    @classmethod
    def claim(cls) -> Self:
        """
        Take stdin and stdout away from everybody else.

        From now on what is written to stdout goes to stderr, by children and C libraries too; stdin is a pipe that
        `hang_up` can close, which no read of the real one would allow.
        """
        out_fd = os.dup(1)
        os.dup2(2, 1)
        sys.stdout = sys.stderr  # what print() buffers must not drain onto the wire at the exit
        in_fd = os.dup(0)
        reading, writing = os.pipe()
        os.dup2(reading, 0)
        os.close(reading)
        wire = cls(out_fd, in_fd, writing)
        threading.Thread(target=wire._pump, name="stdin", daemon=True).start()
        return wire

    def output(self) -> TextIO:
        """The real stdout."""
        return io.TextIOWrapper(os.fdopen(self._out_fd, "wb"), encoding="utf-8", newline="\n")

    def hang_up(self) -> None:
        """End stdin, as if the host had closed it."""
        with self._lock:
            if self._pipe_fd is not None:
                os.close(self._pipe_fd)
                self._pipe_fd = None

    def _pump(self) -> None:
        with suppress(OSError):
            while chunk := os.read(self._in_fd, CHUNK):
                rest = memoryview(chunk)
                while rest and (fd := self._pipe_fd) is not None:
                    rest = rest[os.write(fd, rest) :]
        self.hang_up()
