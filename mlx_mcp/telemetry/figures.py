"""What is read at each scrape and not counted as it happens: queues, memory, engines."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFigures:
    """
    One model at this moment. What is None or empty is not known, and is not shown.

    Counts go on over loads and unloads: they begin with the process and never fall.
    """

    model: str
    queued: int
    running: int
    loaded: bool
    slots: int | None = None
    memory_bytes: Mapping[str, int] = field(default_factory=dict[str, int])
    """By what it is used for: weights, caches."""
    evictions: int | None = None
    """Unloads to make room for another model."""
    incidents: int | None = None
    """Engine steps that raised."""
    steps_by_rows: Mapping[int, int] = field(default_factory=dict[int, int])
    """Engine steps by the number of requests that each worked on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    models: tuple[ModelFigures, ...]
    memory_budget_bytes: int | None = None
    """What all models together may use."""
    jobs_lost: int | None = None
    """Jobs that the store will never see."""


TakeFigures = Callable[[], Figures]
"""Called on the event loop, to which what it reads belongs."""


def families(figures: Figures) -> Iterator[Metric]:
    """The figures as Prometheus' metrics."""
    for metric in (*_queues(figures), *_memory(figures), *_engines(figures)):
        if metric.samples:
            yield metric


def _gauge(name: str, help_text: str, values: Mapping[tuple[str, ...], float], *labels: str) -> Metric:
    family = GaugeMetricFamily(f"mlx_mcp_{name}", help_text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counter(name: str, help_text: str, values: Mapping[tuple[str, ...], float], *labels: str) -> Metric:
    family = CounterMetricFamily(f"mlx_mcp_{name}", help_text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _queues(figures: Figures) -> Iterator[Metric]:
    models = figures.models
    yield _gauge("queue_depth", "Requests that wait.", {(m.model,): m.queued for m in models}, "model")
    yield _gauge("running_requests", "Requests in work.", {(m.model,): m.running for m in models}, "model")
    slots = {(m.model,): m.slots for m in models if m.slots is not None}
    yield _gauge("request_slots", "Requests that can be in work at once, in a loaded model.", slots, "model")
    if figures.jobs_lost is not None:
        yield _counter("jobs_lost", "Jobs that the store did not take.", {(): figures.jobs_lost})


def _memory(figures: Figures) -> Iterator[Metric]:
    models = figures.models
    yield _gauge("model_loaded", "1 while the model is in memory.", {(m.model,): m.loaded for m in models}, "model")
    used = {(m.model, purpose): size for m in models for purpose, size in m.memory_bytes.items()}
    yield _gauge("memory_bytes", "Memory, by model and purpose.", used, "model", "purpose")
    if figures.memory_budget_bytes is not None:
        budget = {(): figures.memory_budget_bytes}
        yield _gauge("memory_budget_bytes", "Memory that all models together may use.", budget)
    evictions = {(m.model,): m.evictions for m in models if m.evictions is not None}
    yield _counter("model_evictions", "Unloads to make room for another model.", evictions, "model")


def _engines(figures: Figures) -> Iterator[Metric]:
    models = figures.models
    incidents = {(m.model,): m.incidents for m in models if m.incidents is not None}
    yield _counter("engine_incidents", "Engine steps that raised, and failed the requests in them.", incidents, "model")
    sizes = HistogramMetricFamily("mlx_mcp_batch_size", "Requests that an engine step worked on.", labels=["model"])
    for each in models:
        if each.steps_by_rows:
            sizes.add_metric([each.model], *_histogram(each.steps_by_rows))
    yield sizes


def _histogram(steps_by_rows: Mapping[int, int]) -> tuple[list[tuple[str, float]], float]:
    """Cumulative buckets, and the sum of what was observed."""
    counts = dict(steps_by_rows)  # in one go: an engine's thread may be counting
    buckets = [(str(float(most)), float(sum(n for rows, n in counts.items() if rows <= most))) for most in ROWS]
    return [*buckets, ("+Inf", float(sum(counts.values())))], float(sum(rows * n for rows, n in counts.items()))
