import pytest

from mlx_mcp.state import results as results_module
from mlx_mcp.state.results import KEPT_S, Results
from mlx_mcp.state.ticket import Ticket
from tests.state.making import Clock, ticket


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def results(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Results:
    monkeypatch.setattr(results_module, "KEPT", 3)
    return Results(clock)


def keep(results: Results, n: int) -> list[Ticket]:
    tickets = [ticket() for _ in range(n)]
    for each in tickets:
        results.keep(each)
    return tickets


async def test_a_result_is_there_for_whoever_asks_and_asks_again(results: Results) -> None:
    (kept,) = keep(results, 1)
    assert results.get(kept.job.id) is kept
    assert results.get(kept.job.id) is kept


async def test_of_an_unknown_job_there_is_none(results: Results) -> None:
    assert results.get("job_nope") is None


async def test_a_result_expires(results: Results, clock: Clock) -> None:
    (old,) = keep(results, 1)
    clock.now += KEPT_S - 1
    (young,) = keep(results, 1)
    assert results.get(old.job.id) is old
    clock.now += 1
    assert results.get(old.job.id) is None
    assert results.get(young.job.id) is young


async def test_beyond_its_bound_the_oldest_goes(results: Results) -> None:
    kept = keep(results, 4)
    assert [results.get(each.job.id) for each in kept] == [None, *kept[1:]]


async def test_looking_forgets_nothing_that_has_not_expired(results: Results) -> None:
    kept = keep(results, 3)
    for _ in range(3):
        assert [results.get(each.job.id) for each in kept] == kept
