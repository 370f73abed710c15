"""What a process and its children have used, as the operating system counts it."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
KIB = 1024


@dataclass(frozen=True, slots=True)
class Used:
    cpu_s: float
    rss_bytes: int
    peak_rss_bytes: int
    """The highest since `forget_peak`; where the system doesn't say, that of now."""

    def __add__(self, other: "Used") -> "Used":
        return Used(
            self.cpu_s + other.cpu_s, self.rss_bytes + other.rss_bytes, self.peak_rss_bytes + other.peak_rss_bytes
        )


def used(pid: int | None) -> Used | None:
    """None for no process, and where neither /proc nor psutil is there to ask."""
    try:
        if pid is None:
            return None
        return _from_proc(pid) if (PROC / "self/stat").exists() else _from_psutil(pid)
    except OSError:  # it has ended
        return None


def forget_peak(pid: int | None) -> None:
    """So that the next peak is that of what comes next. Linux only."""
    if pid is not None:
        for process in (pid, *_children(pid)):
            with suppress(OSError):
                (PROC / str(process) / "clear_refs").write_text("5")


def _from_proc(pid: int) -> Used:
    folder = PROC / str(pid)
    # The name, in brackets, may hold anything. After it: state, and as 12th to 15th user and system time, its own
    # and that of children that have ended.
    times = (folder / "stat").read_text().rpartition(")")[2].split()[11:15]
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    rss, peak = (int(status.get(key, "0 kB").split()[0]) * KIB for key in ("VmRSS", "VmHWM"))
    total = Used(sum(map(int, times)) / os.sysconf("SC_CLK_TCK"), rss, peak)
    for child in _children(pid):
        with suppress(OSError):
            total += _from_proc(child)
    return total


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for file in (PROC / str(pid) / "task").glob("*/children"):
        with suppress(OSError):
            found += map(int, file.read_text().split())
    return found


def _from_psutil(pid: int) -> Used | None:
    try:
        import psutil  # noqa: PLC0415 - not a dependency: used where it is installed
    except ImportError:
        return None
    try:
        process = psutil.Process(pid)
        total = Used(0, 0, 0)
        for one in (process, *process.children(recursive=True)):
            times, rss = one.cpu_times(), one.memory_info().rss
            total += Used(times.user + times.system, rss, rss)
    except psutil.Error:
        return None
    return total
