"""What every response says of its request."""

import httpx2 as httpx
import pytest

CHAT = "/v1/chat/completions"
BODY = {"model": "echo", "messages": [{"role": "user", "content": "one two"}]}


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"model": "nope"}, {"temperature": 9}])
async def test_it_bears_the_callers_id_and_the_time_it_took(client: httpx.AsyncClient, more: dict[str, object]) -> None:
    reply = await client.post(CHAT, json=BODY | more, headers={"x-request-id": "mine"})
    assert reply.headers["x-request-id"] == "mine"
    seconds = reply.headers["x-process-time"]
    assert 0 < float(seconds) < 20
    assert seconds.partition(".")[2].isdigit()  # no exponent


@pytest.mark.parametrize("given", ["", "\t", "x" * 200])
async def test_an_id_that_is_none_is_replaced_by_one_of_ours(client: httpx.AsyncClient, given: str) -> None:
    first, second = [(await client.get("/health", headers={"x-request-id": given})).headers for _ in range(2)]
    assert first["x-request-id"].startswith("req_")
    assert first["x-request-id"] != second["x-request-id"]
