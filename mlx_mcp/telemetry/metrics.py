"""Jobs as numbers, in Prometheus' terms: an observer of jobs, and what a scrape gets."""

import platform
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from anyio import to_thread
from prometheus_client import CollectorRegistry, Counter, Histogram, Info
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector

from mlx_mcp.state.jobs import Job, Refusal, Status
from mlx_mcp.telemetry.figures import Figures, TakeFigures, families
from mlx_mcp.types import LoadEnded, Loading, Usage

OPEN_METRICS = "application/openmetrics-text"
REFUSED = "refused"
"""Beside the states of jobs: what did not become one."""
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
SECONDS_PER_TOKEN = (
    0.001,
    0.0025,
    0.005,
    0.0075,
    0.01,
    0.015,
    0.02,
    0.03,
    0.05,
    0.075,
    0.1,
    0.15,
    0.25,
    0.5,
    1,
    2.5,
    10,
)
LOAD_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)


class Metrics:
    def __init__(self, models: Iterable[str], take_figures: TakeFigures, *, version: str) -> None:
        """`models`: the ids that become labels; a request for any other has an empty one."""
        self._models = frozenset(models)
        self._take_figures = take_figures
        self._registry = CollectorRegistry()
        self._build = Info("mlx_mcp_build", "What runs here.", registry=self._registry)
        self._build.info({"version": version, "python": platform.python_version()})
        self._requests = self._counter("requests", "Requests, by how they ended.", "door", "kind", "model", "status")
        self._errors = self._counter("errors", "Requests that ended in an error, by its code.", "code", "model")
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts, of requests that succeeded.")
        self._cached = self._counter("cached_tokens", "Those of the prompts' that were in the prompt cache.")
        self._completion = self._counter("completion_tokens", "Tokens of answers, of requests that succeeded.")
        self._lookups = self._counter("prompt_cache_queries", "Prompts looked up, of requests that succeeded.")
        self._hits = self._counter("prompt_cache_hits", "Those of which a beginning was in the prompt cache.")
        self._loads = self._counter("model_loads", "Models brought into memory.")
        self._load_failures = self._counter("model_load_failures", "Models that could not be.")
        self._load = self._histogram("model_load", "How long a load takes.", LOAD_SECONDS)
        self._wait = self._histogram("queue_wait", "From a request to its start, if it starts.", SECONDS)
        self._first = self._histogram(
            "time_to_first_token", "From a request to the first piece of its answer.", SECONDS
        )
        self._pace = self._histogram("time_per_output_token", "Between tokens after the first.", SECONDS_PER_TOKEN)
        self._whole = self._histogram("request_duration", "From a request to its end, if it succeeds.", SECONDS)
        for model in self._models:  # a rate of what has not happened yet is 0, and not absent
            for counter in (self._prompt, self._cached, self._completion, self._lookups, self._hits):
                counter.labels(model)
            for counter in (self._loads, self._load_failures):
                counter.labels(model)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"mlx_mcp_{name}", help_text, labels or ("model",), registry=self._registry)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"mlx_mcp_{name}_seconds", help_text, ("model",), registry=self._registry, buckets=buckets)

    def observe(self, news: Job | Refusal) -> None:
        """An observer: counts a job when it ends."""
        match news:
            case Refusal():
                self._count(news, REFUSED, news.error.code)
            case Job(ended=True):
                self._count(news, news.status.value, news.error_code)
                self._time(news)
            case _:
                pass

    def _label(self, model: str | None) -> str:
        return model if model in self._models else ""

    def _count(self, news: Job | Refusal, status: str, code: str | None) -> None:
        model = self._label(news.model)
        self._requests.labels(news.door.value, news.kind.value, model, status).inc()
        if code:
            self._errors.labels(code, model).inc()

    def _time(self, job: Job) -> None:
        model = self._label(job.model)
        if job.started_at:
            self._wait.labels(model).observe(_seconds(job.created_at, job.started_at))
        if job.first_token_at:
            self._first.labels(model).observe(_seconds(job.created_at, job.first_token_at))
        if job.status is Status.SUCCEEDED and job.finished_at:
            self._whole.labels(model).observe(_seconds(job.created_at, job.finished_at))
            self._use(job, job.usage or Usage())

    def _use(self, job: Job, usage: Usage) -> None:
        model = self._label(job.model)
        self._prompt.labels(model).inc(usage.prompt_tokens)
        self._cached.labels(model).inc(usage.cached_tokens)
        self._completion.labels(model).inc(usage.completion_tokens)
        self._lookups.labels(model).inc()
        self._hits.labels(model).inc(usage.cached_tokens > 0)
        after_the_first = usage.completion_tokens - 1
        if after_the_first > 0 and job.first_token_at and job.finished_at:
            self._pace.labels(model).observe(_seconds(job.first_token_at, job.finished_at) / after_the_first)

    def load_listener(self, model: str) -> Callable[[Loading | LoadEnded], None]:
        """Counts the loads of a model."""

        def listen(news: Loading | LoadEnded) -> None:
            match news:
                case LoadEnded(seconds, ok=True):
                    self._loads.labels(model).inc()
                    self._load.labels(model).observe(seconds)
                case LoadEnded():
                    self._load_failures.labels(model).inc()
                case Loading():
                    pass

        return listen

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """The numbers as they are now, and their content type: OpenMetrics for those who accept it, else plain text."""
        figures = self._take_figures()
        return await to_thread.run_sync(self._render, figures, accept)  # there are thousands of lines

    def _render(self, figures: Figures, accept: str) -> tuple[bytes, str]:
        scrape = _Scrape(self._registry, figures)
        accepted = {offer.partition(";")[0].strip().lower() for offer in accept.split(",")}
        encode, content_type = choose_encoder(OPEN_METRICS if OPEN_METRICS in accepted else "")
        return encode(scrape), content_type


class _Scrape:
    """All metrics at one moment, as something that can be collected."""

    def __init__(self, registry: CollectorRegistry, figures: Figures) -> None:
        self._registry = registry
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            # When a series was created: a metric of its own in plain text, and twice as much to store.
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            if metric.samples:
                yield metric
        yield from families(self._figures)
        yield from ProcessCollector(registry=None).collect()


def _seconds(beginning: datetime, end: datetime) -> float:
    return max(0.0, (end - beginning).total_seconds())  # the wall clock may be set back
