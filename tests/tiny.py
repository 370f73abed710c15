"""
A llama of two layers with random weights, made on the spot: the same each time, a fraction of a second to load.

It speaks single bytes, and no sense.
"""

import json
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.llama import Model, ModelArgs
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
EOS = "<|im_end|>"
CONTEXT_LENGTH = 2048
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
"""One for each byte."""
SAID = {letter for letter in LETTERS if letter.isascii()} | {"Ġ", "Ċ"}
"""What the greedy model says: printable ASCII, the blank and the end of a line."""
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": len(LETTERS) + len(SPECIALS),
    "max_position_embeddings": CONTEXT_LENGTH,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "eos_token_id": len(LETTERS) + SPECIALS.index(EOS),
}
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('Unknown role ' + message['role']) }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make(path: Path, *, chat_template: str | None = CHAT_TEMPLATE) -> Path:
    """Write the model's directory, with everything that a downloaded one has."""
    path.mkdir(parents=True, exist_ok=True)
    _json(path / "config.json", CONFIG)
    _json(path / "generation_config.json", {"eos_token_id": CONFIG["eos_token_id"], "do_sample": False})
    template = {"chat_template": chat_template} if chat_template else {}
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "model_max_length": CONTEXT_LENGTH,
    }
    _json(path / "tokenizer_config.json", tokenizer_config | template)
    _tokenizer().save(str(path / "tokenizer.json"))
    mx.save_safetensors(str(path / "model.safetensors"), _weights())
    return path


def _tokenizer() -> Tokenizer:
    vocabulary = {letter: i for i, letter in enumerate(LETTERS)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    return tokenizer


def _weights() -> dict[str, mx.array]:
    shapes = tree_flatten(Model(ModelArgs.from_dict(CONFIG)).parameters())
    keys = mx.random.split(mx.random.key(1), len(shapes))
    weights = {
        name: mx.ones(value.shape) if value.ndim == 1 else 0.3 * mx.random.normal(value.shape, key=key)
        for (name, value), key in zip(shapes, keys, strict=True)
    }
    said = mx.array([letter in SAID for letter in (*LETTERS, *SPECIALS)])
    weights["lm_head.weight"] = mx.where(said[:, None], weights["lm_head.weight"], 0.0)
    return weights


def _json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")
