import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_mcp.engines.inspection import inspect
from mlx_mcp.errors import ModelUnavailable
from mlx_mcp.types import Capability, ModelInfo

LLAMA = {"model_type": "llama", "max_position_embeddings": 8192, "torch_dtype": "float32"}


def model(path: Path, config: object = LLAMA, **files: object) -> Path:
    """A directory with a config, a tokenizer, 10 bytes of weights, and `files` (NAME_json=...) of JSON."""
    path.mkdir(exist_ok=True)
    content = {"config_json": config, "tokenizer_json": {}} | files
    for name, value in content.items():
        (path / name.replace("_json", ".json")).write_text(json.dumps(value))
    (path / "model.safetensors").write_bytes(b"0123456789")
    return path


def test_a_text_model_is_known_by_its_own_files(tmp_path: Path) -> None:
    assert inspect(model(tmp_path)) == ModelInfo(
        kind="text",
        family="llama",
        context_length=8192,
        quantization="float32",
        size_bytes=10,
        capabilities=frozenset({Capability.CHAT}),
    )


def test_looking_imports_no_mlx(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from mlx_mcp.engines.inspection import inspect\n"
        f"inspect(Path({str(model(tmp_path))!r}))\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('mlx', 'mlx_lm', 'transformers')])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024}, 1024),
        ({"max_seq_len": 2048}, 2048),
        ({"seq_length": 512}, 512),
        ({"n_ctx": 256}, 256),
        ({"text_config": {"max_position_embeddings": 128}}, 128),
        ({"max_position_embeddings": None}, 77),
    ],
)
def test_the_context_length_is_where_the_architecture_keeps_it(
    tmp_path: Path, config: dict[str, object], expected: int
) -> None:
    path = model(tmp_path, {"model_type": "llama", **config}, tokenizer_config_json={"model_max_length": 77})
    assert inspect(path).context_length == expected


def test_a_tokenizer_without_a_limit_tells_no_context_length(tmp_path: Path) -> None:
    path = model(tmp_path, {"model_type": "llama"}, tokenizer_config_json={"model_max_length": 1e30})
    assert inspect(path).context_length is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"quantization": {"group_size": 64, "bits": 4}, "torch_dtype": "bfloat16"}, "4-bit"),
        ({"quantization_config": {"bits": 8}}, "8-bit"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "mxfp4"),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"text_config": {"dtype": "float16"}}, "float16"),
        ({}, None),
    ],
)
def test_the_quantization_is_a_word(tmp_path: Path, config: dict[str, object], expected: str | None) -> None:
    assert inspect(model(tmp_path, {"model_type": "llama", **config})).quantization == expected


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mistral"},  # served by mlx-lm's llama
        {"model_type": "bailing_hybrid", "architectures": ["BailingMoeV3ForCausalLM"]},
        {"model_type": "its_own", "model_file": "model.py"},  # mlx-lm decides about its code
    ],
)
def test_a_model_that_mlx_lm_knows_by_another_name_is_served(tmp_path: Path, config: dict[str, object]) -> None:
    assert inspect(model(tmp_path, config)).family == config["model_type"]


def test_the_size_is_that_of_the_weights_behind_links(tmp_path: Path) -> None:
    path = model(tmp_path / "model")
    blob = tmp_path / "blob"
    (path / "model.safetensors").rename(blob)
    (path / "model.safetensors").symlink_to(blob)
    (path / "consolidated.safetensors").write_bytes(b"the same weights, which mlx-lm does not read")
    assert inspect(path).size_bytes == 10


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "paligemma", "vision_config": {}}, "reads pictures (vision_config"),
        ({"model_type": "qwen2_audio", "audio_config": {}}, "reads sound"),
        ({"model_type": "whisper"}, "of type 'whisper', which no engine can serve"),
        ({"model_type": "cache"}, "of type 'cache', which no engine can serve"),
        ({"model_type": "../utils"}, "no engine can serve"),
        ({}, "has no model_type"),
        ([], "does not hold a JSON object"),
    ],
)
def test_a_model_for_no_engine_is_refused_with_the_reason(tmp_path: Path, config: object, words: str) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        inspect(model(tmp_path, config))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("config.json", "has no config.json. A text model's directory has config.json, tokenizer.json"),
        ("tokenizer.json", "has no tokenizer. A text model's"),
        ("model.safetensors", "has no weights. A text model's"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, lost: str, words: str) -> None:
    path = model(tmp_path)
    (path / lost).unlink()
    with pytest.raises(ModelUnavailable) as caught:
        inspect(path)
    assert words in str(caught.value)


def test_a_missing_piece_of_the_weights_is_named(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    path = model(tmp_path, LLAMA)
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelUnavailable, match=r"incomplete: model-2\.safetensors is missing"):
        inspect(path)


def test_a_link_to_nowhere_is_a_missing_file(tmp_path: Path) -> None:
    path = model(tmp_path)
    (path / "model.safetensors").unlink()
    (path / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(ModelUnavailable, match=r"incomplete: model\.safetensors is missing"):
        inspect(path)


def test_a_directory_that_is_absent_empty_or_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="There is no directory"):
        inspect(tmp_path / "absent")
    with pytest.raises(ModelUnavailable, match="is empty"):
        inspect(tmp_path)
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ModelUnavailable, match="holds GGUF files"):
        inspect(tmp_path)


def test_a_config_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (model(tmp_path) / "config.json").write_text("{")
    with pytest.raises(ModelUnavailable, match=r"config\.json cannot be read: "):
        inspect(tmp_path)
