"""
mlx-lm's own loops, in a process of their own: no server, no prompt cache.

`python -m benchmarks.bare batch|stream MODEL` reads loads from stdin and writes their answers to stdout, a line of JSON
each.
"""

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from time import perf_counter
from typing import Any

from mlx_mcp.engines.blas import load_fast_blas

PREFILL_ROWS = 8
"""The library's default."""


class Row:
    """One request on its way."""

    def __init__(self, sent: float, prompt: list[int]) -> None:
        self._answer: dict[str, Any] = {"sent": sent, "prompt_tokens": len(prompt)}
        self._arrivals: list[float] = []

    def token(self, finish: str | None) -> None:
        self._arrivals.append(perf_counter())
        if finish:
            self._answer |= {"ended": self._arrivals[-1], "finish": finish, "answer_tokens": len(self._arrivals)}

    def answer(self) -> dict[str, Any]:
        return self._answer | {"arrivals": self._arrivals}


def batch(model: Any, tokenizer: Any, prompts: list[list[int]], load: dict[str, Any]) -> list[Row]:
    """
    Continuous batching, `streams` rows at a time. All prompts are known to the batch from the start, which suits it
    best; a request's clock begins when a row ends for it, as it does for a client that has so many streams.
    """
    streams = load["streams"]
    generator = _module("mlx_lm.generate").BatchGenerator(
        model,
        stop_tokens=[[token] for token in tokenizer.eos_token_ids],
        sampler=_sampler(load),
        completion_batch_size=streams,
        prefill_batch_size=min(PREFILL_ROWS, streams),
    )
    began = perf_counter()
    uids: list[int] = generator.insert(prompts, max_tokens=[load["answer_tokens"]] * len(prompts))
    rows = {uid: Row(began, prompt) for uid, prompt in zip(uids[:streams], prompts, strict=False)}
    later = iter(zip(uids[streams:], prompts[streams:], strict=True))
    ended = 0
    while ended < len(prompts):
        for response in generator.next_generated():
            rows[response.uid].token(response.finish_reason)
            if response.finish_reason:
                ended += 1
                if (following := next(later, None)) is not None:
                    rows[following[0]] = Row(perf_counter(), following[1])
    generator.close()
    return list(rows.values())


def stream(model: Any, tokenizer: Any, prompts: list[list[int]], load: dict[str, Any]) -> list[Row]:
    """One request after the other."""
    generate = _module("mlx_lm").stream_generate
    rows: list[Row] = []
    for prompt in prompts:
        rows.append(row := Row(perf_counter(), prompt))
        for response in generate(model, tokenizer, prompt, max_tokens=load["answer_tokens"], sampler=_sampler(load)):
            row.token(response.finish_reason)
    return rows


LOOPS: dict[str, Callable[..., list[Row]]] = {"batch": batch, "stream": stream}


def _sampler(load: dict[str, Any]) -> Any:
    return _module("mlx_lm.sample_utils").make_sampler(temp=load["temperature"]) if load["temperature"] else None


def _module(name: str) -> Any:
    """Imported where it is used, since MLX must come after the BLAS. It has few types."""
    return import_module(name)


def main() -> None:
    loop, path = LOOPS[sys.argv[1]], sys.argv[2]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints
    load_fast_blas()
    mx = _module("mlx.core")
    model, tokenizer, *_ = _module("mlx_lm").load(path)
    mx.eval(model.parameters())
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        load = json.loads(line)
        mx.random.seed(load["seed"])
        prompts = [
            list(tokenizer.apply_chat_template(conversation, add_generation_prompt=True))
            for conversation in load["conversations"]
        ]
        rows = loop(model, tokenizer, prompts, load)
        answers.write(json.dumps([row.answer() for row in rows]) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
