"""From a model's settings to its engine."""

import gc
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from mlx_mcp import engines
from mlx_mcp.engines.base import Engine
from mlx_mcp.engines.starters import STARTERS
from mlx_mcp.engines.thread import EngineThread
from mlx_mcp.errors import ModelUnavailable
from mlx_mcp.settings import ModelSettings, Settings
from mlx_mcp.types import Capability, Loading
from tests import tiny


def served(path: Path, **fields: object) -> ModelSettings:
    return ModelSettings.model_validate({"id": "tiny", "source": str(path), **fields})


def ignore(_: Loading) -> None:
    return


@pytest.mark.parametrize("kind", engines.ENGINES)
def test_every_kind_names_an_engine(kind: str, tiny_model_path: Path) -> None:
    module, _, name = engines.ENGINES[kind].partition(":")
    assert issubclass(getattr(import_module(module), name), Engine)


def test_an_engine_is_opened_without_its_weights_and_knows_what_they_will_weigh(tiny_model_path: Path) -> None:
    engine = engines.open_engine(served(tiny_model_path), Settings(), ignore)
    assert (engine.slots, engine.context_length) == (Settings().max_concurrency, tiny.CONTEXT_LENGTH)
    assert (engine.weights_bytes, engine.estimated_bytes > 0) == (0, True)
    engine.load(ignore)
    assert engine.weights_bytes == pytest.approx(engine.estimated_bytes, rel=0.05)
    assert engine.step() == []
    engine.unload()


@pytest.mark.parametrize(
    ("of_model", "of_server", "expected"),
    [
        (None, None, tiny.CONTEXT_LENGTH),
        (100, None, 100),
        (None, 200, 200),
        (300, 200, 300),
        (10**6, None, tiny.CONTEXT_LENGTH),
    ],
)
def test_the_context_is_the_models_own_unless_the_settings_make_it_smaller(
    tiny_model_path: Path, of_model: int | None, of_server: int | None, expected: int
) -> None:
    settings = Settings(context_length=of_server)
    engine = engines.open_engine(served(tiny_model_path, context_length=of_model), settings, ignore)
    assert engine.context_length == expected
    engine.unload()


def test_a_models_own_slots_go_before_the_servers(tiny_model_path: Path) -> None:
    engine = engines.open_engine(served(tiny_model_path, max_concurrency=3), Settings(max_concurrency=7), ignore)
    assert engine.slots == 3
    engine.unload()


async def test_a_load_that_raises_gives_back_what_it_had_read(
    tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlx.core as mx

    monkeypatch.setattr("mlx_lm.models.llama.Model.make_cache", lambda _: [object()], raising=False)
    gc.collect()
    before = mx.get_active_memory()
    with pytest.raises(ModelUnavailable, match="cannot be batched") as held:
        async with EngineThread(
            "tiny", lambda report: engines.open_engine(served(tiny_model_path), Settings(), report), ignore
        ):
            pytest.fail("it cannot be loaded")
    assert held.value.__traceback__ is not None
    assert mx.get_active_memory() <= before  # although somebody has the error in hand


def test_without_models_the_starters_are_served() -> None:
    assert [model.id for model in engines.served(Settings())] == list(STARTERS)
    (one,) = engines.served(Settings(models=("org/model",)))  # type: ignore[arg-type]
    assert one.id == "org/model"


def test_describing_reads_the_models_files_and_never_raises(tiny_model_path: Path, tmp_path: Path) -> None:
    info = engines.describe(served(tiny_model_path), Settings())
    assert (info.family, info.context_length) == ("llama", tiny.CONTEXT_LENGTH)
    assert Capability.CHAT in info.capabilities
    starter = engines.describe(ModelSettings.model_validate(f"starter:{next(iter(STARTERS))}"), Settings())
    assert starter.family == "llama"
    assert engines.describe(served(tmp_path), Settings()).family is None
    assert engines.describe(served(tmp_path / "absent", kind="text"), Settings()).kind == "text"


def test_describing_imports_no_mlx(tiny_model_path: Path) -> None:
    program = (
        "import sys; from mlx_mcp import engines; from mlx_mcp.settings import ModelSettings, Settings\n"
        f"assert engines.describe(ModelSettings(id='x', source={str(tiny_model_path)!r}), Settings()).family\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('mlx', 'mlx_lm', 'transformers')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
