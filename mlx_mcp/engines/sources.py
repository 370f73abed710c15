"""
Where a model comes from. A source is one of:

- a directory: its path, `./models/mine`, `~/models/mine`, `/models/mine`, or `models/mine` if it exists
- a starter: `starter:NAME` (see `mlx_mcp.engines.starters`)
- a model on the Hugging Face hub: `ORG/NAME` or `ORG/NAME@REVISION`
"""

import re
from dataclasses import dataclass
from pathlib import Path

from mlx_mcp.engines.base import Report
from mlx_mcp.engines.starters import STARTERS, Starter, ensure
from mlx_mcp.engines.starters import find as find_starter
from mlx_mcp.errors import ModelUnavailable
from mlx_mcp.settings import STARTER

_HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>\S+))?")


@dataclass(frozen=True, slots=True)
class HubModel:
    name: str
    revision: str | None = None


def fetch(source: str, cache_dir: Path, report: Report) -> Path:
    """
    The source's model directory, downloaded if it is not here yet. What is here is used as it is, without a look at
    the network. Takes seconds to hours.

    Raises: ModelUnavailable.
    """
    match _parse(source):
        case Path() as path:
            return path
        case Starter() as starter:
            return ensure(starter, cache_dir, report)
        case HubModel(name, revision):
            from mlx_mcp.engines import hub  # noqa: PLC0415 -- brings an HTTP client: half a second

            return hub.cached(name, revision) or hub.download(name, revision, report)


def find(source: str, cache_dir: Path) -> Path | None:
    """The source's model directory, if it is here already. No network. Raises: ModelUnavailable if it is no source."""
    match _parse(source):
        case Path() as path:
            return path
        case Starter() as starter:
            return find_starter(starter, cache_dir)
        case HubModel(name, revision):
            from mlx_mcp.engines import hub  # noqa: PLC0415 -- as above

            return hub.cached(name, revision)


def _parse(source: str) -> Path | Starter | HubModel:
    """Paths come out absolute. Raises: ModelUnavailable."""
    if source.startswith(STARTER):
        name = source.removeprefix(STARTER)
        if starter := STARTERS.get(name):
            return starter
        raise ModelUnavailable(f"There is no starter {name!r}. {_starters()}")
    path = _absolute(source)
    if path.is_dir():
        return path
    if path.exists():
        raise ModelUnavailable(f"{source} is a file. A model is a directory with config.json and *.safetensors.")
    if source.startswith((".", "/", "~")):
        raise ModelUnavailable(f"There is no directory {source}.")
    if found := _HUB_ID.fullmatch(source):
        return HubModel(found["name"], found["revision"])
    raise ModelUnavailable(
        f"{source!r} is neither a directory here nor a model of the Hugging Face hub, as ORG/NAME. {_starters()}"
    )


def _absolute(source: str) -> Path:
    try:
        path = Path(source or "/absent").expanduser().resolve()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a loop of links, a NUL
        raise ModelUnavailable(f"{source!r} is not a path: {error}.") from error
    return path


def _starters() -> str:
    return f"To start with: {', '.join(STARTER + name for name in STARTERS)}."
