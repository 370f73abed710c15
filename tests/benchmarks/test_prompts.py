"""Conversations to measure with."""

from pathlib import Path

import pytest

from benchmarks.prompts import Conversation, Prompts, counter


@pytest.fixture
def prompts() -> Prompts:
    return Prompts(lambda text: len(text.split()), seed=1)


def words(conversation: Conversation) -> list[str]:
    return " ".join(message["content"] for message in conversation).split()


def test_the_same_seed_and_series_make_the_same_conversations(prompts: Prompts) -> None:
    again = Prompts(lambda text: len(text.split()), seed=1)
    assert prompts.make("a", 3, 50) == again.make("a", 3, 50)
    assert prompts.make("a", 3, 50)[:2] == prompts.make("a", 2, 50)


def test_another_seed_and_another_series_make_others(prompts: Prompts) -> None:
    other = Prompts(lambda text: len(text.split()), seed=2)
    made = [*prompts.make("a", 2, 50), *prompts.make("b", 2, 50), *other.make("a", 2, 50)]
    assert len({" ".join(words(conversation)) for conversation in made}) == 6
    assert len({conversation[0]["content"].split()[0] for conversation in made}) == 6


@pytest.mark.parametrize("tokens", [30, 200, 2000])
def test_they_have_the_length_that_was_asked_for(prompts: Prompts, tokens: int) -> None:
    for conversation in prompts.make("a", 2, tokens):
        assert len(words(conversation)) == tokens


def test_a_length_below_that_of_the_question_is_that_of_the_question(prompts: Prompts) -> None:
    (conversation,) = prompts.make("a", 1, 1)
    assert conversation[1]["content"].startswith("Write")


def test_a_shared_prefix_is_the_beginning_of_all_and_part_of_the_length(prompts: Prompts) -> None:
    made = prompts.make("a", 3, 100, shared=60)
    assert len({conversation[0]["content"] for conversation in made}) == 1
    assert len(made[0][0]["content"].split()) == 60
    assert len({conversation[1]["content"] for conversation in made}) == 3
    assert [len(words(conversation)) for conversation in made] == [100] * 3
    assert prompts.make("b", 1, 100, shared=60)[0][0] != made[0][0]


def test_lengths_are_in_tokens_of_the_model(tiny_model_path: Path) -> None:
    count = counter(tiny_model_path)
    (conversation,) = Prompts(count, seed=1).make("a", 1, 500)
    length = sum(count(message["content"]) for message in conversation)
    assert 485 <= length <= 505


def test_without_a_tokenizer_words_are_counted(tmp_path: Path) -> None:
    assert counter(tmp_path)("one two three") == 3
