"""Against plain numpy. Keys are fixed by seed and position, so that what is drawn is the same each time."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_mcp.engines.text.sampling import Draw, Shape, draw, shape_of, with_defaults
from mlx_mcp.types import Sampling

Row = np.ndarray[tuple[int], np.dtype[np.float64]]

LOGITS = np.array([2.0, -1.0, 1.5, 0.3, 0.2, -3.0, 1.9, 0.0, -0.5, 1.0])
N = 20_000


def shape(**settings: Any) -> Shape:
    return shape_of(with_defaults(Sampling(**({"temperature": 1.0} | settings)), {}))


def softmax(row: Row) -> Row:
    odds = np.exp(row - row.max())
    return odds / odds.sum()


def expected(temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0) -> Row:
    """The distribution: filtered as it stands, then tempered, in mlx-lm's order."""
    p = softmax(LOGITS)
    order = np.argsort(-p)
    kept = np.ones(len(p), bool)
    kept[order[1:][np.cumsum(p[order])[:-1] >= top_p]] = False
    kept &= p >= min_p * p.max()
    if top_k:
        within = [token for token in order if kept[token]][:top_k]
        kept = np.isin(np.arange(len(p)), within)
    return softmax(np.where(kept, LOGITS / temperature, -np.inf))


def frequencies(wanted: Shape, logits: Row = LOGITS) -> Row:
    rows = mx.broadcast_to(mx.array(logits, mx.float32), (N, len(logits)))
    tokens = draw(rows, [Draw(wanted, seed=5)] * N, range(N))
    return np.bincount(np.array(tokens), minlength=len(logits)) / N


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 3},
        {"top_k": 1},
        {"top_p": 0.5},
        {"top_p": 0.9},
        {"top_p": 0.01},
        {"min_p": 0.3},
        {"min_p": 1.0},
        {"temperature": 0.7, "top_p": 0.9, "top_k": 4, "min_p": 0.05},
    ],
)
def test_tokens_are_drawn_from_the_filtered_distribution(settings: dict[str, Any]) -> None:
    p = expected(**settings)
    drawn = frequencies(shape(**settings))
    assert (drawn[p == 0] == 0).all()
    assert (np.abs(drawn - p) < 4 * np.sqrt(p / N) + 1e-9).all()


@pytest.mark.parametrize("settings", [{"top_k": 4}, {"top_k": 5}, {"top_k": 10**9}, {"top_p": 1.0}, {"min_p": 0.0}])
def test_a_filter_that_lets_everything_through_drops_nothing(settings: dict[str, Any]) -> None:
    drawn = frequencies(shape(**settings), np.zeros(4))
    assert (np.abs(drawn - 0.25) < 0.02).all()


def test_top_k_is_no_larger_than_the_vocabulary() -> None:
    assert (frequencies(shape(top_k=len(LOGITS) + 1)) == frequencies(shape())).all()


@pytest.mark.parametrize("temperature", [0.0, 1e-9, 1e-300])
def test_temperature_zero_or_next_to_it_takes_the_likeliest(temperature: float) -> None:
    assert frequencies(shape(temperature=temperature))[0] == 1


def test_the_logits_need_not_be_normalised() -> None:
    for settings in ({"top_p": 0.9}, {"min_p": 0.2}, {"top_k": 3}):
        assert (frequencies(shape(**settings), LOGITS + 100) == frequencies(shape(**settings))).all()


def test_rows_of_all_settings_are_drawn_together_as_alone() -> None:
    logits = mx.array(np.random.default_rng(0).normal(size=(8, 50)) * 2, mx.float32)
    greedy, hot, narrow = shape(temperature=0.0), shape(), shape(top_k=5)
    draws = [Draw(each, seed) for seed, each in enumerate([hot, greedy, narrow, hot, narrow, greedy, hot, hot])]
    together = draw(logits, draws, list(range(8)))
    alone = [draw(logits[i : i + 1], [draws[i]], [i]).item() for i in range(8)]
    assert together.tolist() == alone
    assert together[1].item() == mx.argmax(logits[1]).item()


def test_the_key_depends_on_seed_and_position_alone() -> None:
    assert Draw(shape(), 7).key(3) == Draw(shape(temperature=0.1, top_k=2), 7).key(3)
    keys = {Draw(shape(), seed).key(position) for seed in range(-50, 50) for position in range(50)}
    assert len(keys) == 100 * 50


@pytest.mark.parametrize("seed", [-1, 0, 2**63, 2**70])
def test_any_seed_gives_a_key_of_two_words(seed: int) -> None:
    assert all(0 <= word < 2**32 for word in Draw(shape(), seed).key(10_000))


def test_neighbouring_positions_are_drawn_independently() -> None:
    rows = mx.zeros((N, 4))
    tokens = np.array(draw(rows, [Draw(shape(), 1)] * N, range(N)))
    pairs = np.bincount(tokens[:-1] * 4 + tokens[1:], minlength=16) / (N - 1)
    assert (np.abs(pairs - 1 / 16) < 0.01).all()


def test_the_default_is_greedy_without_penalties() -> None:
    assert with_defaults(Sampling(), {}) == Sampling(
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        min_p=0.0,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
    )


def test_the_models_generation_config_fills_what_the_request_leaves_open() -> None:
    config = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.05, "do_sample": True}
    filled = with_defaults(Sampling(top_k=5), config)
    assert (filled.temperature, filled.top_p, filled.top_k, filled.repetition_penalty) == (0.6, 0.95, 5, 1.05)


def test_what_the_request_says_holds_even_if_it_is_zero() -> None:
    config = {"temperature": 0.6, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.2}
    asked = Sampling(temperature=0.0, top_k=0, min_p=0.0, repetition_penalty=1.0)
    filled = with_defaults(asked, config)
    assert (filled.temperature, filled.top_k, filled.min_p, filled.repetition_penalty) == (0.0, 0, 0.0, 1.0)


def test_a_model_that_does_not_sample_is_greedy_whatever_else_it_says_and_keeps_its_penalty() -> None:
    config = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.1}
    filled = with_defaults(Sampling(), config)
    assert (filled.temperature, filled.top_p, filled.top_k, filled.repetition_penalty) == (0.0, 1.0, 0, 1.1)


def test_nulls_in_the_generation_config_say_nothing() -> None:
    filled = with_defaults(Sampling(), {"do_sample": True, "temperature": None, "top_p": None, "top_k": None})
    assert (filled.temperature, filled.top_p, filled.top_k) == (0.0, 1.0, 0)
