"""Against plain numpy. The logits are those of one row."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_mcp.engines.text.penalties import penalties
from mlx_mcp.types import Sampling

Logits = np.ndarray[tuple[int], np.dtype[np.float32]]

PROMPT = [1, 1, 2]
ANSWER = [3, 2, 3, 3, 5]
LOGITS = np.array([0.5, -1.5, 2.0, 3.0, -0.25, -4.0, 1.0], np.float32)


def penalised(sampling: Sampling, answer: list[int] = ANSWER, logits: Logits = LOGITS) -> Logits:
    row = mx.array(logits)[None]
    for processor in penalties(sampling, len(PROMPT)):
        row = processor(mx.array(PROMPT + answer), row)
    assert row.shape == (1, len(logits))
    return np.array(row[0])


def counts(tokens: list[int]) -> Logits:
    return np.bincount(tokens, minlength=len(LOGITS)).astype(np.float32)


def test_no_penalty_costs_a_step_nothing() -> None:
    assert penalties(Sampling(), 3) == []
    neutral = Sampling(repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
    assert penalties(neutral, 3) == []


@pytest.mark.parametrize("penalty", [0.5, -0.5, 2.0])
def test_presence_counts_a_token_of_the_answer_once_and_the_prompt_not(penalty: float) -> None:
    expected = LOGITS - penalty * (counts(ANSWER) > 0)
    np.testing.assert_allclose(penalised(Sampling(presence_penalty=penalty)), expected)


@pytest.mark.parametrize("penalty", [0.5, -0.5, 2.0])
def test_frequency_counts_every_occurrence_in_the_answer_and_the_prompt_not(penalty: float) -> None:
    expected = LOGITS - penalty * counts(ANSWER)
    np.testing.assert_allclose(penalised(Sampling(frequency_penalty=penalty)), expected)


def test_presence_and_frequency_add_up() -> None:
    expected = LOGITS - 0.25 * (counts(ANSWER) > 0) - 0.5 * counts(ANSWER)
    np.testing.assert_allclose(penalised(Sampling(presence_penalty=0.25, frequency_penalty=0.5)), expected)


@pytest.mark.parametrize("penalty", [1.3, 0.8])
def test_repetition_moves_each_token_of_prompt_and_answer_once(penalty: float) -> None:
    seen = counts(PROMPT + ANSWER) > 0
    moved = np.where(LOGITS < 0, LOGITS * penalty, LOGITS / penalty)
    np.testing.assert_allclose(
        penalised(Sampling(repetition_penalty=penalty)), np.where(seen, moved, LOGITS), rtol=1e-6
    )


@pytest.mark.parametrize("sampling", [Sampling(presence_penalty=1.0), Sampling(frequency_penalty=1.0)])
def test_the_first_token_of_an_answer_has_nothing_to_repeat(sampling: Sampling) -> None:
    np.testing.assert_array_equal(penalised(sampling, answer=[]), LOGITS)


def test_all_three_work_together() -> None:
    sampling = Sampling(repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=0.25)
    seen = counts(PROMPT + ANSWER) > 0
    moved = np.where(seen, np.where(LOGITS < 0, LOGITS * 1.5, LOGITS / 1.5), LOGITS)
    expected = moved - 0.5 * (counts(ANSWER) > 0) - 0.25 * counts(ANSWER)
    np.testing.assert_allclose(penalised(sampling), expected, rtol=1e-6)


def test_rows_of_one_batch_have_their_own_logits() -> None:
    """The processors write in place, into a row cut out of the batch."""
    batch = mx.array(np.stack([LOGITS, LOGITS]))
    first = batch[0:1]
    for processor in penalties(Sampling(repetition_penalty=2.0, presence_penalty=1.0), len(PROMPT)):
        first = processor(mx.array(PROMPT + ANSWER), first)
    np.testing.assert_array_equal(np.array(batch), np.stack([LOGITS, LOGITS]))
    assert not np.array_equal(np.array(first[0]), LOGITS)
