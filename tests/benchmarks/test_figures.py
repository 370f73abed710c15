"""What answers and pairs come to."""

import pytest

from benchmarks.figures import fold, percentile, ratio, ratios, side, spread
from benchmarks.load import Answer


def answer(sent: float, *arrivals: float, **more: object) -> Answer:
    options = {"ended": arrivals[-1] if arrivals else sent, "finish": "length", "answer_tokens": len(arrivals)}
    return Answer(sent=sent, arrivals=arrivals, **(options | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([], 50, None), ([3], 95, 3), ([4, 1, 3, 2], 50, 2.5), ([1, 2, 3, 4, 5], 95, 4.8), ([1, 2], 100, 2)],
)
def test_percentile(values: list[float], percent: float, expected: float | None) -> None:
    assert percentile(values, percent) == (expected if expected is None else pytest.approx(expected))


def test_spread_and_ratio_leave_out_what_was_not_measured() -> None:
    assert spread([3, None, 1, 2]) == {"median": 2, "min": 1, "max": 3}
    assert spread([None]) is None
    assert ratio(1, 2) == 0.5
    assert ratio(None, 2) is ratio(1, None) is ratio(1, 0) is None


def test_a_run_is_folded_from_its_answers() -> None:
    run = fold([answer(0, 1, 1.5, 3, prompt_tokens=10, cached_tokens=4), answer(1, 2, 4, problems=("reset",))])
    assert (run.requests, run.completed, run.answer_tokens, run.answer_tokens_least) == (2, 2, 5, 2)
    assert run.wall_s == 4
    assert run.tokens_per_s == 5 / 4
    assert run.ttft_p50_s == 1
    assert run.gap_p50_s == 1.5
    assert (run.prompt_tokens, run.cached_tokens) == (10, 4)
    assert run.problems == {"reset": 1}
    assert run.finish == {"length": 2}


def test_tokens_of_an_answer_that_was_cut_short_do_not_count_but_its_time_does() -> None:
    run = fold([answer(0, 1, 2), answer(0, 1, 8, finish=None, problems=("cut short",))])
    assert (run.completed, run.answer_tokens) == (1, 2)
    assert run.tokens_per_s == 2 / 8


def test_a_run_without_an_answer_has_no_figures() -> None:
    run = fold([answer(0, finish=None, problems=("refused",))])
    assert (run.tokens_per_s, run.ttft_p50_s, run.gap_p95_s) == (0, None, None)


def test_ratios_are_those_of_each_pair() -> None:
    runs = [(fold([answer(0, speed)]), fold([answer(0, 1)])) for speed in (1, 2, 4)]
    compared = ratios(runs)
    assert compared["ttft_p50_s"] == {"median": 2, "min": 1, "max": 4}
    assert compared["tokens_per_s"] == {"median": 0.5, "min": 0.25, "max": 1}
    assert compared["cpu_s_per_request"] is None
    assert side([a for a, _ in runs])["ttft_p50_s"] == {"median": 2, "min": 1, "max": 4}
