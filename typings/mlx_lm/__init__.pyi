from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

def load(
    path_or_hf_repo: str,
    tokenizer_config: dict[str, Any] | None = None,
    *,
    lazy: bool = False,
    trust_remote_code: bool = False,
) -> tuple[Any, TokenizerWrapper]: ...
