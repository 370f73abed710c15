"""The thread's side, driven by its commands alone."""

import queue
import threading
from collections.abc import Callable, Generator, Hashable

import pytest

from mlx_mcp.engines.base import Engine, Key, Report
from mlx_mcp.engines.commands import Add, Command, Drop, Stop
from mlx_mcp.engines.worker import Worker
from mlx_mcp.errors import EngineFailed, InvalidRequest, ShuttingDown
from mlx_mcp.types import FINAL, Done, Event, Failed, Started, Text

Pair = tuple[Key, Event]


class Puppet(Engine[str]):
    """
    Says each letter of a request, one a step, for all keys at once, and keeps a log of its calls.

    Capitals are orders: B raises, X wants to exit, W waits for the gate.
    """

    slots = 2

    def __init__(self) -> None:
        self.log: list[str] = []
        self.left: dict[Key, list[str]] = {}
        self.failing: set[str] = set()
        """Methods that raise."""
        self.gate = threading.Event()
        self.waiting = threading.Event()

    def load(self, report: Report) -> None: ...

    def unload(self) -> None:
        self._called("unload")

    def reset(self) -> None:
        self.left.clear()
        self._called("reset")

    def leave_thread(self) -> None:
        self._called("leave_thread")

    def add(self, key: Key, request: str) -> None:
        if request == "REFUSED":
            raise InvalidRequest("no such letters")
        if request == "ODD":
            raise KeyError("odd")
        self._called(f"add {key}")
        self.left[key] = list(request)

    def step(self) -> list[Pair]:
        self._called("step")
        return [pair for key in list(self.left) for pair in self._say(key)]

    def _say(self, key: Key) -> list[Pair]:
        letter = self.left[key].pop(0) if self.left[key] else "."
        match letter:
            case "B":
                raise RuntimeError("boom")
            case "X":
                raise SystemExit(3)
            case "W":
                self.waiting.set()
                assert self.gate.wait(20)
                return []
            case ".":
                del self.left[key]
                return [(key, Done("stop"))]
            case _:
                return [(key, Text(letter))]

    def drop(self, key: Key) -> None:
        self._called(f"drop {key}")
        self.left.pop(key, None)

    def _called(self, name: str) -> None:
        self.log.append(name)
        if name.split(maxsplit=1)[0] in self.failing:
            raise OSError(f"{name} failed")


class Driven:
    """A worker on a thread of its own, and all that it has said."""

    def __init__(self, puppet: Puppet) -> None:
        self.puppet = puppet
        self.said: list[Pair] = []
        self.opened: list[object] = []
        self.commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self.worker = Worker("puppet", self.commands, self._publish, settle_s=0)
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None

    def _publish(self, events: list[Pair]) -> None:
        with self._news:
            self.said += events
            self._news.notify_all()

    def start(self, *commands: Command, open_engine: Callable[[], Engine[str]] | None = None) -> None:
        """The commands are there before the worker looks."""
        self.ask(*commands)
        run = (open_engine or (lambda: self.puppet), self.opened.append)
        self._thread = threading.Thread(target=self.worker.run, args=run)
        self._thread.start()

    def ask(self, *commands: Command) -> None:
        for command in commands:
            self.commands.put(command)

    def until_ended(self, *keys: Hashable) -> None:
        with self._news:
            assert self._news.wait_for(lambda: set(keys) <= self.ends.keys(), 20)

    def until_said(self, text: str, key: Key) -> None:
        with self._news:
            assert self._news.wait_for(lambda: text in self.text(key), 20)

    def stop(self) -> None:
        if self._thread:
            self.puppet.gate.set()
            self.ask(Stop())
            self._thread.join(20)
            assert not self._thread.is_alive()

    @property
    def ends(self) -> dict[Key, Event]:
        return {key: event for key, event in self.said if isinstance(event, FINAL)}

    def text(self, key: Key) -> str:
        return "".join(event.text for k, event in self.said if k == key and isinstance(event, Text))

    def error(self, key: Key) -> Exception:
        end = self.ends[key]
        assert isinstance(end, Failed)
        return end.error


@pytest.fixture
def driven() -> Generator[Driven]:
    driven = Driven(Puppet())
    yield driven
    driven.stop()


def test_a_job_is_started_says_its_text_and_ends(driven: Driven) -> None:
    driven.start(Add(1, "ab"))
    driven.until_ended(1)
    assert driven.said == [(1, Started()), (1, Text("a")), (1, Text("b")), (1, Done("stop"))]


def test_companions_are_taken_in_before_the_first_step(driven: Driven) -> None:
    driven.start(Add(1, "a"), Add(2, "b"))
    driven.until_ended(1, 2)
    assert driven.puppet.log[:3] == ["add 1", "add 2", "step"]


def test_those_behind_the_slots_come_in_their_order_as_slots_are_freed(driven: Driven) -> None:
    driven.start(Add(1, "a"), Add(2, "bbbb"), Add(3, "c"), Add(4, "d"), Add(5, "e"))
    driven.until_ended(1, 2, 3, 4, 5)
    assert [call for call in driven.puppet.log if call.startswith("add")] == [f"add {key}" for key in range(1, 6)]
    started = [i for i, (_, event) in enumerate(driven.said) if isinstance(event, Started)]
    ended = [i for i, (_, event) in enumerate(driven.said) if isinstance(event, Done)]
    for place in range(2, 5):  # each but the first two came after an end
        assert ended[place - 2] < started[place]


def test_dropping_frees_the_slot_for_who_waits(driven: Driven) -> None:
    driven.start(Add(1, "aW"), Add(2, "bW"), Add(3, "c"))
    assert driven.puppet.waiting.wait(20)
    driven.ask(Drop(1))
    driven.puppet.gate.set()
    driven.until_ended(3)
    assert driven.puppet.log.index("drop 1") < driven.puppet.log.index("add 3")
    assert 1 not in driven.ends


def test_a_waiting_job_that_is_dropped_never_gets_in(driven: Driven) -> None:
    driven.start(Add(1, "a"), Add(2, "b"), Add(3, "c"), Add(4, "d"), Drop(3))
    driven.until_ended(1, 2, 4)
    assert not any(key == 3 for key, _ in driven.said)
    assert not [call for call in driven.puppet.log if call.endswith(" 3")]


def test_dropping_what_has_ended_or_never_was_does_nothing(driven: Driven) -> None:
    driven.start(Add(1, "a"))
    driven.until_ended(1)
    driven.ask(Drop(1), Drop("never"), Add(2, "b"))
    driven.until_ended(2)
    assert not [call for call in driven.puppet.log if call.startswith("drop")]


def test_a_step_that_raises_fails_the_jobs_inside_and_the_engine_is_reset_for_the_others(
    driven: Driven, caplog: pytest.LogCaptureFixture
) -> None:
    driven.start(Add(1, "aB"), Add(2, "bbb"), Add(3, "c"))
    driven.until_ended(1, 2, 3)
    for key in (1, 2):
        error = driven.error(key)
        assert isinstance(error, EngineFailed)
        assert isinstance(error.__cause__, RuntimeError)
        assert error.__cause__.__traceback__ is None  # its frames would keep arrays alive
    assert driven.text(3) == "c"
    assert driven.puppet.log.count("reset") == 1
    assert (driven.worker.counts.incidents, driven.worker.broken) == (1, None)
    assert "boom" in caplog.text


def test_a_step_that_wants_to_exit_the_process_is_a_step_that_raises(driven: Driven) -> None:
    driven.start(Add(1, "X"), Add(2, "b"), Add(3, "c"))
    driven.until_ended(1, 2, 3)
    assert isinstance(driven.error(1), EngineFailed)
    assert driven.text(3) == "c"


def test_an_engine_that_cannot_be_reset_is_broken_and_refuses_with_the_reason(driven: Driven) -> None:
    driven.puppet.failing.add("reset")
    driven.start(Add(1, "B"), Add(2, "b"), Add(3, "c"))
    driven.until_ended(1, 2, 3)
    assert isinstance(driven.worker.broken, OSError)
    assert isinstance(driven.error(3), EngineFailed)
    assert isinstance(driven.error(3).__cause__, OSError)
    assert driven.puppet.log[-1] == "reset"


def test_a_refused_request_fails_alone_with_its_own_error(driven: Driven) -> None:
    driven.start(Add(1, "ab"), Add(2, "REFUSED"), Add(3, "c"))
    driven.until_ended(1, 2, 3)
    assert isinstance(driven.error(2), InvalidRequest)
    assert (driven.text(1), driven.text(3)) == ("ab", "c")
    assert driven.worker.counts.incidents == 0


def test_an_add_with_an_unexpected_error_fails_alone(driven: Driven) -> None:
    driven.start(Add(1, "ab"), Add(2, "ODD"), Add(3, "c"))
    driven.until_ended(1, 2, 3)
    assert isinstance(driven.error(2), EngineFailed)
    assert isinstance(driven.error(2).__cause__, KeyError)
    assert (driven.text(1), driven.text(3)) == ("ab", "c")
    assert driven.worker.counts.incidents == 0


def test_a_drop_that_raises_is_a_step_that_raised(driven: Driven) -> None:
    driven.puppet.failing.add("drop")
    driven.start(Add(1, "aW"), Add(2, "bW"))
    assert driven.puppet.waiting.wait(20)
    driven.ask(Drop(1), Add(3, "c"))
    driven.puppet.gate.set()
    driven.until_ended(2, 3)
    assert isinstance(driven.error(2), EngineFailed)
    assert 1 not in driven.ends
    assert driven.text(3) == "c"
    assert driven.worker.counts.incidents == 1


def test_stopping_ends_those_inside_and_those_who_wait_and_unloads(driven: Driven) -> None:
    driven.start(Add(1, "W"), Add(2, "W"), Add(3, "c"))
    assert driven.puppet.waiting.wait(20)
    driven.ask(Add(4, "d"), Stop(), Add(5, "e"))
    driven.puppet.gate.set()
    driven.until_ended(1, 2, 3, 4, 5)
    assert all(isinstance(driven.error(key), ShuttingDown) for key in range(1, 6))
    driven.stop()
    assert driven.puppet.log[-2:] == ["unload", "leave_thread"]


def test_an_unload_that_raises_is_logged_and_the_thread_ends_in_order(
    driven: Driven, caplog: pytest.LogCaptureFixture
) -> None:
    driven.puppet.failing.add("unload")
    driven.start(Add(1, "a"))
    driven.until_ended(1)
    driven.stop()
    assert driven.puppet.log[-2:] == ["unload", "leave_thread"]
    assert "unload failed" in caplog.text


def test_whoever_waits_for_the_engine_gets_it_or_the_reason(driven: Driven) -> None:
    driven.start(Stop())
    driven.stop()
    assert driven.opened == [driven.puppet]
    other = Driven(Puppet())

    def fail() -> Engine[str]:
        raise OSError("no such weights")

    other.start(open_engine=fail)
    other.stop()
    (error,) = other.opened
    assert isinstance(error, OSError)
    assert other.puppet.log == []


def test_while_a_step_runs_its_beginning_can_be_read_and_nothing_in_between(driven: Driven) -> None:
    driven.start(Add(1, "Wa"))
    assert driven.puppet.waiting.wait(20)
    assert driven.worker.step_began is not None
    driven.puppet.gate.set()
    driven.until_ended(1)
    driven.stop()
    assert driven.worker.step_began is None
