"""The text engine on the tiny model, judged by mlx-lm's own answers."""

import gc
import random
from collections.abc import Hashable
from dataclasses import replace
from itertools import count
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_mcp.engines.base import Key
from mlx_mcp.engines.text import TextEngine
from mlx_mcp.errors import ContextOverflow, InvalidRequest, ModelUnavailable, NotCapable
from mlx_mcp.types import ChatRequest, Done, Event, Loading, Message, Progress, Sampling, Text
from tests.engines.text.conftest import Make, Reference, options
from tests.engines.text.driving import ask, drain, progress_of, run, text_of

PROMPTS = ["Hello!", "What is the capital of France?", "Count upwards from 7, one number per line.", "x"]
LONG = "All work and no play makes Jack a dull boy. " * 60
"""More than is read in one step."""
HOT = Sampling(temperature=1.0, top_p=0.95)


def prompt_tokens(text: str) -> int:
    return len(text) + len("user\n\nassistant\n") + 3


def drain_all(engine: TextEngine, requests: dict[Hashable, ChatRequest]) -> dict[Hashable, str]:
    return {key: text for key, (text, _) in drain(engine, requests).items()}


def test_it_says_what_mlx_lm_says(engine: TextEngine, reference: Reference) -> None:
    answers = drain(engine, {p: ask(p, 12 + i) for i, p in enumerate(PROMPTS)})
    assert {p: text for p, (text, _) in answers.items()} == {p: reference(p, 12 + i) for i, p in enumerate(PROMPTS)}


def test_requests_that_come_and_go_at_any_time_do_not_disturb_each_other(
    engine: TextEngine, reference: Reference
) -> None:
    """Prompts of all lengths, some of them cached, joining rows that decode; some leave in the middle."""
    chance = random.Random(3)
    texts = [LONG[: chance.choice((1, 7, 40, 90, 300, 700))] for _ in range(24)]
    limits = [chance.randint(1, 24) for _ in texts]
    waiting = list(range(len(texts)))
    inside: dict[Hashable, list[Event]] = {}
    ended: dict[Hashable, list[Event]] = {}
    leaving = {3, 9, 15}
    while waiting or inside:
        if waiting and len(inside) < engine.slots and chance.random() < 0.5:
            key = waiting.pop(0)
            inside[key] = []
            engine.add(key, ask(texts[key], limits[key]))
        for key, event in engine.step():
            inside[key].append(event)
            if isinstance(event, Done):
                ended[key] = inside.pop(key)
        for key in leaving & inside.keys():
            if chance.random() < 0.3:
                engine.drop(key)
                del inside[key]
    assert len(ended) >= len(texts) - len(leaving)
    assert {key: text_of(events) for key, events in ended.items()} == {
        key: reference(texts[int(str(key))], limits[int(str(key))]) for key in ended
    }


def test_two_requests_interleave(engine: TextEngine) -> None:
    engine.add("first", ask("Count upwards from 1.", 20))
    seen: list[Hashable] = []
    while seen.count("first") < 3:
        seen += [key for key, event in engine.step() if isinstance(event, Text)]
    engine.add("second", ask("Count upwards from 50.", 6))
    while seen.count("second") < 6:
        seen += [key for key, event in engine.step() if isinstance(event, Text)]
    began = seen.index("second")
    assert {"first", "second"} == set(seen[began:])


def test_rows_go_on_decoding_while_a_long_prompt_is_read(engine: TextEngine) -> None:
    engine.add("short", ask("Hello!", 40))
    while not any(isinstance(event, Text) for _, event in engine.step()):
        pass
    engine.add("long", ask(LONG, 1))
    kinds: list[type[Event]] = []
    while Done not in kinds[-1:]:
        kinds += [type(event) for key, event in engine.step() if (key, type(event)) != ("short", Progress)]
    reading = kinds[kinds.index(Progress) : len(kinds) - kinds[::-1].index(Progress)]
    assert reading.count(Text) > 3


def test_a_seed_gives_the_same_text_alone_and_in_a_batch(engine: TextEngine) -> None:
    request = ask("Tell me a story.", 24, sampling=HOT, seed=42)
    alone, _ = run(engine, request)
    others = {"greedy": ask("What is 2+2?", 40), "other seed": ask("Tell me a story.", 24, sampling=HOT, seed=7)}
    together = drain_all(engine, {**others, "seeded": request})
    assert together["seeded"] == alone
    assert not together["other seed"].startswith(alone[:5])


def test_another_seed_gives_another_text_and_no_seed_too(engine: TextEngine) -> None:
    requests: dict[Hashable, ChatRequest] = {
        seed: ask("Tell me a story.", 24, sampling=HOT, seed=seed) for seed in (1, 2, -1)
    }
    texts = drain_all(engine, requests | {None: ask("Tell me a story.", 24, sampling=HOT)})
    assert len(set(texts.values())) == 4


def test_each_row_keeps_its_own_sampling_in_one_batch(engine: TextEngine, reference: Reference) -> None:
    requests: dict[Hashable, ChatRequest] = {
        "greedy": ask("Go!", 20),
        "hot": ask("Go!", 20, sampling=HOT, seed=1),
        "cold by top-k": ask("Go!", 20, sampling=Sampling(temperature=2.0, top_k=1), seed=1),
        "never twice": ask("Go!", 20, sampling=Sampling(frequency_penalty=100.0)),
    }
    alone = {key: run(engine, request)[0] for key, request in requests.items()}
    together = drain_all(engine, requests)
    assert together == alone
    assert together["greedy"] == together["cold by top-k"] == reference("Go!", 20)
    assert len({together["greedy"], together["hot"], together["never twice"]}) == 3


@pytest.mark.parametrize("sampling", [Sampling(frequency_penalty=100.0), Sampling(presence_penalty=100.0)])
def test_a_strong_penalty_on_the_answer_forbids_repeats_but_not_words_of_the_prompt(
    engine: TextEngine, sampling: Sampling
) -> None:
    plain, _ = run(engine, ask("Hello!", 60))
    text, _ = run(engine, ask("Hello!" + plain[:30], 60, sampling=sampling))
    assert len(plain) > len(set(plain))
    assert len(text) == len(set(text)) == 60
    assert set(text) & set(plain[:30])


def test_a_strong_repetition_penalty_forbids_the_words_of_the_prompt_too(engine: TextEngine) -> None:
    said, _ = run(engine, ask("Hello!", 4))
    text, _ = run(engine, ask("Hello!" + said, 30, sampling=Sampling(repetition_penalty=1e6)))
    assert len(text) == len(set(text)) == 30
    assert not set(text) & set("Hello!" + said)


def test_a_penalty_works_the_same_after_a_hit_of_the_prompt_cache(engine: TextEngine) -> None:
    request = ask(LONG[:300], 30, sampling=Sampling(repetition_penalty=1.3, presence_penalty=0.5))
    cold, _ = run(engine, request)
    warm, done = run(engine, request)
    assert done.usage.cached_tokens > 0
    assert warm == cold


def test_a_cancelled_prefill_frees_the_slot_and_keeps_what_was_read(engine: TextEngine, reference: Reference) -> None:
    request = ask(LONG, 4)
    engine.add("gone", request)
    progress = progress_of(engine.step(), "gone")[-1]
    assert 0 < progress.done < progress.total == prompt_tokens(LONG)
    engine.drop("gone")
    assert engine.step() == []
    text, done = run(engine, request)
    assert done.usage.cached_tokens == progress.done
    assert text == reference(LONG, 4)


def test_a_cancelled_answer_leaves_the_others_alone(engine: TextEngine, reference: Reference) -> None:
    engine.add("kept", ask("Count upwards.", 24))
    engine.add("gone", ask("Count downwards.", 200))
    events: dict[Hashable, list[Event]] = {"kept": [], "gone": []}
    while len(text_of(events["gone"])) < 5:
        for key, event in engine.step():
            events[key].append(event)
    engine.drop("gone")
    while not any(isinstance(event, Done) for event in events["kept"]):
        for key, event in engine.step():
            assert key == "kept"
            events[key].append(event)
    assert text_of(events["kept"]) == reference("Count upwards.", 24)


def test_a_cancelled_answer_is_remembered_for_who_asks_the_same(engine: TextEngine, reference: Reference) -> None:
    engine.add("gone", ask("Count!", 200))
    text = ""
    while len(text) < 5:
        text += text_of([event for _, event in engine.step()])
    engine.drop("gone")
    again, done = run(engine, ask("Count!", 12))
    assert done.usage.cached_tokens == prompt_tokens("Count!") - 1
    assert again == reference("Count!", 12)


def test_an_exact_hit_of_the_prompt_cache_reads_the_last_token_again(engine: TextEngine, reference: Reference) -> None:
    run(engine, ask("Count!", 1))  # its cache holds the prompt and nothing else
    text, done = run(engine, ask("Count!", 12))
    assert done.usage.cached_tokens == prompt_tokens("Count!") - 1
    assert text == reference("Count!", 12)


def test_a_hit_and_a_miss_are_read_together(engine: TextEngine, reference: Reference) -> None:
    run(engine, ask("Count!", 1))
    answers = drain_all(engine, {text: ask(text, 12) for text in ("Count!", LONG[:300], "Never asked.")})
    assert answers == {text: reference(text, 12) for text in answers}


def test_a_long_prompt_is_cached_before_its_answer_is_there(engine: TextEngine) -> None:
    engine.add("first", ask(LONG[:300], 100))
    while not any(isinstance(event, Text) for _, event in engine.step()):
        pass
    engine.add("second", ask(LONG[:300], 1))
    while True:
        for key, event in engine.step():
            if key == "second" and isinstance(event, Done):
                assert event.usage.cached_tokens == prompt_tokens(LONG[:300]) - 1
                return


def test_the_next_turn_of_a_conversation_reads_only_what_is_new(engine: TextEngine) -> None:
    first, _ = run(engine, ask("Hello!", 6))
    turns = (
        Message(role="user", content="Hello!"),
        Message(role="assistant", content=first),
        Message(role="user", content="And?"),
    )
    _, done = run(engine, ChatRequest(model="m", messages=turns, max_tokens=2))
    assert done.usage.cached_tokens == prompt_tokens("Hello!") + 5  # the last token of the answer was never read


def until_done(engine: TextEngine) -> list[tuple[Key, Event]]:
    events: list[tuple[Key, Event]] = []
    while not any(isinstance(event, Done) for _, event in events):
        events += engine.step()
    return events


def test_progress_counts_up_to_the_whole_prompt_cached_tokens_included(engine: TextEngine) -> None:
    total = prompt_tokens(LONG)
    engine.add("cold", ask(LONG, 1))
    events = until_done(engine)
    done = [progress.done for progress in progress_of(events, "cold")]
    assert done == sorted(done)
    assert done[-1] == total
    assert {progress.total for progress in progress_of(events, "cold")} == {total}
    engine.add("warm", ask(LONG + "!", 1))
    events = [each for _ in range(4) for each in engine.step()]
    assert progress_of(events, "warm")[0].done > total - 20


def test_a_stop_string_across_tokens_ends_the_answer_before_it(engine: TextEngine) -> None:
    whole, _ = run(engine, ask("Hello!", 40))
    stop = whole[10:13]
    assert whole.find(stop) == 10
    text, done = run(engine, ask("Hello!", 40, stop=("never said", stop)))
    assert text == whole[:10]
    assert (done.finish_reason, done.usage.completion_tokens) == ("stop", 13)
    assert engine.step() == []


def test_the_beginning_of_a_stop_string_that_never_comes_is_shown_at_the_end(engine: TextEngine) -> None:
    whole, _ = run(engine, ask("Hello!", 12))
    text, done = run(engine, ask("Hello!", 12, stop=(whole[-2:] + "never",)))
    assert (text, done.finish_reason) == (whole, "length")


def test_the_stop_token_ends_the_answer_and_is_not_shown(engine: TextEngine) -> None:
    wild = Sampling(temperature=4.0)
    for seed in count():
        text, done = run(engine, ask("Hello!", 200, sampling=wild, seed=seed))
        if done.finish_reason == "stop":
            break
    assert "<|im_end|>" not in text
    assert 0 < done.usage.completion_tokens < 200


def test_a_prompt_that_ends_in_the_stop_token_still_gets_an_answer(make_engine: Make) -> None:
    engine = make_engine(chat_template="{{ messages[0]['content'] + '<|im_end|>' }}")
    text, done = run(engine, ask("Hello there.", 5))
    assert (len(text), done.finish_reason, done.usage.prompt_tokens) == (5, "length", 13)


def test_a_prompt_of_one_token_gets_an_answer(make_engine: Make) -> None:
    engine = make_engine(chat_template="{{ messages[0]['content'] }}")
    assert len(run(engine, ask("x", 5))[0]) == 5
    assert drain_all(engine, {text: ask(text, 5) for text in ("x", "xyz")}).keys() == {"x", "xyz"}


def test_usage_counts_prompt_and_answer(engine: TextEngine) -> None:
    _, done = run(engine, ask("Hello!", 7))
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (prompt_tokens("Hello!"), 7)
    assert done.usage.cached_tokens == 0


def test_without_a_limit_the_settings_one_holds(engine: TextEngine) -> None:
    _, done = run(engine, ask("Hello!", None))
    assert (done.usage.completion_tokens, done.finish_reason) == (16, "length")


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(make_engine: Make) -> None:
    engine = make_engine(context_length=prompt_tokens("Hello!"))
    with pytest.raises(ContextOverflow) as refused:
        engine.add("a", ask("Hello!"))
    assert refused.value.code == "context_length_exceeded"
    assert f"has {prompt_tokens('Hello!')} tokens" in str(refused.value)
    assert f"holds {prompt_tokens('Hello!')}" in str(refused.value)
    assert len(run(engine, ask("Hello", 20))[0]) == 1


def test_the_answer_ends_with_the_context(make_engine: Make) -> None:
    engine = make_engine(context_length=prompt_tokens("Hello!") + 5)
    for limit in (100, None):
        _, done = run(engine, ask("Hello!", limit))
        assert (done.usage.completion_tokens, done.finish_reason) == (5, "length")


def test_messages_that_the_template_refuses_are_the_callers_mistake(engine: TextEngine) -> None:
    with pytest.raises(InvalidRequest, match="Unknown role martian") as refused:
        engine.add("a", ChatRequest(model="m", messages=(Message(role="martian", content="?"),)))
    assert refused.value.param == "messages"


def test_a_model_without_a_chat_template_is_not_for_chats(make_engine: Make) -> None:
    engine = make_engine(chat_template=None)
    with pytest.raises(NotCapable, match="no chat template"):
        engine.add("a", ask("Hello!"))


def test_the_template_sees_a_name_only_where_there_is_one(make_engine: Make) -> None:
    engine = make_engine(chat_template="{{ messages[0].name if 'name' in messages[0] else 'xx' }}")
    named = ChatRequest(model="m", messages=(Message(role="user", content="?", name="Zoe"),), max_tokens=1)
    assert run(engine, named)[1].usage.prompt_tokens == 3
    assert run(engine, ask("?", 1))[1].usage.prompt_tokens == 2


def test_the_models_own_defaults_hold_unless_the_request_says_otherwise(
    tiny_model_path: Path, tmp_path: Path, reference: Reference
) -> None:
    for file in tiny_model_path.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "generation_config.json").write_text('{"do_sample": true, "temperature": 1.5, "top_k": 50}')
    engine = TextEngine(options(tmp_path))
    engine.load(lambda _: None)
    seeds: dict[Hashable, ChatRequest] = {seed: ask("Hello!", seed=seed) for seed in (1, 2)}
    assert len(set(drain_all(engine, seeds).values())) == 2
    assert run(engine, ask("Hello!", sampling=Sampling(temperature=0.0)))[0] == reference("Hello!", 12)
    engine.unload()


def test_the_load_is_told(tiny_model_path: Path) -> None:
    told: list[Loading] = []
    engine = TextEngine(options(tiny_model_path))
    engine.load(told.append)
    engine.unload()
    assert told


def test_a_model_that_cannot_be_batched_is_refused_and_its_memory_given_back(
    tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_mcp.engines.text.model.make_prompt_cache", lambda _: [object()])
    gc.collect()
    before = mx.get_active_memory()
    engine = TextEngine(options(tiny_model_path))
    with pytest.raises(ModelUnavailable, match="cannot be batched"):
        engine.load(lambda _: None)
    engine.unload()
    assert mx.get_active_memory() <= before


def test_a_reset_forgets_the_prompt_cache(engine: TextEngine) -> None:
    run(engine, ask("Count!", 1))
    engine.reset()
    assert run(engine, ask("Count!", 1))[1].usage.cached_tokens == 0


def test_a_reset_after_a_step_that_raised_keeps_the_weights(
    engine: TextEngine, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.add("a", ask("Hello!"))
    engine.step()

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr("mlx_mcp.engines.text.rows.draw", fail)
        with pytest.raises(RuntimeError):
            engine.step()
    engine.reset()
    assert engine.step() == []
    assert run(engine, ask("Hello!"))[0] == reference("Hello!", 12)


def test_the_prompt_cache_can_be_switched_off(tiny_model_path: Path, reference: Reference) -> None:
    engine = TextEngine(replace(options(tiny_model_path), prompt_cache_bytes=0))
    engine.load(lambda _: None)
    for _ in range(2):
        text, done = run(engine, ask("Hello!"))
        assert (text, done.usage.cached_tokens) == (reference("Hello!", 12), 0)
    engine.unload()
