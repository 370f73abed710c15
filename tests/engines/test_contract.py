"""What every engine keeps to, whatever it serves. A new engine is one more line in CASES."""

import gc
import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlx_mcp.engines.base import Engine, EngineOptions, Key
from mlx_mcp.engines.blas import load_fast_blas
from mlx_mcp.engines.commands import Add, Command, Drop, Stop
from mlx_mcp.engines.worker import Worker
from mlx_mcp.errors import InvalidRequest
from mlx_mcp.types import FINAL, ChatRequest, Done, Event, Failed, Message, Text
from tests.fakes import EchoEngine, EndlessEngine

MARGIN_BYTES = 64 << 10


def ask(text: str, max_tokens: int = 5, role: str = "user") -> ChatRequest:
    return ChatRequest(model="m", messages=(Message(role=role, content=text),), max_tokens=max_tokens)


def text_engine(path: Path) -> Engine[Any]:
    load_fast_blas()
    from mlx_mcp.engines.text import TextEngine

    options = EngineOptions(path=path, context_length=2048, slots=3, default_max_tokens=16, prompt_cache_bytes=1 << 24)
    return TextEngine(options)


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    make: Callable[[Path], Engine[Any]]
    """From the directory of the tiny text model; engines of another kind ignore it."""
    request: object
    """Takes more than one step."""
    refused: object
    """Not for this engine: `add` raises."""
    ends: bool = True
    on_mlx: bool = True


CASES = [
    Case(name="echo", make=lambda _: EchoEngine(), request=ask("a b c"), refused=ask("refuse"), on_mlx=False),
    Case(
        name="endless",
        make=lambda _: EndlessEngine(step_s=0),
        request=ask("x"),
        refused=ask("refuse"),
        ends=False,
        on_mlx=False,
    ),
    Case(name="text", make=text_engine, request=ask("Count!"), refused=ask("hello", role="martian")),
]


def cases(*, ends: bool = False, on_mlx: bool = False) -> pytest.MarkDecorator:
    """All of them, or those of which this is true."""
    chosen = [case for case in CASES if (case.ends or not ends) and (case.on_mlx or not on_mlx)]
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.name)


@pytest.fixture
def engine(case: Case, tiny_model_path: Path) -> Generator[Engine[Any]]:
    engine = case.make(tiny_model_path)
    engine.load(lambda _: None)
    yield engine
    engine.unload()


def events_of(engine: Engine[Any], key: Key, enough: Callable[[list[Event]], bool]) -> list[Event]:
    events: list[Event] = []
    for _ in range(1000):
        if enough(events):
            return events
        events += [event for k, event in engine.step() if k == key]
    raise AssertionError(f"not enough: {events}")


def some_text(events: list[Event]) -> bool:
    return any(isinstance(event, Text) for event in events)


def the_end(events: list[Event]) -> bool:
    return bool(events) and isinstance(events[-1], FINAL)


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def answer(case: Case, engine: Engine[Any], key: Key) -> str:
    """The whole text, or the first piece of one without an end."""
    engine.add(key, case.request)
    events = events_of(engine, key, the_end if case.ends else some_text)
    engine.drop(key)
    return text_of(events)


@cases()
def test_it_says_what_it_is(case: Case, engine: Engine[Any]) -> None:
    assert engine.slots >= 1
    assert engine.capabilities


@cases()
def test_an_idle_engine_has_nothing_to_say(case: Case, engine: Engine[Any]) -> None:
    assert engine.step() == []


@cases(ends=True)
def test_the_last_event_of_a_key_is_done_and_frees_its_slot(case: Case, engine: Engine[Any]) -> None:
    for turn in range(3):
        keys = {(turn, slot) for slot in range(engine.slots)}
        for key in keys:
            engine.add(key, case.request)
        ended: set[Key] = set()
        while ended != keys:
            for key, event in engine.step():
                assert key in keys - ended
                if isinstance(event, FINAL):
                    assert isinstance(event, Done)
                    ended.add(key)
        assert engine.step() == []


@cases()
def test_dropping_a_key_frees_its_slot_at_once_and_no_event_of_it_follows(case: Case, engine: Engine[Any]) -> None:
    keys = list(range(engine.slots))
    for key in keys:
        engine.add(key, case.request)
    events_of(engine, keys[0], some_text)
    engine.drop(keys[0])
    engine.add("next", case.request)
    said: list[tuple[Key, Event]] = []
    while not some_text([event for key, event in said if key == "next"]):
        said += engine.step()
    assert keys[0] not in {key for key, _ in said}


@cases()
def test_a_key_can_be_dropped_before_its_first_step(case: Case, engine: Engine[Any]) -> None:
    engine.add("gone", case.request)
    engine.drop("gone")
    assert engine.step() == []


@cases()
def test_dropping_a_key_that_is_not_there_changes_nothing(case: Case, engine: Engine[Any]) -> None:
    expected = answer(case, engine, "before")
    engine.add("here", case.request)
    engine.drop("never")
    engine.drop("before")
    assert text_of(events_of(engine, "here", the_end if case.ends else some_text)) == expected


@cases()
def test_a_request_that_is_refused_leaves_the_engine_unharmed(case: Case, engine: Engine[Any]) -> None:
    expected = answer(case, engine, "before")
    with pytest.raises(InvalidRequest):
        engine.add("refused", case.refused)
    assert engine.step() == []
    assert answer(case, engine, "after") == expected


@cases()
def test_a_reset_forgets_every_key_and_the_engine_works_as_before(case: Case, engine: Engine[Any]) -> None:
    expected = answer(case, engine, "before")
    for key in range(engine.slots):
        engine.add(key, case.request)
    events_of(engine, 0, some_text)
    engine.reset()
    assert engine.step() == []
    assert answer(case, engine, "after") == expected


@cases()
def test_it_can_be_unloaded_twice_and_loaded_again(case: Case, engine: Engine[Any]) -> None:
    expected = answer(case, engine, "before")
    engine.add("inside", case.request)
    engine.step()
    engine.unload()
    engine.unload()
    engine.load(lambda _: None)
    assert engine.step() == []
    assert answer(case, engine, "after") == expected


@cases()
def test_it_can_be_unloaded_before_it_was_ever_loaded(case: Case, tiny_model_path: Path) -> None:
    case.make(tiny_model_path).unload()


@cases(on_mlx=True)
def test_unloading_gives_the_memory_back(case: Case, tiny_model_path: Path) -> None:
    import mlx.core as mx

    gc.collect()
    before = mx.get_active_memory()
    engine = case.make(tiny_model_path)
    engine.load(lambda _: None)
    answer(case, engine, "a")
    engine.add("inside", case.request)
    engine.step()
    assert mx.get_active_memory() > before + MARGIN_BYTES
    engine.unload()
    assert mx.get_active_memory() <= before + MARGIN_BYTES
    assert mx.get_cache_memory() <= MARGIN_BYTES


@cases()
def test_on_its_thread_it_never_holds_more_keys_than_it_has_slots(case: Case, tiny_model_path: Path) -> None:
    """As the worker drives it: more requests than slots, each taken out at its end, or at its first text."""
    commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
    waiting: set[Key] = set()
    census: list[Census] = []
    failures: list[Failed] = []

    def open_engine() -> Engine[Any]:
        engine = case.make(tiny_model_path)
        engine.load(lambda _: None)
        census.append(Census(engine))
        waiting.update(range(2 * engine.slots + 1))
        for key in waiting:
            commands.put(Add(key, case.request))
        return engine

    def publish(events: list[tuple[Key, Event]]) -> None:
        failures.extend(event for _, event in events if isinstance(event, Failed))
        for key, event in events:
            if isinstance(event, FINAL if case.ends else Text):
                waiting.discard(key)
                commands.put(Drop(key))
        if not waiting:
            commands.put(Stop())

    worker = Worker(case.name, commands, publish, settle_s=0)
    thread = threading.Thread(target=worker.run, args=(open_engine, lambda _: None))
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert census[0].most == census[0].slots
    assert (failures, worker.counts.incidents) == ([], 0)


class Census:
    """Counts the keys inside an engine, by its own calls and events."""

    def __init__(self, engine: Engine[Any]) -> None:
        self.slots = engine.slots
        self.most = 0
        self._inside: set[Key] = set()
        self._add, self._step, self._drop = engine.add, engine.step, engine.drop
        engine.add, engine.step, engine.drop = self.add, self.step, self.drop

    def add(self, key: Key, request: object) -> None:
        self._add(key, request)
        self._inside.add(key)
        self.most = max(self.most, len(self._inside))

    def step(self) -> list[tuple[Key, Event]]:
        events = self._step()
        self._inside.difference_update(key for key, event in events if isinstance(event, FINAL))
        return events

    def drop(self, key: Key) -> None:
        self._drop(key)
        self._inside.discard(key)
