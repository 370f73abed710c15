"""One process: HTTP and stdio on one runtime, until a signal, or the end of stdin."""

import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from importlib import import_module

import anyio
import uvicorn
from anyio.abc import TaskGroup, TaskStatus
from mcp.server.stdio import stdio_server

from mlx_mcp import __version__
from mlx_mcp.cli.loads import show_loads
from mlx_mcp.cli.wire import Wire
from mlx_mcp.engines import check
from mlx_mcp.engines.thread import THREAD_NAME
from mlx_mcp.errors import SettingsError
from mlx_mcp.mcp_server import build_server
from mlx_mcp.runtime import Runtime
from mlx_mcp.settings import Settings
from mlx_mcp.telemetry.logs import configure_logging

logger = logging.getLogger(__name__)

BACKLOG = 2048
GRACE_S = 3
"""Seconds that clients get to read their last answers at a shutdown."""
LOG_JSON = {"auto": None, "console": False, "json": True}


class Process:
    def __init__(self, settings: Settings) -> None:
        """Raises: SettingsError, ModelUnavailable for a model of which it is clear already that it can't be served."""
        configure_logging(settings.log_level, LOG_JSON[settings.log_format])  # before the SDK does it its way
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        for model in settings.models:
            check(model, settings)
        self._settings = settings
        self._runtime = Runtime(settings)
        self._server = build_server(self._runtime.gateway)
        self._stopping = anyio.Event()

    async def serve(self) -> None:
        """HTTP alone; the first model and the pinned ones are loaded at once. Raises: SettingsError on a taken port."""
        listener = _listen(self._settings)
        gateway = self._runtime.gateway
        with show_loads(gateway.models()):
            async with self._runtime, self._signals(self._stopping.set), anyio.create_task_group() as tasks:
                await tasks.start(self._http, listener)
                for model in gateway.models():
                    if model.settings.pin or model is gateway.models()[0]:
                        gateway.preload(model)
                await self._stopping.wait()
                self._stop(tasks)

    async def stdio(self, wire: Wire, http: bool) -> None:
        """An MCP server on the wire, and HTTP beside it if its port is free. Only pinned models are loaded at once."""
        async with self._runtime, self._signals(wire.hang_up), anyio.create_task_group() as tasks:
            if http:
                tasks.start_soon(self._http_beside)
            for model in self._runtime.gateway.models():
                if model.settings.pin:
                    self._runtime.gateway.preload(model)
            async with stdio_server(stdout=anyio.wrap_file(wire.output())) as (reading, writing):
                server = self._server._lowlevel_server  # pyright: ignore[reportPrivateUsage] - no public way
                await server.run(reading, writing, server.create_initialization_options())
            self._stopping.set()
            self._stop(tasks)

    def _stop(self, tasks: TaskGroup) -> None:
        self._runtime.gateway.stop()
        tasks.cancel_scope.deadline = anyio.current_time() + GRACE_S

    @asynccontextmanager
    async def _signals(self, stop: Callable[[], None]) -> AsyncGenerator[None]:
        """The first signal stops the process in order; the second at once, since a step can't be interrupted."""

        async def watch(*, task_status: TaskStatus[None]) -> None:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                task_status.started()
                async for _ in signals:
                    if self._stopping.is_set():
                        os._exit(1)
                    self._stopping.set()
                    stop()

        async with anyio.create_task_group() as tasks:
            await tasks.start(watch)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()

    async def _http_beside(self) -> None:
        try:
            listener = _listen(self._settings)
        except SettingsError as exc:
            logger.warning("no HTTP beside stdio: %s", exc)
            return
        await self._http(listener)

    async def _http(
        self, listener: socket.socket, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        # A host waits for the answer to `initialize`: half a second of imports must not be in its way.
        build_app = (await anyio.to_thread.run_sync(import_module, "mlx_mcp.app")).build_app
        app = build_app(self._runtime, self._server, stopping=self._stopping)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=GRACE_S
        )
        server = _Server(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            host, port = listener.getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            logger.info("mlx-mcp %s serves %s (OpenAI API: /v1, MCP: /mcp and /sse)", __version__, url)
            task_status.started()
            await self._stopping.wait()
            server.should_exit = True


def leave() -> None:
    """
    The end of the process, with exit code 0.

    An engine that is stuck in a step or a load can't be stopped, and the interpreter must not be torn down around it.
    """
    if any(thread.name.startswith(THREAD_NAME) for thread in threading.enumerate()):
        logging.shutdown()
        os._exit(0)


class _Server(uvicorn.Server):
    def capture_signals(self) -> AbstractContextManager[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return nullcontext()  # the signals are ours


def _listen(settings: Settings) -> socket.socket:
    """Bound here, since uvicorn ends the process when it can't. Raises: SettingsError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as exc:
        raise SettingsError(
            f"cannot listen on {settings.host} port {settings.port}: {os.strerror(exc.errno) if exc.errno else exc}. "
            "Choose another port with --port."
        ) from exc
