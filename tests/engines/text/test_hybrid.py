"""A model whose cache cannot be cut back: recurrent layers beside attention."""

import json
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm import generate, load
from mlx_lm.models.lfm2 import Model, ModelArgs

from mlx_mcp.engines.text import TextEngine
from mlx_mcp.types import ChatRequest, Message
from tests import tiny
from tests.engines.text.conftest import options
from tests.engines.text.driving import ask, drain, run

HYBRID = {
    **{key: tiny.CONFIG[key] for key in ("vocab_size", "num_attention_heads", "num_key_value_heads", "eos_token_id")},
    "model_type": "lfm2",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "max_position_embeddings": tiny.CONTEXT_LENGTH,
    "norm_eps": 1e-5,
    "conv_bias": False,
    "conv_L_cache": 3,
    "block_dim": 64,
    "block_multiple_of": 32,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": True,
    "block_ff_dim": 128,
    "full_attn_idxs": [1],
    "torch_dtype": "float32",
}
SYSTEM = Message(role="system", content="You are the same for everybody. " * 6)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tiny.make(tmp_path_factory.mktemp("hybrid") / "hybrid")
    (path / "config.json").write_text(json.dumps(HYBRID))
    shapes = tree_flatten(Model(ModelArgs.from_dict(HYBRID)).parameters())
    keys = mx.random.split(mx.random.key(2), len(shapes))
    weights = {
        name: mx.ones(value.shape) if value.ndim == 1 else 0.3 * mx.random.normal(value.shape, key=key)
        for (name, value), key in zip(shapes, keys, strict=True)
    }
    mx.save_safetensors(str(path / "model.safetensors"), weights)
    return path


WINDOW = tiny.CONFIG | {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}


@pytest.fixture
def sliding(tmp_path: Path) -> Iterator[TextEngine]:
    path = tiny.make(tmp_path / "sliding")
    (path / "config.json").write_text(json.dumps(WINDOW))
    engine = TextEngine(options(path))
    engine.load(lambda _: None)
    yield engine
    engine.unload()


def test_a_sliding_window_shares_the_system_message_and_keeps_nobody_waiting(sliding: TextEngine) -> None:
    assert not sliding._model.trimmable
    answers = drain(sliding, {str(n): with_system(f"Question {n}") for n in range(4)})
    assert sum(done.usage.cached_tokens > len(SYSTEM.content) for _, done in answers.values()) == 3
    sliding.reset()
    for n in range(4):
        assert run(sliding, with_system(f"Question {n}"))[0] == answers[str(n)][0]


@pytest.fixture
def engine(path: Path) -> Iterator[TextEngine]:
    engine = TextEngine(options(path))
    engine.load(lambda _: None)
    yield engine
    engine.unload()


def with_system(text: str) -> ChatRequest:
    return ChatRequest(model="m", messages=(SYSTEM, Message(role="user", content=text)), max_tokens=6)


def test_it_says_what_mlx_lm_says_alone_and_in_a_batch(engine: TextEngine, path: Path) -> None:
    model, tokenizer = load(str(path))
    requests = {text: ask(text, 8) for text in ("Hello!", "A longer question, by some words.", "?")}
    answers = drain(engine, requests)
    for text in requests:
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
        assert answers[text][0] == generate(model, tokenizer, prompt, max_tokens=8)


def test_the_system_message_is_read_once_for_later_conversations(engine: TextEngine) -> None:
    first = run(engine, with_system("One"))
    second = run(engine, with_system("Two, and more"))
    assert first[1].usage.cached_tokens == 0
    assert second[1].usage.cached_tokens > len(SYSTEM.content)
    engine.reset()
    assert run(engine, with_system("Two, and more"))[0] == second[0]


def test_the_same_prompt_again_is_answered_alike(engine: TextEngine) -> None:
    assert run(engine, with_system("One"))[0] == run(engine, with_system("One"))[0]


def test_simultaneous_requests_with_one_prefix_are_all_answered(engine: TextEngine) -> None:
    answers = drain(engine, {str(n): with_system(f"Question {n}") for n in range(4)})
    engine.reset()
    for n in range(4):
        assert run(engine, with_system(f"Question {n}"))[0] == answers[str(n)][0]


def test_its_rows_are_weighed(engine: TextEngine) -> None:
    cost = engine._model.cost
    assert cost.fixed > 0
    assert cost.of(600) > cost.of(100) > cost.fixed
