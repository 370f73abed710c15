"""Which engines are in memory: loading them, making room for them under a budget, and letting them go."""

import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Self

import anyio
from anyio import AsyncContextManagerMixin
from anyio.abc import TaskGroup

from mlx_mcp.engines.base import Engine
from mlx_mcp.engines.base import Report as TellEngine
from mlx_mcp.engines.gate import ComputeGate
from mlx_mcp.engines.thread import EngineThread
from mlx_mcp.engines.worker import EngineCounts
from mlx_mcp.errors import ModelBusy, ModelTooLarge, ModelUnavailable, ShuttingDown
from mlx_mcp.settings import ModelSettings
from mlx_mcp.state.task_group import task_group
from mlx_mcp.types import LoadEnded, Loading

logger = logging.getLogger(__name__)

RETRY_S = 10.0
"""How long a failed load is remembered, so that a whole queue does not try it one after the other."""
PATIENCE_S = 2.0
"""How long a model waits for others to fall idle, before one of them gets no new work until it has gone."""

Report = Callable[[Loading | LoadEnded], None]
OpenEngine = Callable[[ModelSettings, TellEngine], Engine[Any]]
"""Makes the engine of a model, its files at hand and its weights not yet in memory; called on the engine's thread."""


class Stay:
    """One stay of a model in memory, from the beginning of its load until its thread has ended."""

    def __init__(self, settings: ModelSettings, ttl_s: float | None) -> None:
        self.settings = settings
        self.ttl_s = ttl_s
        self.ready = anyio.Event()
        """Loaded, or failed to."""
        self.leave = anyio.Event()
        """It is asked to go."""
        self.gone = anyio.Event()
        self.thread: EngineThread | None = None
        self.failure: ModelUnavailable | None = None
        self.leases = 0
        self.waiting = 0
        """Those who want it once it is ready."""
        self.wanted = False
        """It is loaded even if nobody waits."""
        self.draining = False
        """It gets no new work, and goes when it has none."""
        self.decided = anyio.Event()
        """Set when a draining stay has gone, or may stay after all."""
        self.reserved = 0
        """Bytes set aside for weights that are being read."""
        self.last_used = time.monotonic()
        self.failed_at = 0.0

    @property
    def weights_bytes(self) -> int:
        return self.thread.engine.weights_bytes if self.thread else self.reserved

    @property
    def cache_bytes(self) -> int:
        """What its caches weigh, or what its running requests may make of them, whichever is more."""
        return max(self.thread.engine.cache_bytes, self.committed_bytes) if self.thread else 0

    @property
    def committed_bytes(self) -> int:
        return self.thread.engine.committed_bytes if self.thread else 0

    def drain(self) -> None:
        self.draining, self.decided = True, anyio.Event()

    @property
    def idle(self) -> bool:
        """Loaded, with nobody who uses it or is about to."""
        return self.thread is not None and not (self.leases or self.waiting or self.leave.is_set())


class _Unwanted(Exception):
    """Who had waited for the load has left."""


@dataclass(slots=True)
class Counts:
    """Of one model, since the process began."""

    loads: int = 0
    failures: int = 0
    evictions: int = 0
    """Unloaded to make room for another; idle time-outs are not among them."""
    engine: EngineCounts = field(default_factory=EngineCounts)


class Residents(AsyncContextManagerMixin):
    def __init__(
        self, open_engine: OpenEngine, *, budget: int, gate: ComputeGate, patience_s: float = PATIENCE_S
    ) -> None:
        """`budget`: bytes, of weights and caches together."""
        self._open_engine = open_engine
        self.budget = budget
        self._gate = gate
        self._patience_s = patience_s
        self._stays: list[Stay] = []
        self._door = anyio.Lock()  # one makes room at a time, in the order of asking
        self._change = anyio.Event()
        self._tasks: TaskGroup
        self._open = False
        self.counts: defaultdict[str, Counts] = defaultdict(Counts)
        """By the models' names."""

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with task_group() as self._tasks:
            self._open = True
            try:
                yield self
            finally:
                self._open = False
                self._tasks.cancel_scope.cancel()

    def __iter__(self) -> Iterator[Stay]:
        return iter(self._stays)

    @property
    def used(self) -> int:
        """Bytes, those that are set aside included."""
        return sum(stay.weights_bytes + stay.cache_bytes for stay in self._stays)

    def begin(self, settings: ModelSettings, ttl_s: float | None, report: Report) -> Stay:
        """
        A stay whose load nobody owns who waits for it: who leaves does not end it for the others.

        Raises:
            ShuttingDown: The server is on its way out.
        """
        if not self._open:
            raise ShuttingDown
        stay = Stay(settings, ttl_s)
        self._stays.append(stay)
        # Outside of the job that happened to be the first to ask: the load is about nobody's request.
        Context().run(self._tasks.start_soon, self._host, stay, report)
        return stay

    @asynccontextmanager
    async def lease(self, stay: Stay) -> AsyncGenerator[EngineThread]:
        """The engine of a stay that is ready, for as long as the block lasts."""
        assert stay.thread, "only what is loaded can be leased"  # noqa: S101
        stay.leases += 1
        try:
            self._share_out()
            await self._fit()
            yield stay.thread
        finally:
            stay.leases -= 1
            stay.last_used = time.monotonic()
            self._changed()

    async def leave(self, stay: Stay) -> None:
        """
        Unload it, and wait until its memory is back.

        Raises:
            ModelBusy: It works.
        """
        if working := stay.leases + stay.waiting:
            raise ModelBusy(stay.settings.name, working)
        stay.drain()
        stay.leave.set()
        await stay.gone.wait()

    async def _host(self, stay: Stay, report: Report) -> None:
        name = stay.settings.name
        began = time.monotonic()

        async def make_room(engine: Engine[Any]) -> None:
            await self._make_room(stay, engine.estimated_bytes, report)

        try:
            open_engine = self._open_engine
            async with EngineThread(
                name,
                lambda tell: open_engine(stay.settings, tell),
                report,
                make_room=make_room,
                gate=self._gate,
                counts=self.counts[name].engine,
            ) as thread:
                stay.thread, stay.reserved = thread, 0
                stay.last_used = time.monotonic()
                self._share_out()
                self.counts[name].loads += 1
                report(LoadEnded(stay.last_used - began))
                logger.info("%s is loaded after %.1f s", name, stay.last_used - began)
                stay.ready.set()
                await self._until_it_goes(stay)
        except _Unwanted:
            logger.info("%s was not loaded: nobody waits for it any more", name)
        except ModelUnavailable as exc:
            stay.failure = _without_traceback(exc)
            logger.error("%s", stay.failure)
        except Exception as exc:  # a library's own; those who wait for the model get to know
            logger.exception("%s could not be loaded: %s", name, exc)
            stay.failure = ModelUnavailable(f"{name} could not be loaded: {exc}")
        finally:
            self._gone(stay, report, time.monotonic() - began)

    def _gone(self, stay: Stay, report: Report, seconds: float) -> None:
        if stay.failure:
            stay.failed_at = time.monotonic()
            self.counts[stay.settings.name].failures += 1
        if not stay.ready.is_set():
            report(LoadEnded(seconds, ok=False))
        self._stays.remove(stay)
        stay.thread, stay.reserved = None, 0
        stay.ready.set()
        stay.gone.set()
        stay.decided.set()
        self._share_out()
        self._changed()

    async def _until_it_goes(self, stay: Stay) -> None:
        """Asked to, or unused for its time to live."""
        while not stay.leave.is_set():
            if stay.ttl_s is None or stay.settings.pin:
                await stay.leave.wait()
                return
            left = stay.last_used + stay.ttl_s - time.monotonic()
            if left <= 0 and stay.idle and not stay.waiting:
                logger.info("%s was not used for %g s", stay.settings.name, stay.ttl_s)
                stay.drain()
                stay.leave.set()
                return
            with anyio.move_on_after(left if left > 0 else stay.ttl_s):
                await stay.leave.wait()

    async def _make_room(self, stay: Stay, need: int, report: Report) -> None:
        """
        Set `need` bytes aside: from free memory, from caches, from models that nobody uses, and from busy ones last.

        Raises:
            ModelTooLarge: The budget can never hold it.
            _Unwanted: Nobody waits for it any more.
        """
        async with self._door:
            pinned = sum(s.weights_bytes for s in self._stays if s is not stay and s.settings.pin)
            if need > self.budget - pinned:
                raise ModelTooLarge(stay.settings.name, need, self.budget, pinned)
            stay.reserved = need
            self._share_out()  # what is there must not grow into it meanwhile
            try:
                await self._until_there_is_room(stay, report)
            finally:
                for other in self._stays:
                    if other.draining and not other.leave.is_set():  # the room came from elsewhere
                        other.draining = False
                        other.decided.set()
            await self._fit()

    async def _until_there_is_room(self, stay: Stay, report: Report) -> None:
        began = time.monotonic()
        while (short := self.used - self.budget) > 0:
            if not (stay.waiting or stay.wanted):
                raise _Unwanted
            if await self._free(short):
                continue
            report(Loading(f"waiting for {short / 1e6:,.0f} MB that other models use"))
            if time.monotonic() - began >= self._patience_s:
                self._drain()
            self._change = anyio.Event()
            with anyio.move_on_after(self._patience_s):
                await self._change.wait()

    async def _free(self, short: int) -> bool:
        """Something that nobody uses, if there is anything."""
        there = [stay for stay in self._stays if stay.thread and not stay.leave.is_set()]
        by_age = sorted(there, key=lambda stay: stay.last_used)
        for stay in by_age:
            before = stay.cache_bytes
            if before > stay.committed_bytes and stay.thread:
                await stay.thread.trim(max(stay.committed_bytes, before - short))
                if stay.cache_bytes < before:
                    return True
        idle = [stay for stay in by_age if stay.idle and not stay.settings.pin]
        for stay in sorted(idle, key=lambda stay: not stay.draining):
            logger.info("%s makes room", stay.settings.name)
            self.counts[stay.settings.name].evictions += 1
            await self.leave(stay)
            return True
        return False

    def _drain(self) -> None:
        """Let the least recently used model come to its end, unless one is on the way there."""
        if not any(stay.draining for stay in self._stays):
            busy = [stay for stay in self._stays if stay.thread and not stay.settings.pin]
            for stay in sorted(busy, key=lambda stay: stay.last_used)[:1]:
                stay.drain()

    def _share_out(self) -> None:
        """
        What weights leave of the budget goes to the engines' caches.

        Those at work, and those that are coming, share it in equal parts; what a running request may need is left to
        it. Idle ones keep what they have, together up to a quarter of it.
        """
        free = max(0, self.budget - sum(stay.weights_bytes for stay in self._stays))
        caching = [stay for stay in self._stays if stay.thread and stay.thread.engine.caches]
        at_work = [stay for stay in caching if stay.leases]
        idle = [stay for stay in caching if not stay.leases]
        coming = sum(stay.reserved > 0 for stay in self._stays)
        for_idle = free // 4 if at_work or coming else free
        for stay in idle:
            kept = min(stay.cache_bytes, for_idle // len(idle)) if at_work or coming else for_idle // len(idle)
            self._allow(stay, kept)
            free -= kept
        parts = len(at_work) + coming
        for stay in sorted(at_work, key=lambda stay: -stay.committed_bytes):
            part = max(free // parts, min(stay.committed_bytes, free))
            self._allow(stay, part)
            free, parts = free - part, parts - 1

    @staticmethod
    def _allow(stay: Stay, size: int) -> None:
        assert stay.thread  # noqa: S101
        stay.thread.engine.allowance_bytes = size

    async def _fit(self) -> None:
        """Have what is above its allowance given back."""
        for stay in list(self._stays):
            if stay.thread and not stay.leave.is_set():
                allowance = stay.thread.engine.allowance_bytes
                if allowance is not None and stay.thread.engine.cache_bytes > allowance:
                    await stay.thread.trim(allowance)

    def _changed(self) -> None:
        self._change.set()


def _without_traceback(exc: ModelUnavailable) -> ModelUnavailable:
    """It is kept, and a traceback would keep weights alive."""
    exc.__cause__ = exc.__context__ = None
    return exc.with_traceback(None)
