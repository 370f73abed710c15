"""What is counted, timed and read at a scrape."""

from dataclasses import replace
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlx_mcp.errors import EngineFailed, JobCancelled, JobExpired, ModelUnavailable, QueueFull, UnknownModel
from mlx_mcp.runtime import Runtime
from mlx_mcp.settings import Settings
from mlx_mcp.state.jobs import Job, Refusal
from mlx_mcp.telemetry.figures import Figures, ModelFigures
from mlx_mcp.telemetry.metrics import Metrics
from mlx_mcp.types import Capability, Door, LoadEnded, Loading, Usage
from tests.fakes import EchoEngine, EndlessEngine, Engines
from tests.telemetry.making import ORIGIN, ask


class Samples:
    """What a scrape got."""

    def __init__(self, text: bytes) -> None:
        self.families = list(text_string_to_metric_families(text.decode()))
        self.all = [sample for family in self.families for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float | None:
        """The value of the one sample with these labels and no others, if there is one."""
        found = [s.value for s in self.all if s.name == f"mlx_mcp_{name}" and s.labels == labels]
        assert len(found) <= 1
        return found[0] if found else None

    def labels(self, name: str) -> set[str]:
        """All values that a label has."""
        return {sample.labels[name] for sample in self.all if name in sample.labels}


async def scrape(metrics: Metrics) -> Samples:
    text, _ = await metrics.scrape("")
    return Samples(text)


def job(model: str = "echo") -> Job:
    return Job(kind=Capability.CHAT, model=model, door=Door.MCP)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(["echo"], lambda: Figures(models=()), version="1.2.3")


async def test_a_job_that_succeeds_is_counted_and_timed(runtime: Runtime) -> None:
    done, _ = await runtime.gateway.run(ask("one two"), ORIGIN)
    samples = await scrape(runtime.metrics)
    ended = {"door": "http", "kind": "chat", "model": "echo"}
    assert samples("requests_total", **ended, status="succeeded") == 1
    for counter in ("prompt_tokens_total", "completion_tokens_total"):
        assert samples(counter, model="echo") == 2
    for histogram in ("queue_wait", "time_to_first_token", "time_per_output_token", "request_duration"):
        assert samples(f"{histogram}_seconds_count", model="echo") == 1
        assert samples(f"{histogram}_seconds_bucket", model="echo", le="+Inf") == 1
    assert done.finished_at is not None
    whole = (done.finished_at - done.created_at).total_seconds()
    assert samples("request_duration_seconds_sum", model="echo") == pytest.approx(whole)
    assert samples("model_loads_total", model="echo") == samples("model_load_seconds_count", model="echo") == 1
    assert samples("model_loaded", model="echo") == 1


async def test_a_job_that_fails_is_an_error_with_its_code(runtime: Runtime) -> None:
    with pytest.raises(EngineFailed):
        await runtime.gateway.run(ask("one boom"), ORIGIN)
    samples = await scrape(runtime.metrics)
    assert samples("requests_total", door="http", kind="chat", model="echo", status="failed") == 1
    assert samples("errors_total", code="engine_failed", model="echo") == 1
    assert samples("engine_incidents_total", model="echo") == 1
    assert samples("time_to_first_token_seconds_count", model="echo") == 1
    assert samples("request_duration_seconds_count", model="echo") is None


async def test_a_cancelled_job_is_counted_as_one(runtime: Runtime) -> None:
    async with runtime.gateway.submit(ask("x", "endless"), ORIGIN) as ticket:
        await ticket.admitted()
    with pytest.raises(JobCancelled):
        await ticket.wait()
    samples = await scrape(runtime.metrics)
    assert samples("requests_total", door="http", kind="chat", model="endless", status="cancelled") == 1
    assert samples("errors_total", code="cancelled", model="endless") == 1


async def test_a_full_queue_is_seen_in_its_depth_and_in_what_it_refuses(runtime: Runtime, echo: EchoEngine) -> None:
    tickets = [runtime.gateway.submit(ask("wait"), ORIGIN) for _ in range(3)]
    await tickets[0].admitted()
    with pytest.raises(QueueFull):
        runtime.gateway.submit(ask("x"), ORIGIN)
    samples = await scrape(runtime.metrics)
    assert (samples("queue_depth", model="echo"), samples("running_requests", model="echo")) == (2, 1)
    assert samples("request_slots", model="echo") == 1
    assert samples("requests_total", door="http", kind="chat", model="echo", status="refused") == 1
    assert samples("errors_total", code="queue_full", model="echo") == 1
    echo.gate.set()
    for ticket in tickets:
        await ticket.wait()
    assert (await scrape(runtime.metrics))("queue_depth", model="echo") == 0


async def test_an_expired_job_is_counted_as_one(settings: Settings, endless: EndlessEngine) -> None:
    short = settings.model_copy(update={"queue_timeout": 0.05})
    async with Engines(endless=endless).runtime(short) as runtime:
        with pytest.raises(JobExpired):
            await runtime.gateway.run(ask("x", "endless"), ORIGIN)
        samples = await scrape(runtime.metrics)
    assert samples("requests_total", door="http", kind="chat", model="endless", status="expired") == 1
    assert samples("errors_total", code="deadline_exceeded", model="endless") == 1


async def test_a_load_that_fails_is_counted(runtime: Runtime) -> None:
    with pytest.raises(ModelUnavailable):
        await runtime.gateway.run(ask("x", "missing"), ORIGIN)
    samples = await scrape(runtime.metrics)
    assert samples("model_load_failures_total", model="missing") == 1
    assert samples("model_loads_total", model="missing") == 0
    assert samples("model_loaded", model="missing") == 0


async def test_a_model_that_is_not_served_makes_no_label(runtime: Runtime) -> None:
    for name in ("nope", "nope either"):
        with pytest.raises(UnknownModel):
            runtime.gateway.submit(ask("x", name), ORIGIN)
    samples = await scrape(runtime.metrics)
    assert samples("requests_total", door="http", kind="chat", model="", status="refused") == 2
    assert samples("errors_total", code="model_not_found", model="") == 2
    assert samples.labels("model") == {"", "echo", "endless", "missing"}


async def test_two_runtimes_in_one_process_share_no_numbers(
    runtime: Runtime, settings: Settings, endless: EndlessEngine
) -> None:
    async with Engines(echo=EchoEngine(), endless=endless).runtime(settings) as other:
        await other.gateway.run(ask("one"), ORIGIN)
        counted = {"door": "http", "kind": "chat", "model": "echo", "status": "succeeded"}
        assert (await scrape(other.metrics))("requests_total", **counted) == 1
        assert (await scrape(runtime.metrics))("requests_total", **counted) is None


async def test_what_has_not_happened_yet_is_0_for_every_model(runtime: Runtime) -> None:
    samples = await scrape(runtime.metrics)
    for model in ("echo", "endless", "missing"):
        for counter in ("prompt_tokens", "completion_tokens", "prompt_cache_hits", "model_loads"):
            assert samples(f"{counter}_total", model=model) == 0
        assert samples("queue_depth", model=model) == 0


async def test_the_pace_is_that_of_the_tokens_after_the_first(metrics: Metrics) -> None:
    speaking = job().started().first_token()
    assert speaking.first_token_at is not None
    done = speaking.succeeded(Usage(prompt_tokens=9, completion_tokens=5, cached_tokens=4), "stop")
    metrics.observe(replace(done, finished_at=speaking.first_token_at + timedelta(seconds=2)))
    samples = await scrape(metrics)
    assert samples("time_per_output_token_seconds_sum", model="echo") == pytest.approx(0.5)
    assert samples("cached_tokens_total", model="echo") == 4
    assert samples("prompt_cache_queries_total", model="echo") == 1
    assert samples("prompt_cache_hits_total", model="echo") == 1


async def test_one_token_has_no_pace_and_a_cold_prompt_no_hit(metrics: Metrics) -> None:
    metrics.observe(job().started().first_token().succeeded(Usage(prompt_tokens=9, completion_tokens=1), "length"))
    samples = await scrape(metrics)
    assert samples("time_per_output_token_seconds_count", model="echo") is None
    assert samples("prompt_cache_hits_total", model="echo") == 0


async def test_a_clock_that_is_set_back_makes_no_negative_times(metrics: Metrics) -> None:
    started = job().started()
    done = started.succeeded(Usage(), "stop")
    metrics.observe(replace(done, finished_at=started.created_at - timedelta(hours=1)))
    samples = await scrape(metrics)
    assert samples("request_duration_seconds_sum", model="echo") == 0


async def test_only_the_end_of_a_job_is_counted(metrics: Metrics) -> None:
    running = job().started()
    for state in (job(), running, running.first_token()):
        metrics.observe(state)
    samples = await scrape(metrics)
    assert not [sample for sample in samples.all if sample.name == "mlx_mcp_requests_total"]


async def test_jobs_and_refusals_of_another_model_have_an_empty_label(metrics: Metrics) -> None:
    metrics.observe(job("other").started().failed(EngineFailed()))
    metrics.observe(Refusal(kind=Capability.CHAT, model="other", door=Door.CLI, error=UnknownModel()))
    assert (await scrape(metrics)).labels("model") == {"", "echo"}


async def test_loads_are_timed_and_their_failures_counted(metrics: Metrics) -> None:
    listen = metrics.load_listener("echo")
    for news in (Loading("reading", 1, 2), LoadEnded(4), LoadEnded(9, ok=False)):
        listen(news)
    samples = await scrape(metrics)
    assert (samples("model_loads_total", model="echo"), samples("model_load_failures_total", model="echo")) == (1, 1)
    assert samples("model_load_seconds_sum", model="echo") == 4


async def test_the_build_is_told(metrics: Metrics) -> None:
    (build,) = [sample for sample in (await scrape(metrics)).all if sample.name == "mlx_mcp_build_info"]
    assert (build.value, build.labels["version"]) == (1, "1.2.3")


@pytest.fixture
async def figures() -> Samples:
    known = ModelFigures(
        model="known",
        queued=3,
        running=2,
        loaded=True,
        slots=8,
        memory_bytes={"weights": 1000, "caches": 10},
        evictions=4,
        incidents=1,
        steps_by_rows={1: 10, 2: 5, 3: 1},
    )
    unknown = ModelFigures(model="unknown", queued=0, running=0, loaded=False)
    taken = Figures(models=(known, unknown), memory_budget_bytes=5000, jobs_lost=6)
    return await scrape(Metrics([], lambda: taken, version="1"))


async def test_figures_are_read_at_the_scrape(figures: Samples) -> None:
    assert figures("memory_bytes", model="known", purpose="weights") == 1000
    assert figures("memory_bytes", model="known", purpose="caches") == 10
    assert figures("memory_budget_bytes") == 5000
    assert figures("model_evictions_total", model="known") == 4
    assert figures("engine_incidents_total", model="known") == 1
    assert figures("jobs_lost_total") == 6
    assert (figures("queue_depth", model="known"), figures("running_requests", model="known")) == (3, 2)
    assert (figures("request_slots", model="known"), figures("model_loaded", model="known")) == (8, 1)


async def test_batch_sizes_are_a_histogram_of_steps(figures: Samples) -> None:
    buckets = {le: figures("batch_size_bucket", model="known", le=le) for le in ("1.0", "2.0", "4.0", "+Inf")}
    assert buckets == {"1.0": 10, "2.0": 15, "4.0": 16, "+Inf": 16}
    assert (figures("batch_size_count", model="known"), figures("batch_size_sum", model="known")) == (16, 23)


async def test_what_is_not_known_is_not_shown(figures: Samples) -> None:
    shown = {sample.name for sample in figures.all if sample.labels.get("model") == "unknown"}
    assert shown == {"mlx_mcp_queue_depth", "mlx_mcp_running_requests", "mlx_mcp_model_loaded"}


async def test_names_keep_to_prometheus_practice(runtime: Runtime) -> None:
    await runtime.gateway.run(ask("one two"), ORIGIN)
    samples = await scrape(runtime.metrics)
    assert all(family.name.startswith(("mlx_mcp_", "process_")) for family in samples.families)
    assert all(family.documentation for family in samples.families)
    assert not [sample.name for sample in samples.all if sample.name.endswith("_created")]
    for family in samples.families:
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)
        if family.type == "histogram" and family.name != "mlx_mcp_batch_size":
            assert family.name.endswith("_seconds")
