"""What can be measured, started as a process of its own unless it runs already."""

import asyncio
import json
import os
import re
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.client import OK, Endpoint
from benchmarks.load import Answer, Load, drive
from benchmarks.plan import OURS, Plan

ROOT = Path(__file__).parent.parent
START_S = 300
LOOK_S = 0.1
GRACE_S = 15
LINE_BYTES = 1 << 28
LISTENS = re.compile(r"http://127\.0\.0\.1:\d+")
IDS = ("first", "second", "third")
"""What our models are called; their weights may well be the same."""


class TargetFailed(Exception):
    """A target did not start, or ended in the middle."""


class Target(Protocol):
    """Something that answers a load."""

    @property
    def pid(self) -> int | None: ...

    @property
    def command(self) -> str: ...

    async def run(self, load: Load) -> list[Answer]: ...


@dataclass(frozen=True, slots=True)
class Server:
    """A target that speaks HTTP."""

    endpoint: Endpoint
    pid: int | None
    command: str

    async def run(self, load: Load) -> list[Answer]:
        return await drive(self.endpoint, load)


@dataclass(frozen=True, slots=True)
class Bare:
    """A target that is the library's loop."""

    process: asyncio.subprocess.Process
    command: str

    @property
    def pid(self) -> int | None:
        return self.process.pid

    async def run(self, load: Load) -> list[Answer]:
        """Raises: TargetFailed."""
        assert self.process.stdin is not None  # noqa: S101 - a pipe
        assert self.process.stdout is not None  # noqa: S101 - a pipe
        self.process.stdin.write(json.dumps(asdict(load)).encode() + b"\n")
        line = await self.process.stdout.readline()
        if not line:
            raise TargetFailed("The bare loop has ended.")
        return [Answer(**answer) for answer in json.loads(line)]


Opened = AbstractAsyncContextManager[Target]


def open_target(name: str, plan: Plan, path: Path) -> Opened:
    """
    The target of that name, for a block; at its end its process is stopped.

    Args:
        path: The directory of the plan's model.

    Raises: TargetFailed.
    """
    kind, _, rest = name.partition(":")
    if kind == "url" and rest:
        return _url(rest, plan)
    if name in TARGETS:
        return TARGETS[name](plan, path)
    raise TargetFailed(f"There is no target {name!r}. There are {', '.join(TARGETS)} and url:http://HOST:PORT.")


@asynccontextmanager
async def open_ours(plan: Plan, paths: Sequence[Path]) -> AsyncGenerator[Server]:
    """Our server with a model for each path, called first, second and third. Raises: TargetFailed."""
    settings: dict[str, object] = {
        "max_concurrency": plan.slots,
        "queue_size": plan.queue,
        "queue_timeout": plan.timeout,
        "prompt_cache_bytes": plan.prompt_cache_bytes,
    }
    # JSON's strings and numbers are TOML's too.
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    for name, path in zip(IDS, paths, strict=False):
        lines += ["[[models]]", f'id = "{name}"', f"source = {json.dumps(str(path))}"]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "mlx-mcp.toml"
        config.write_text("\n".join(lines), encoding="utf-8")
        arguments = "-m", "mlx_mcp", "serve", "--port", "0"
        async with _child(arguments, {"MLX_MCP_CONFIG": str(config)}) as (process, log):
            url = await _until(process, log, lambda: LISTENS.search(log.read_text()))
            told = ", ".join(lines)
            for path in paths:  # where it lies is nobody's business
                told = told.replace(str(path), path.name)
            command = f"mlx-mcp serve --port 0, with {told}"
            yield Server(Endpoint(url[0], IDS[0], takes_seed=True), process.pid, command)


def _ours(plan: Plan, path: Path) -> Opened:
    return open_ours(plan, [path])


@asynccontextmanager
async def _mlx_lm(plan: Plan, path: Path) -> AsyncGenerator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    # As many slots and as large a prompt cache as ours; by default it keeps ten prompts.
    options = (
        *("--port", str(port), "--decode-concurrency", str(plan.slots), "--log-level", "WARNING"),
        *("--prompt-cache-size", str(plan.prompt_cache_size), "--prompt-cache-bytes", str(plan.prompt_cache_bytes)),
    )
    arguments = "-m", "benchmarks.mlx_lm_server", "--model", str(path), *options
    endpoint = Endpoint(f"http://127.0.0.1:{port}", "default_model")

    async def up() -> bool:
        try:
            return (await endpoint.call("GET", "/health"))[0] == OK
        except (OSError, EOFError):
            return False

    async with _child(arguments) as (process, log):
        await _until(process, log, up)
        yield Server(endpoint, process.pid, f"mlx_lm.server --model MODEL {' '.join(options)}")


@asynccontextmanager
async def _url(url: str, plan: Plan) -> AsyncGenerator[Server]:
    url = url.rstrip("/").removesuffix("/v1")
    model = plan.url_model
    if model is None:
        try:
            _, listed = await Endpoint(url, "").call("GET", "/v1/models")
            model = str(listed["data"][0]["id"])
        except (OSError, EOFError, TypeError, LookupError) as exc:
            raise TargetFailed(f"{url}/v1/models names no model ({exc}); say which with --url-model.") from exc
    yield Server(Endpoint(url, model), None, url)


def _bare(loop: str) -> Callable[[Plan, Path], Opened]:
    @asynccontextmanager
    async def bare(_: Plan, path: Path) -> AsyncGenerator[Bare]:
        async with _child(("-m", "benchmarks.bare", loop, str(path))) as (process, log):
            assert process.stdout  # noqa: S101 - a pipe
            if await process.stdout.readline() != b"ready\n":
                raise TargetFailed(f"The bare loop did not start:\n{_end(log)}")
            yield Bare(process, f"the bare {loop} loop")

    return bare


TARGETS: Mapping[str, Callable[[Plan, Path], Opened]] = {
    OURS: _ours,
    "mlx-lm": _mlx_lm,
    "bare-batch": _bare("batch"),
    "bare-stream": _bare("stream"),
}


@asynccontextmanager
async def _child(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> AsyncGenerator[tuple[asyncio.subprocess.Process, Path]]:
    """A Python process and the file with its log. The user's own settings are kept from it."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MLX_MCP_")}
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE if "benchmarks.bare" in arguments else log,
            stderr=log,
            cwd=ROOT,
            env=inherited | {"HF_HUB_OFFLINE": "1"} | dict(environment or {}),
            limit=LINE_BYTES,
        )
        try:
            yield process, Path(log.name)
        finally:
            if process.returncode is None:
                process.terminate()
            try:
                async with asyncio.timeout(GRACE_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def _until(process: asyncio.subprocess.Process, log: Path, look: Callable[[], Any]) -> Any:
    """What `look` finds, awaited if need be. Raises: TargetFailed."""
    try:
        async with asyncio.timeout(START_S):
            while process.returncode is None:
                found = look()
                if asyncio.iscoroutine(found):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        pass
    raise TargetFailed(f"It did not start:\n{_end(log)}")


def _end(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
