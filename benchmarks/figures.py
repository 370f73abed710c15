"""What many answers, and many pairs, come to."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from benchmarks.load import Answer

COMPARED = (
    "tokens_per_s",
    "ttft_p50_s",
    "ttft_p95_s",
    "gap_p50_s",
    "gap_p95_s",
    "cpu_s_per_request",
    "peak_rss_bytes",
)
"""The figures of which a pair has a ratio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one run of one target. None where there was nothing to measure."""

    requests: int
    completed: int
    problems: dict[str, int]
    """Each try that failed counts, so that a request which was sent again may be in here and in `completed`."""
    finish: dict[str, int]
    prompt_tokens: int
    cached_tokens: int
    answer_tokens: int
    answer_tokens_least: int
    wall_s: float
    """From the first request to the end of the last answer."""
    tokens_per_s: float
    """Tokens of whole answers, by the wall."""
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    gap_p50_s: float | None
    """Between two pieces of text of one answer."""
    gap_p95_s: float | None
    cpu_s: float | None = None
    """Of the target's process, its children too."""
    cpu_s_per_request: float | None = None
    client_cpu_s: float | None = None
    peak_rss_bytes: int | None = None


def fold(answers: Sequence[Answer], **more: Any) -> Figures:
    """Times to a first token count from the first try, whole answer or not; what was never answered has none."""
    whole = [answer for answer in answers if answer.finish]
    firsts = [answer.arrivals[0] - answer.sent for answer in answers if answer.arrivals]
    gaps = [later - earlier for answer in whole for earlier, later in pairwise(answer.arrivals)]
    wall = max((a.ended for a in answers), default=0.0) - min((a.sent for a in answers), default=0.0)
    tokens = sum(answer.answer_tokens for answer in whole)
    return Figures(
        requests=len(answers),
        completed=len(whole),
        problems=dict(Counter(problem for answer in answers for problem in answer.problems)),
        finish=dict(Counter(answer.finish for answer in answers if answer.finish)),
        prompt_tokens=sum(answer.prompt_tokens for answer in whole),
        cached_tokens=sum(answer.cached_tokens for answer in whole),
        answer_tokens=tokens,
        answer_tokens_least=min((answer.answer_tokens for answer in whole), default=0),
        wall_s=wall,
        tokens_per_s=tokens / wall if wall else 0.0,
        ttft_p50_s=percentile(firsts, 50),
        ttft_p95_s=percentile(firsts, 95),
        gap_p50_s=percentile(gaps, 50),
        gap_p95_s=percentile(gaps, 95),
        **more,
    )


def percentile(values: Iterable[float], percent: float) -> float | None:
    """Interpolated between the two nearest values. None for no values."""
    ordered = sorted(values)
    if not ordered:
        return None
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def spread(values: Iterable[float | None]) -> dict[str, float] | None:
    """Median, least and most of those that are there."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"median": statistics.median(known), "min": min(known), "max": max(known)}


def ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def side(runs: Sequence[Figures]) -> dict[str, dict[str, float] | None]:
    """Each compared figure's spread over the runs of one target."""
    return {name: spread(getattr(run, name) for run in runs) for name in COMPARED}


def ratios(pairs: Sequence[tuple[Figures, Figures]]) -> dict[str, dict[str, float] | None]:
    """Each compared figure's spread over the pairs' own ratios, first to second."""
    return {name: spread(ratio(getattr(a, name), getattr(b, name)) for a, b in pairs) for name in COMPARED}


def as_row(figures: Figures) -> Mapping[str, Any]:
    return asdict(figures)
