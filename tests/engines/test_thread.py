"""The loop's side: the one bridge between asyncio and an engine's thread."""

import random
import threading
from collections.abc import Generator

import anyio
import pytest
from anyio.lowlevel import checkpoint

from mlx_mcp.engines import thread as thread_module
from mlx_mcp.engines.base import Engine, Key, Report, SerialEngine
from mlx_mcp.engines.thread import EngineThread
from mlx_mcp.errors import EngineFailed, InvalidRequest, ModelUnavailable, ShuttingDown
from mlx_mcp.types import Done, Event, Loading, Started, Text
from tests.engines.test_contract import ask
from tests.engines.test_worker import Puppet
from tests.fakes import EndlessEngine


def ignore(_: object) -> None:
    return


def hosted(engine: Engine[str]) -> EngineThread:
    return EngineThread("puppet", lambda _: engine, ignore, settle_s=0)


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


@pytest.fixture
def puppet() -> Generator[Puppet]:
    puppet = Puppet()
    yield puppet
    puppet.gate.set()
    for thread in threading.enumerate():
        if thread.name == "engine puppet":
            thread.join(20)
            assert not thread.is_alive()


async def until(condition: "threading.Event") -> None:
    with anyio.fail_after(20):
        while not condition.is_set():
            await checkpoint()


async def test_a_request_runs_up_to_and_with_its_end(puppet: Puppet) -> None:
    events: list[Event] = []
    async with hosted(puppet) as thread:
        await thread.run("ab", events.append)
    assert events == [Started(), Text("a"), Text("b"), Done("stop")]
    assert puppet.log[-2:] == ["unload", "leave_thread"]


async def test_the_events_of_fast_steps_arrive_in_order_and_complete(puppet: Puppet) -> None:
    letters = "".join(random.Random(1).choices("abcdefgh", k=5000))
    events: dict[str, list[Event]] = {letters: [], letters[::-1]: []}
    with anyio.fail_after(20):
        async with hosted(puppet) as thread, anyio.create_task_group() as tasks:
            for request, heard in events.items():
                tasks.start_soon(thread.run, request, heard.append)
    for request, heard in events.items():
        assert text_of(heard) == request
        assert (heard[0], heard[-1]) == (Started(), Done("stop"))


async def test_events_come_on_the_loop(puppet: Puppet) -> None:
    threads: set[threading.Thread] = set()
    async with hosted(puppet) as thread:
        await thread.run("abc", lambda _: threads.add(threading.current_thread()))
    assert threads == {threading.current_thread()}


async def test_cancelling_takes_the_request_out_and_no_event_follows(puppet: Puppet) -> None:
    events: list[Event] = []
    async with hosted(puppet) as thread:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(thread.run, "aWbbb", events.append)
            await until(puppet.waiting)
            tasks.cancel_scope.cancel()
        assert thread.health().jobs == 0
        seen = len(events)
        puppet.gate.set()
        await thread.run("c", ignore)
        assert "drop 0" in puppet.log
        assert len(events) == seen


async def test_a_step_that_raises_ends_the_job_with_its_cause_and_the_next_one_works(puppet: Puppet) -> None:
    events: list[Event] = []
    async with hosted(puppet) as thread:
        with pytest.raises(EngineFailed) as failed:
            await thread.run("aB", ignore)
        assert isinstance(failed.value.__cause__, RuntimeError)
        await thread.run("b", events.append)
        assert text_of(events) == "b"
        health = thread.health()
        assert (health.ok, health.jobs, health.incidents) == (True, 0, 1)


async def test_an_engine_that_cannot_be_reset_is_not_healthy(puppet: Puppet) -> None:
    puppet.failing.add("reset")
    async with hosted(puppet) as thread:
        for request in ("B", "a"):
            with pytest.raises(EngineFailed):
                await thread.run(request, ignore)
        assert thread.broken
        assert not thread.health().ok


async def test_a_refused_request_raises_the_engines_own_error(puppet: Puppet) -> None:
    async with hosted(puppet) as thread:
        with pytest.raises(InvalidRequest, match="no such letters"):
            await thread.run("REFUSED", ignore)
        assert thread.health().incidents == 0


async def test_a_listener_that_raises_ends_its_own_job_and_no_other(puppet: Puppet) -> None:
    events: list[Event] = []

    def refuse(event: Event) -> None:
        if isinstance(event, Text):
            raise LookupError("a fault in the listener")

    async def run_refused() -> None:
        with pytest.raises(LookupError, match="a fault in the listener"):
            await thread.run("aWaaa", refuse)
        puppet.gate.set()

    async with hosted(puppet) as thread:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run_refused)
                tasks.start_soon(thread.run, "abcdef", events.append)
        assert text_of(events) == "abcdef"
        assert thread.health().jobs == 0
        assert "drop 0" in puppet.log


async def test_health_shows_a_step_that_does_not_end(puppet: Puppet) -> None:
    async with hosted(puppet) as thread, anyio.create_task_group() as tasks:
        tasks.start_soon(thread.run, "W", ignore)
        await until(puppet.waiting)
        with anyio.fail_after(20):
            while not thread.health().step_s:
                await checkpoint()
        assert thread.health().jobs == 1
        puppet.gate.set()


async def test_a_loop_that_lags_gets_all_that_came_by_then_in_one_delivery(
    puppet: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliveries: list[object] = []
    events: list[Event] = []
    deliver = EngineThread._deliver
    monkeypatch.setattr(EngineThread, "_deliver", lambda thread: (deliveries.append(thread), deliver(thread)))
    async with hosted(puppet) as thread, anyio.create_task_group() as tasks:
        tasks.start_soon(thread.run, "a" * 500 + "W", events.append)
        await checkpoint()
        assert puppet.waiting.wait(20)  # the loop stands still while 500 steps are made
        puppet.gate.set()
    assert text_of(events) == "a" * 500
    assert len(deliveries) <= 4


async def test_closing_ends_the_jobs_inside_and_those_that_wait() -> None:
    endless = EndlessEngine(step_s=0)
    began = threading.Event()
    ended: list[str] = []

    async def run(thread: EngineThread) -> None:
        with pytest.raises(ShuttingDown):
            await thread.run(ask("x"), lambda _: began.set())
        ended.append("a job")

    hosting = EngineThread("endless", lambda _: endless, ignore)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks, hosting as thread:
            for _ in range(endless.slots + 1):
                tasks.start_soon(run, thread)
            await until(began)
    assert len(ended) == endless.slots + 1
    assert thread.health().jobs == 0


async def test_closing_does_not_wait_for_a_step_that_does_not_end_and_neither_do_its_jobs(
    puppet: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_module, "UNLOAD_TIMEOUT_S", 0.01)
    errors: list[Exception] = []

    async def run(thread: EngineThread) -> None:
        try:
            await thread.run("W", ignore)
        except ShuttingDown as exc:
            errors.append(exc)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks, hosted(puppet) as thread:
            tasks.start_soon(run, thread)
            await until(puppet.waiting)
    assert len(errors) == 1
    assert "unload" not in puppet.log


async def test_what_comes_after_the_end_is_refused(puppet: Puppet) -> None:
    async with hosted(puppet) as thread:
        pass
    with anyio.fail_after(20), pytest.raises(ShuttingDown):
        await thread.run("a", ignore)


@pytest.mark.parametrize(
    "error", [OSError("weights"), ModelUnavailable("nowhere"), StopIteration("odd"), SystemExit(1)]
)
async def test_an_engine_that_does_not_open_says_so_to_the_opener(error: BaseException) -> None:
    def fail(_: Report) -> Engine[str]:
        raise error

    with anyio.fail_after(20):
        with pytest.raises(Exception) as raised:  # noqa: PT011 - the types differ
            async with EngineThread("x", fail, ignore):
                pytest.fail("it is open")
    plain = type(error) not in (StopIteration, SystemExit)
    assert raised.value is error if plain else isinstance(raised.value, EngineFailed)
    if not plain:
        assert repr(error) in str(raised.value)


async def test_what_a_load_reports_reaches_the_loop_before_the_engine_does(puppet: Puppet) -> None:
    reports: list[tuple[Loading, threading.Thread]] = []
    expected = [Loading("reading", i, 3) for i in range(4)]

    def load(report: Report) -> Engine[str]:
        for loading in expected:
            report(loading)
        return puppet

    async with EngineThread("puppet", load, lambda told: reports.append((told, threading.current_thread()))):
        assert reports == [(loading, threading.current_thread()) for loading in expected]


async def test_leaving_during_the_load_interrupts_it_at_its_next_report() -> None:
    began, ended = threading.Event(), threading.Event()

    def load(report: Report) -> Engine[str]:
        try:
            while True:
                report(Loading("reading"))
                began.set()
        finally:
            ended.set()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(EngineThread("x", load, ignore).__aenter__)
            await until(began)
            tasks.cancel_scope.cancel()
    assert ended.is_set()


async def test_an_engine_that_was_opened_for_nobody_is_unloaded(puppet: Puppet) -> None:
    def load(_: Report) -> Engine[str]:
        puppet.waiting.set()
        assert puppet.gate.wait(20)
        return puppet

    async def open_it() -> None:
        async with EngineThread("puppet", load, ignore):
            pytest.fail("nobody waits")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(open_it)
        await until(puppet.waiting)
        tasks.cancel_scope.cancel()
        puppet.gate.set()
    assert puppet.log == ["unload", "leave_thread"]


class Fast(SerialEngine[int]):
    """As many words as were asked for, one a step, for three at a time."""

    slots = 3

    def load(self, report: Report) -> None: ...

    def run(self, request: int) -> Generator[Event]:
        for _ in range(request):
            yield Text("x")
        yield Done("stop")

    def step(self) -> list[tuple[Key, Event]]:
        events = [(key, next(running)) for key, running in self._running.items()]
        for key, event in events:
            if isinstance(event, Done):
                self.drop(key)
        return events

    @property
    def inside(self) -> int:
        return len(self._running)


@pytest.mark.parametrize("seed", range(5))
async def test_whenever_jobs_are_cancelled_and_end_nothing_is_lost_and_no_future_is_set_twice(seed: int) -> None:
    """An exception in a callback of the loop fails the test, too."""
    chance = random.Random(seed)
    engine = Fast()
    outcomes: list[str] = []

    async def job(words: int, leave_after: int | None) -> None:
        events: list[Event] = []

        def put(event: Event) -> None:
            events.append(event)
            if len(events) == leave_after:
                scope.cancel()

        with anyio.CancelScope() as scope:
            await thread.run(words, put)
            assert text_of(events) == "x" * words
            outcomes.append("ended")
            return
        outcomes.append("left")

    with anyio.fail_after(30):
        async with EngineThread("fast", lambda _: engine, ignore, settle_s=0) as thread:
            async with anyio.create_task_group() as tasks:
                for _ in range(150):
                    words = chance.randrange(6)
                    tasks.start_soon(job, words, chance.choice([None, *range(1, words + 3)]))
                    for _ in range(chance.randrange(3)):
                        await checkpoint()
            await thread.run(1, ignore)
            assert thread.health().jobs == 0
    assert len(outcomes) == 150
    assert {"ended", "left"} == set(outcomes)
    assert engine.inside == 0
