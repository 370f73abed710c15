"""The client, which counts what goes wrong and never raises for it."""

import dataclasses
import socket
from collections.abc import AsyncGenerator

import pytest

from benchmarks.client import Endpoint
from benchmarks.load import Load, drive
from tests.benchmarks.fake_server import CACHED, FakeServer

CONVERSATION = ({"role": "user", "content": "Count."},)
LOAD = Load(conversations=[CONVERSATION] * 5, streams=2, answer_tokens=3, seed=7)


@pytest.fixture
async def server() -> AsyncGenerator[FakeServer]:
    async with FakeServer().listening() as server:
        yield server


@pytest.fixture
def endpoint(server: FakeServer) -> Endpoint:
    return Endpoint(server.url, "fake")


@pytest.mark.parametrize("chunked", [True, False])
async def test_an_answer_is_read_with_its_times_and_counts(
    server: FakeServer, endpoint: Endpoint, chunked: bool
) -> None:
    server.chunked = chunked
    heard: list[float] = []
    answer = await endpoint.ask(CONVERSATION, LOAD, heard.append)
    assert answer.arrivals == tuple(heard) == tuple(sorted(heard))
    assert len(heard) == 3
    assert answer.sent < heard[0] and heard[-1] <= answer.ended
    assert (answer.prompt_tokens, answer.answer_tokens, answer.cached_tokens) == (7, 3, CACHED)
    assert (answer.finish, answer.problems) == ("length", ())


async def test_no_more_streams_than_asked_for_and_all_requests(server: FakeServer, endpoint: Endpoint) -> None:
    answers = await drive(endpoint, LOAD)
    assert [answer.finish for answer in answers] == ["length"] * 5
    assert server.most_open == 2


async def test_a_seed_is_sent_only_where_it_does_no_harm(server: FakeServer, endpoint: Endpoint) -> None:
    warm = dataclasses.replace(LOAD, temperature=0.5)
    await endpoint.ask(CONVERSATION, LOAD)
    await endpoint.ask(CONVERSATION, warm)
    await dataclasses.replace(endpoint, takes_seed=True).ask(CONVERSATION, warm)
    assert [body.get("seed") for body in server.bodies] == [None, None, 7]
    assert [body["temperature"] for body in server.bodies] == [0, 0.5, 0.5]


async def test_a_reset_connection_is_tried_again_with_the_clock_running(server: FakeServer, endpoint: Endpoint) -> None:
    server.resets = 2
    answer = await endpoint.ask(CONVERSATION, dataclasses.replace(LOAD, retries=2))
    assert (answer.finish, answer.problems) == ("length", ("reset", "reset"))
    assert answer.arrivals[0] - answer.sent > 0.1


async def test_after_the_last_retry_it_is_counted_and_left(server: FakeServer, endpoint: Endpoint) -> None:
    server.resets = 2
    answer = await endpoint.ask(CONVERSATION, dataclasses.replace(LOAD, retries=1))
    assert (answer.finish, answer.problems) == (None, ("reset", "reset"))


async def test_a_refusal_by_status_is_counted_and_not_retried(server: FakeServer, endpoint: Endpoint) -> None:
    server.status = 429
    answer = await endpoint.ask(CONVERSATION, dataclasses.replace(LOAD, retries=3))
    assert (answer.finish, answer.problems) == (None, ("HTTP 429",))


@pytest.mark.parametrize("chunked", [True, False])
async def test_an_answer_without_an_end_is_cut_short(server: FakeServer, endpoint: Endpoint, chunked: bool) -> None:
    server.truncated, server.chunked = True, chunked
    answer = await endpoint.ask(CONVERSATION, LOAD)
    assert (answer.finish, answer.problems, len(answer.arrivals)) == (None, ("cut short",), 3)


async def test_a_port_where_nobody_listens_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    answer = await Endpoint(f"http://127.0.0.1:{port}", "").ask(CONVERSATION, LOAD)
    assert answer.problems == ("refused",)
