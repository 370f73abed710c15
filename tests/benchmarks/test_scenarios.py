"""Every scenario, on real processes with a tiny model."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import chat

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def measured(tiny_model_path: Path, *arguments: str) -> dict[str, Any]:
    # The tiny model's tokens are bytes, of which the question alone has some eighty.
    model = ["--model", str(tiny_model_path), "--prompt-tokens", "100"]
    return await chat.measure(chat.plan_of([*arguments, *model]))


@pytest.mark.parametrize("against", ["mlx-lm", "bare-batch", "bare-stream"])
async def test_load(tiny_model_path: Path, against: str) -> None:
    streams = "1" if against == "bare-stream" else "4"
    ours, other, ratio = (
        await measured(tiny_model_path, "load", "--against", against, "--streams", streams, "--pairs", "2")
    ).values()
    assert ours["completed"] == other["completed"] == ours["requests"]
    assert ours["answer_tokens"] == other["answer_tokens"] == 24 * ours["requests"]
    assert ratio["tokens_per_s"]["min"] > 0
    assert ours["problems"] == "none"


async def test_connect(tiny_model_path: Path) -> None:
    (ours,) = (await measured(tiny_model_path, "connect", "--streams", "200")).values()
    assert (ours["completed"], ours["problems"]) == (200, "none")


async def test_warm_prefix(tiny_model_path: Path) -> None:
    summary = await measured(tiny_model_path, "warm-prefix", "--pairs", "2")
    assert 0 < summary["ratio"]["median"] < 1


async def test_long_prompt(tiny_model_path: Path) -> None:
    summary = await measured(tiny_model_path, "long-prompt", "--pairs", "1", "--long-prompt-tokens", "1500")
    assert summary["rate_before"]["median"] > 0
    assert summary["long_ttft_s"]["median"] > 0


async def test_second_model(tiny_model_path: Path) -> None:
    summary = await measured(tiny_model_path, "second-model", "--pairs", "2")
    assert summary["ttft_loaded_s"]["median"] > 0


async def test_memory(tiny_model_path: Path) -> None:
    cache = ["--prompt-cache-bytes", str(1 << 20)]
    summary = await measured(tiny_model_path, "memory", "--requests", "20", *cache)
    assert summary["rss_full_bytes"] > 1e6
    assert -1 < summary["growth"] < 1


async def test_cycles(tiny_model_path: Path) -> None:
    summary = await measured(tiny_model_path, "cycles", "--cycles", "3")
    assert "skipped" in summary or summary["rss_end_bytes"] > 1e6
