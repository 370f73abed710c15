"""Models of the Hugging Face hub, in the hub's own cache, which other programs share."""

# The types of tqdm and of the hub's library are open in places.
# pyright: reportUnknownMemberType=false

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import huggingface_hub
from httpx import HTTPError, TimeoutException
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm.std import tqdm

from mlx_mcp.engines.base import Report
from mlx_mcp.errors import ModelUnavailable
from mlx_mcp.types import Loading

if TYPE_CHECKING:
    AnyBar = tqdm[Any]
else:
    AnyBar = tqdm  # generic in its stubs only

FILES = [
    "*.jinja",
    "*.json",
    "*.jsonl",
    "*.tiktoken",
    "*.txt",
    "model*.safetensors",
    "tiktoken.model",
    "tokenizer.model",
]
"""What mlx-lm reads, less *.py: a model's own code does not come here by itself."""
PATIENCE_S = 15
_FAILURES = (EntryNotFoundError, OSError, RuntimeError, ValueError, HTTPError)
"""The hub's own errors are among their subclasses; RuntimeError is hf_xet's."""


def cached(name: str, revision: str | None) -> Path | None:
    """Where the model lies, if it was downloaded as a whole. No network."""
    try:
        path = _snapshot(name, revision=revision, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    # The cache also has directories that other programs took single files into.
    return path if (path / "config.json").is_file() and any(path.glob("*.safetensors")) else None


def download(name: str, revision: str | None, report: Report) -> Path:
    """Raises: ModelUnavailable."""
    what = f"downloading {name}"
    report(Loading(what))
    try:
        # Asked first, because the download would wait for the hub's first answer without end.
        huggingface_hub.HfApi().model_info(name, revision=revision, timeout=PATIENCE_S)
        return _snapshot(name, revision=revision, tqdm_class=_bars(what, report))
    except _FAILURES as error:
        message = f"{name} could not be downloaded: {_reason(error, revision)}, or give a local directory."
        raise ModelUnavailable(message) from error


def _snapshot(name: str, **options: object) -> Path:
    # Its overloads are only partly typed.
    snapshot_download = cast("Callable[..., str]", huggingface_hub.snapshot_download)
    return Path(snapshot_download(name, allow_patterns=FILES, **options))


def _reason(error: Exception, revision: str | None) -> str:
    """What happened and what to do."""
    # The library says "not in the cache" when it fell back to the cache; what made it fall back is the cause.
    cause = (isinstance(error, LocalEntryNotFoundError) and error.__cause__) or error
    if isinstance(cause, HTTPError):
        return _http_reason(cause, revision)
    match cause:
        case HFValidationError():
            return "the hub allows no such name. Check the spelling"
        case OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set and it is not here yet. Unset it"
        case OSError(strerror=str(strerror)):
            return f"{strerror}. Check the disk"
        case _:
            return f"{' '.join(str(cause).split())}. Check the network"


def _http_reason(error: HTTPError, revision: str | None) -> str:
    match error:
        case GatedRepoError():
            return "its owner wants to know who asks. Accept the terms on its page and log in with `hf auth login`"
        case RepositoryNotFoundError():
            return "the hub has no such model, or it is private. Check the spelling, log in with `hf auth login`"
        case RevisionNotFoundError():
            return f"it has no revision {revision}. Check the spelling"
        case TimeoutException():
            return "the hub did not answer in time. Check the network"
        case HfHubHTTPError():
            return f"the hub answered with HTTP status {error.response.status_code}. Try again later"
        case _:
            return f"the hub cannot be reached ({error}). Check the network"


def _bars(what: str, report: Report) -> type[AnyBar]:
    """A tqdm that reports instead of drawing."""
    furthest = 0

    class Bar(AnyBar):
        monitor_interval = 0
        """No thread that looks after stalled bars: it would outlive us."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "disable": False})

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            nonlocal furthest
            # Of the library's bars one counts files, and there may be two for the bytes: received and written.
            if self.unit == "B" and self.n > furthest:
                furthest = int(self.n)
                report(Loading(what, furthest, int(self.total or 0)))

    return Bar
