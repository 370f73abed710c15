"""What a model directory's own files say about it. Imports no MLX: a listing must be quick."""

import ast
import json
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from mlx_mcp.errors import ModelUnavailable
from mlx_mcp.types import Capability, ModelInfo

Json = Mapping[str, object]

EXPECTED = "A text model's directory has config.json, tokenizer.json (or tokenizer.model) and model*.safetensors."
WEIGHTS = "model*.safetensors"
"""What mlx-lm loads. Other *.safetensors may lie beside them: adapters, the same weights in their maker's layout."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "*.tiktoken", "tiktoken.model")
OTHER_SENSES = {"vision_config": "pictures", "audio_config": "sound", "audio_encoder": "sound"}
"""Keys of a config that tell of an encoder, and what it reads."""
CONTEXT_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
LONGEST_CONTEXT = 100_000_000
"""Tokenizers that know no limit say 1e30."""


def inspect(path: Path, kind: str | None = None) -> ModelInfo:
    """
    What the directory says of itself; `kind` overrides what it says of its kind.

    Raises: ModelUnavailable, saying why no engine can serve the directory.
    """
    if not path.is_dir():
        raise ModelUnavailable(f"There is no directory {path}.")
    config = _config(path)
    family = config.get("model_type")
    if not isinstance(family, str):
        raise ModelUnavailable(f"{path}/config.json has no model_type. {EXPECTED}")
    if kind is None and not _mlx_lm_knows(config, family):
        sense = next((f" It reads {OTHER_SENSES[key]} ({key})." for key in OTHER_SENSES if key in config), "")
        raise ModelUnavailable(
            f"{path} is of type {family!r}, which no engine can serve: mlx-lm has no such text model.{sense}"
        )
    if not any(next(path.glob(pattern), None) for pattern in TOKENIZERS):
        raise ModelUnavailable(f"{path} has no tokenizer. {EXPECTED}")
    return ModelInfo(
        kind=kind or "text",
        family=family,
        context_length=_context_length(path, config),
        quantization=_quantization(config),
        size_bytes=_size_bytes(path),
        capabilities=frozenset({Capability.CHAT}),
    )


def _config(path: Path) -> Json:
    if (path / "config.json").exists():
        return _json(path / "config.json")
    if next(path.iterdir(), None) is None:
        why = "is empty"
    elif next(path.glob("*.gguf"), None):
        why = "holds GGUF files, which MLX engines do not serve, and no config.json"
    else:
        why = "has no config.json"
    raise ModelUnavailable(f"{path} {why}. {EXPECTED}")


def _json(file: Path) -> Json:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{file} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise ModelUnavailable(f"{file} does not hold a JSON object.")
    return cast("Json", content)


def _mlx_lm_knows(config: Json, family: str) -> bool:
    if "model_file" in config:
        return True  # It brings its own code, which mlx-lm refuses with a good message, or runs if it may.
    if not (package := _mlx_lm()):
        raise ModelUnavailable("mlx-lm is not installed: `pip install mlx-lm`.")
    by_architecture = _table(package, "MODEL_ARCHITECTURE_REMAPPING")
    named = config.get("architectures")
    architectures = cast("list[object]", named) if isinstance(named, list) else [named]
    found = (by_architecture.get((family, architecture)) for architecture in architectures)
    name = next(filter(None, found), None) or _table(package, "MODEL_REMAPPING").get(family, family)
    source = package / "models" / f"{Path(str(name)).name}.py"
    # Modules without ModelArgs are parts of models.
    return source.is_file() and "ModelArgs" in source.read_text(encoding="utf-8")


def _mlx_lm() -> Path | None:
    spec = find_spec("mlx_lm")  # Looks for it without importing it.
    return Path(spec.origin).parent if spec and spec.origin else None


@cache
def _table(package: Path, name: str) -> Mapping[object, object]:
    """A dict that mlx_lm/utils.py has in its source; empty if it has none of that name."""
    for statement in ast.parse((package / "utils.py").read_text(encoding="utf-8")).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=found)], value=ast.Dict() as value) if found == name:
                return cast("Mapping[object, object]", ast.literal_eval(value))
            case _:
                pass
    return {}


def _context_length(path: Path, config: Json) -> int | None:
    for part in (config, _part(config, "text_config")):
        for key in CONTEXT_LENGTHS:
            if isinstance(length := part.get(key), int) and length > 0:
                return length
    tokenizer = path / "tokenizer_config.json"
    longest = _json(tokenizer).get("model_max_length") if tokenizer.is_file() else None
    return int(longest) if isinstance(longest, int | float) and 0 < longest < LONGEST_CONTEXT else None


def _quantization(config: Json) -> str | None:
    for key in ("quantization", "quantization_config"):
        quantization = _part(config, key)
        if isinstance(bits := quantization.get("bits"), int):
            return f"{bits}-bit"
        if isinstance(method := quantization.get("quant_method"), str):
            return method
    for part in (config, _part(config, "text_config")):
        for key in ("dtype", "torch_dtype"):
            if isinstance(dtype := part.get(key), str):
                return dtype
    return None


def _part(config: Json, key: str) -> Json:
    part = config.get(key)
    return cast("Json", part) if isinstance(part, dict) else {}


def _size_bytes(path: Path) -> int:
    files = {file.name: file for file in path.glob(WEIGHTS)}
    index = path / "model.safetensors.index.json"
    shards = _part(_json(index), "weight_map").values() if index.is_file() else ()
    missing = sorted({str(shard) for shard in shards} - files.keys())
    # A link whose target is gone is missing too.
    missing += [name for name, file in files.items() if not file.is_file()]
    if missing:
        raise ModelUnavailable(f"{path} is incomplete: {missing[0]} is missing. Download the model again.")
    if not files:
        raise ModelUnavailable(f"{path} has no weights. {EXPECTED}")
    return sum(file.stat().st_size for file in files.values())
