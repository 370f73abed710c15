"""One engine on the tiny model for all tests, without a memory of the test before. MLX is set up first."""

from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from mlx_mcp.engines.base import EngineOptions
from mlx_mcp.engines.blas import load_fast_blas

load_fast_blas()

from mlx_lm import generate, load  # noqa: E402

from mlx_mcp.engines.text import TextEngine  # noqa: E402
from tests import tiny  # noqa: E402

SLOTS = 4
Reference = Callable[..., str]
"""(text, max_tokens, messages before it) -> what mlx-lm itself answers, greedily"""


def options(path: Path, context_length: int | None = 8192, slots: int = SLOTS) -> EngineOptions:
    return EngineOptions(
        path=path,
        context_length=context_length,
        slots=slots,
        default_max_tokens=16,
        prompt_cache_bytes=1 << 28,
    )


@pytest.fixture(scope="session")
def loaded(tiny_model_path: Path) -> Generator[TextEngine]:
    engine = TextEngine(options(tiny_model_path))
    engine.load(lambda _: None)
    yield engine
    engine.unload()


@pytest.fixture
def engine(loaded: TextEngine) -> TextEngine:
    loaded.reset()
    return loaded


Make = Callable[..., TextEngine]


@pytest.fixture
def make_engine(tiny_model_path: Path, tmp_path: Path) -> Generator[Make]:
    """An engine with a context length or a chat template of its own, loaded."""
    made: list[TextEngine] = []

    def make(context_length: int | None = None, **template: str | None) -> TextEngine:
        path = tiny.make(tmp_path / "other", **template) if template else tiny_model_path
        engine = TextEngine(options(path, context_length))
        engine.load(lambda _: None)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.unload()


@pytest.fixture(scope="session")
def reference(tiny_model_path: Path) -> Reference:
    model, tokenizer = load(str(tiny_model_path))

    def answer(text: str, max_tokens: int) -> str:
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
        return generate(model, tokenizer, prompt, max_tokens=max_tokens)

    return answer
