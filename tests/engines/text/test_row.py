from pathlib import Path

import pytest
from mlx_lm import load
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_mcp.engines.text.row import Row
from mlx_mcp.engines.text.stops import StopText
from mlx_mcp.types import Done, Event, Text, Usage


@pytest.fixture(scope="module")
def tokenizer(tiny_model_path: Path) -> TokenizerWrapper:
    return load(str(tiny_model_path))[1]


def feed(tokenizer: TokenizerWrapper, text: str, finish: str, stop: tuple[str, ...] = ()) -> list[list[Event]]:
    """The events of each token."""
    row = Row("key", [0] * 10, [], 99, 4, tokenizer.detokenizer, StopText(stop))
    tokens = tokenizer.encode(text)
    return [row.feed(token, finish if i == len(tokens) else None)[0] for i, token in enumerate(tokens, 1)]


def test_a_character_of_several_tokens_comes_whole(tokenizer: TokenizerWrapper) -> None:
    assert feed(tokenizer, "aé€!", "length") == [
        [Text("a")],
        [],
        [Text("é")],
        [],
        [],
        [Text("€")],
        [Text("!"), Done("length", Usage(10, 7, 4))],
    ]


def test_an_answer_cut_inside_a_character_says_that_something_is_missing(tokenizer: TokenizerWrapper) -> None:
    row = Row("key", [0] * 10, [], 99, 0, tokenizer.detokenizer, StopText(()))
    first, _ = tokenizer.encode("é")
    assert row.feed(first, "length") == ([Text("\N{REPLACEMENT CHARACTER}"), Done("length", Usage(10, 1))], "length")


def test_the_stop_token_has_no_text_and_is_counted(tokenizer: TokenizerWrapper) -> None:
    assert feed(tokenizer, "a<|im_end|>", "stop") == [[Text("a")], [Done("stop", Usage(10, 2, 4))]]


def test_a_blank_at_the_end_is_shown(tokenizer: TokenizerWrapper) -> None:
    events = [event for events in feed(tokenizer, "a b ", "length") for event in events]
    assert "".join(event.text for event in events if isinstance(event, Text)) == "a b "


def test_a_stop_string_ends_the_row_before_its_own_end(tokenizer: TokenizerWrapper) -> None:
    row = Row("key", [0] * 10, [], 99, 0, tokenizer.detokenizer, StopText(("bc",)))
    a, b, c = tokenizer.encode("abc")
    assert row.feed(a, None) == ([Text("a")], None)
    assert row.feed(b, None) == ([], None)
    assert row.feed(c, None) == ([Done("stop", Usage(10, 3))], "stop")


def test_a_stop_string_at_the_last_token_is_the_reason_for_the_end(tokenizer: TokenizerWrapper) -> None:
    assert feed(tokenizer, "abc", "length", ("bc",))[-1] == [Done("stop", Usage(10, 3, 4))]


def test_what_was_held_back_for_a_stop_string_is_shown_when_it_does_not_come(tokenizer: TokenizerWrapper) -> None:
    assert feed(tokenizer, "ab", "length", ("bc",)) == [[Text("a")], [Text("b"), Done("length", Usage(10, 2, 4))]]
    assert feed(tokenizer, "ab<|im_end|>", "stop", ("bc",))[-1] == [Text("b"), Done("stop", Usage(10, 3, 4))]
