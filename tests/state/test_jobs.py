import pytest

from mlx_mcp.errors import (
    ContextOverflow,
    EngineFailed,
    InvalidRequest,
    JobCancelled,
    JobExpired,
    MlxMcpError,
    ModelUnavailable,
    ShuttingDown,
)
from mlx_mcp.state.jobs import ENDS, Job, Status
from mlx_mcp.types import Usage
from tests.state.making import job

USAGE = Usage(prompt_tokens=3, completion_tokens=4)


def test_every_job_has_an_id_of_its_own() -> None:
    assert len({job().id for _ in range(100)}) == 100


def test_a_job_is_queued_then_runs_then_succeeds() -> None:
    queued = job()
    running = queued.started()
    answering = running.first_token()
    done = answering.succeeded(USAGE, "stop")
    assert [each.status for each in (queued, running, answering, done)] == ["queued", "running", "running", "succeeded"]
    assert done.created_at <= done.started_at <= done.first_token_at <= done.finished_at  # type: ignore[operator]
    assert (done.usage, done.finish_reason, done.error_code) == (USAGE, "stop", None)
    assert (queued.started_at, queued.finished_at, running.first_token_at) == (None, None, None)
    assert {each.id for each in (queued, running, answering, done)} == {queued.id}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (JobCancelled(), Status.CANCELLED),
        (JobExpired(), Status.EXPIRED),
        (ShuttingDown(), Status.INTERRUPTED),
        (EngineFailed(), Status.FAILED),
        (InvalidRequest("no"), Status.FAILED),
        (ContextOverflow(10, 5), Status.FAILED),
        (ModelUnavailable(), Status.FAILED),
        (MlxMcpError(), Status.FAILED),
    ],
)
@pytest.mark.parametrize("begun", [False, True], ids=["queued", "running"])
def test_the_error_that_ends_a_job_is_its_status_and_its_record(
    error: MlxMcpError, status: Status, begun: bool
) -> None:
    ended = (job().started() if begun else job()).failed(error)
    assert ended.status == status
    assert (ended.error_code, ended.error_message) == (error.code, str(error))
    assert ended.finished_at is not None
    assert ended.usage is None


def test_an_error_of_a_kind_that_came_later_leaves_the_status_of_its_kin() -> None:
    class Preempted(JobCancelled):
        """Another job came first."""

    assert job().failed(Preempted()).status == Status.CANCELLED


def ends() -> list[Job]:
    running = job().started()
    errors = [JobCancelled(), JobExpired(), ShuttingDown(), EngineFailed()]
    return [running.succeeded(USAGE, "stop"), *(running.failed(error) for error in errors)]


@pytest.mark.parametrize("end", ends(), ids=lambda job: job.status)
def test_nothing_comes_after_an_end(end: Job) -> None:
    assert end.ended
    for change in (end.started, lambda: end.failed(JobCancelled()), lambda: end.succeeded(USAGE, "stop")):
        with pytest.raises(AssertionError, match=f"cannot go from {end.status}"):
            change()


def test_every_end_is_among_them() -> None:
    assert {end.status for end in ends()} == ENDS == set(Status) - {Status.QUEUED, Status.RUNNING}
    assert not job().ended
    assert not job().started().ended


def test_a_job_starts_once_and_succeeds_only_after_it_has_started() -> None:
    with pytest.raises(AssertionError, match="cannot go from running to running"):
        job().started().started()
    with pytest.raises(AssertionError, match="cannot go from queued to succeeded"):
        job().succeeded(USAGE, "stop")
