"""Requests that share a beginning, and requests that share memory."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_mcp.engines.base import Key
from mlx_mcp.engines.text import TextEngine
from mlx_mcp.engines.text.template import tokenize
from mlx_mcp.errors import InvalidRequest, PromptTooLarge
from mlx_mcp.types import Done, Event, Failed, ModelInfo
from tests.engines.text.conftest import options
from tests.engines.text.driving import ask, drain

SHARED = "The very same beginning, again and again. " * 12


@pytest.fixture
def engine(tiny_model_path: Path) -> Iterator[TextEngine]:
    engine = TextEngine(options(tiny_model_path))
    engine.load(lambda _: None)
    yield engine
    engine.unload()


def finish(engine: TextEngine, *keys: str) -> dict[str, Done]:
    done: dict[str, Done] = {}
    while len(done) < len(keys):
        for key, event in engine.step():
            if isinstance(event, Done):
                done[str(key)] = event
    return done


def test_a_prefix_that_two_requests_share_is_read_once(engine: TextEngine) -> None:
    engine.add("leader", ask(SHARED + "one", 3))
    engine.add("follower", ask(SHARED + "two", 3))
    done = finish(engine, "leader", "follower")
    assert done["leader"].usage.cached_tokens == 0
    assert done["follower"].usage.cached_tokens > len(SHARED) * 0.9
    assert engine.cached_tokens == done["follower"].usage.cached_tokens


def test_the_same_request_many_times_is_read_once_and_answered_alike(engine: TextEngine) -> None:
    texts = {text for text, _ in drain(engine, dict.fromkeys("abcd", ask(SHARED, 5))).values()}
    assert len(texts) == 1
    assert engine.cached_tokens >= 3 * len(SHARED)


def test_a_follower_reads_the_prefix_itself_when_its_leader_leaves(engine: TextEngine) -> None:
    engine.add("leader", ask(SHARED * 4, 3))
    engine.add("follower", ask(SHARED * 4, 3))
    engine.step()
    engine.drop("leader")
    done = finish(engine, "follower")["follower"]
    assert done.usage.completion_tokens == 3
    assert done.usage.cached_tokens > 0  # what the leader had read by then


def test_a_waiting_follower_can_be_dropped(engine: TextEngine) -> None:
    engine.add("leader", ask(SHARED, 3))
    engine.add("follower", ask(SHARED, 3))
    engine.drop("follower")
    events: list[tuple[Key, Event]] = []
    while not any(isinstance(event, Done) for _, event in events):
        events += engine.step()
    assert {key for key, _ in events} == {"leader"}
    assert engine.step() == []


def test_short_shared_beginnings_are_not_waited_for(engine: TextEngine) -> None:
    engine.add("one", ask("a", 3))
    engine.add("two", ask("b", 3))
    done = finish(engine, "one", "two")
    assert done["two"].usage.cached_tokens == 0


def test_a_request_that_never_fits_is_refused_with_the_numbers(engine: TextEngine) -> None:
    engine.allowance_bytes = 1000
    with pytest.raises(PromptTooLarge, match="0 MB are there"):
        engine.add("big", ask("x", 100))
    assert engine.step() == []


def test_requests_that_do_not_fit_together_run_one_after_the_other(engine: TextEngine) -> None:
    one = engine._model.cost.of(200)
    engine.allowance_bytes = int(1.5 * one)
    for key in "abc":
        engine.add(key, ask(key * 100, 20))
    inside: list[int] = []
    done: list[Key] = []
    while len(done) < 3:
        for key, event in engine.step():
            if isinstance(event, Done):
                done.append(key)
        inside.append(len(engine._rows))
        assert engine.cache_bytes <= engine.allowance_bytes
    assert done == ["a", "b", "c"]
    assert max(inside) == 1


def test_cached_prompts_give_way_to_running_requests(engine: TextEngine) -> None:
    engine.add("first", ask("x" * 200, 20))
    finish(engine, "first")
    held = engine.cache_bytes
    assert held > 0
    engine.allowance_bytes = engine._model.cost.of(200) + held // 2
    engine.add("second", ask("y" * 100, 20))
    finish(engine, "second")
    assert engine.cache_bytes <= engine.allowance_bytes


def test_an_allowance_that_shrinks_fails_who_waits_and_cannot_fit_any_more(engine: TextEngine) -> None:
    engine.allowance_bytes = int(1.5 * engine._model.cost.of(200))
    engine.add("inside", ask("a" * 100, 5))
    engine.add("waits", ask("b" * 100, 5))
    engine.step()
    engine.allowance_bytes = 1000
    events: list[tuple[Key, Event]] = []
    for _ in range(20):
        events += engine.step()
    ends = {key: event for key, event in events if isinstance(event, Done | Failed)}
    assert isinstance(ends["inside"], Done)
    assert isinstance(ends["waits"], Failed)


def test_trimming_gives_the_cached_prompts_back(engine: TextEngine) -> None:
    engine.add("first", ask("x" * 200, 20))
    finish(engine, "first")
    assert engine.cache_bytes > 0
    engine.trim(0)
    assert engine.cache_bytes == 0


def test_weights_are_estimated_measured_and_given_back(tiny_model_path: Path) -> None:
    on_disk = sum(file.stat().st_size for file in tiny_model_path.glob("*.safetensors"))
    engine = TextEngine(replace(options(tiny_model_path), info=ModelInfo(size_bytes=on_disk)))
    engine.load(lambda _: None)
    assert engine.weights_bytes == pytest.approx(engine.estimated_bytes, rel=0.05)
    engine.unload()
    assert engine.weights_bytes == engine.cache_bytes == 0


def test_one_who_cannot_start_takes_no_other_with_it(engine: TextEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = engine._cache.fetch
    bad = tokenize(engine._model.tokenizer, ask("a", 3).messages)
    monkeypatch.setattr(engine._cache, "fetch", lambda prompt: 1 / 0 if prompt == bad else fetch(prompt))
    engine.add("bad", ask("a", 3))
    engine.add("good", ask("b", 3))
    events: list[tuple[Key, Event]] = []
    for _ in range(8):
        events += engine.step()
    ends = {key: type(event) for key, event in events if isinstance(event, Done | Failed)}
    assert ends == {"bad": Failed, "good": Done}


@pytest.mark.parametrize("text", ["half a pair: \ud83d", "\udc00"])
def test_text_that_is_no_unicode_is_refused_with_its_place(engine: TextEngine, text: str) -> None:
    with pytest.raises(InvalidRequest, match="surrogate") as refused:
        engine.add("x", ask(text, 3))
    assert refused.value.param == "messages[0].content"
