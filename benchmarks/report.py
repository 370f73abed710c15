"""What was measured, on what: lines while it runs, a table at the end, and JSON."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.table import Table

from benchmarks.plan import Plan

DISTRIBUTIONS = ("mlx-mcp", "mlx", "mlx-lm", "cmeel-openblas")
WIDTH = 160


class Report:
    def __init__(self, plan: Plan) -> None:
        self._console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
        self._file = plan.json
        self.rows: list[dict[str, Any]] = []
        self._content: dict[str, Any] = {
            "scenario": plan.scenario,
            "began_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": plan.command,
            "plan": asdict(plan) | {"json": plan.json and str(plan.json)},
            "versions": versions(),
            "machine": machine(),
            "rows": self.rows,
            "summary": None,
        }

    def note(self, key: str, value: object) -> None:
        self._content[key] = value
        self._save()

    def say(self, text: str) -> None:
        self._console.print(f"[dim]{text}[/]")

    def add(self, row: Mapping[str, Any]) -> None:
        """One result; it is in the file at once, so that a run that is cut short has not been for nothing."""
        self.rows.append(dict(row))
        self._save()
        self.say("  ".join(f"{key}={text}" for key, value in row.items() if (text := show(key, value))))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The summary: a figure, or its spread, a line."""
        self._content["summary"] = summary
        self._save()
        self._console.print(_table(self._content["scenario"], summary))

    def _save(self) -> None:
        if self._file:
            self._file.write_text(json.dumps(self._content, indent=2) + "\n", encoding="utf-8")


def _table(title: str, summary: Mapping[str, Any]) -> Table:
    groups = {key: value for key, value in summary.items() if _is_group(value)}
    table = Table(title=title, title_justify="left")
    table.add_column("")
    if groups:
        for name in groups:
            table.add_column(name, justify="right")
        for key in dict.fromkeys(key for group in groups.values() for key in group):
            cells = [show("" if name == "ratio" else key, group.get(key)) for name, group in groups.items()]
            table.add_row(key, *cells)
    else:
        table.add_column("median (least to most)", justify="right")
    for key, value in summary.items():
        if key not in groups:
            table.add_row(key, show(key, value))
    return table


def _is_group(value: object) -> bool:
    """A target's figures, each of which may be a spread."""
    return isinstance(value, dict) and "median" not in value


def show(key: str, value: Any) -> str:
    """The unit goes by the key's end."""
    match value:
        case {"median": median, "min": least, "max": most}:
            return f"{show(key, median)} ({show(key, least)} to {show(key, most)})"
        case dict():
            counts = cast("dict[str, int]", value)
            return " ".join(f"{name}:{count}" for name, count in counts.items())
        case None:
            return ""
        case int() | float() if key.endswith("_bytes"):
            return f"{value / 1e6:,.1f} MB"
        case float():
            return f"{value:.3g}" + (" s" if key.endswith("_s") and not key.endswith("per_s") else "")
        case _:
            return str(value)


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def machine() -> dict[str, Any]:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu(),
        "cores": cores,
        "memory_bytes": pages,
        "threads_asked_for": os.environ.get("OPENBLAS_NUM_THREADS"),
    }


def _cpu() -> str:
    file = Path("/proc/cpuinfo")
    if file.exists():
        for line in file.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603 - no input in it
    return platform.machine()
