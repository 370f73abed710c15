"""POST /v1/chat/completions, with engines that have no model."""

import json
from typing import Any

import anyio
import httpx2 as httpx
import pytest

from mlx_mcp.gateway import Gateway
from tests.fakes import EchoEngine

URL = "/v1/chat/completions"


def body(text: str, **more: object) -> dict[str, object]:
    return {"model": "echo", "messages": [{"role": "user", "content": text}], **more}


def frames(reply: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def test_the_whole_answer(client: httpx.AsyncClient) -> None:
    reply = await client.post(URL, json=body("one two"), headers={"x-request-id": "mine"})
    assert reply.status_code == 200
    assert reply.headers["x-request-id"] == "mine"
    answer = reply.json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "one two ", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"]["total_tokens"] == 4
    assert answer["id"].removeprefix("chatcmpl-") == reply.headers["x-job-id"].removeprefix("job_")


async def test_a_stream_says_the_same_as_the_whole_answer(client: httpx.AsyncClient) -> None:
    reply = await client.post(URL, json=body("one two", stream=True, stream_options={"include_usage": True}))
    assert reply.headers["content-type"].startswith("text/event-stream")
    *chunks, last = frames(reply)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "one two "
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks].count("stop") == 1
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 2
    assert len({chunk["id"] for chunk in [*chunks, last]}) == 1


async def test_a_stream_without_usage_has_none(client: httpx.AsyncClient) -> None:
    reply = await client.post(URL, json=body("one", stream=True))
    assert all("usage" not in frame for frame in frames(reply))


async def test_an_answer_without_text_streams_and_ends(client: httpx.AsyncClient) -> None:
    reply = await client.post(URL, json=body(" ", stream=True))
    assert frames(reply)[-1]["choices"][0]["finish_reason"] == "stop"


async def test_a_load_is_told_in_comments(client: httpx.AsyncClient) -> None:
    reply = await client.post(URL, json=body("one", stream=True))
    assert ": reading the weights 50 %\n\n" in reply.text
    assert ": started\n\n" in reply.text


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unknown_model_is_a_404_that_lists_the_served(client: httpx.AsyncClient, stream: bool) -> None:
    reply = await client.post(URL, json=body("x", stream=stream) | {"model": "nope"})
    assert reply.status_code == 404
    error = reply.json()["error"]
    assert (error["code"], error["param"], error["type"]) == ("model_not_found", "model", "invalid_request_error")
    assert "'echo'" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_engine_refuses_is_a_400(client: httpx.AsyncClient, stream: bool) -> None:
    reply = await client.post(URL, json=body("refuse", stream=stream))
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "messages"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failing_first_step_is_an_error_and_the_server_goes_on(client: httpx.AsyncClient, stream: bool) -> None:
    reply = await client.post(URL, json=body("boom", stream=stream))
    error = frames(reply)[0]["error"] if stream else reply.json()["error"]
    assert error["code"] == "engine_failed"
    assert (await client.post(URL, json=body("next"))).json()["choices"][0]["message"]["content"] == "next "
    other = await client.post(URL, json=body("x") | {"model": "missing"})
    assert other.status_code == 503 and other.json()["error"]["code"] == "model_unavailable"


async def test_a_failure_in_the_middle_of_a_stream_is_a_frame(client: httpx.AsyncClient) -> None:
    reply = await client.post(URL, json=body("one two boom", stream=True))
    assert reply.status_code == 200
    assert frames(reply)[-1]["error"]["code"] == "engine_failed"


async def test_a_full_queue_is_a_429_with_the_time_to_come_back(
    client: httpx.AsyncClient, gateway: Gateway, echo: EchoEngine
) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(lambda: client.post(URL, json=body("wait")))
        with anyio.fail_after(5):
            while gateway.queue().queued + gateway.queue().running < 3:
                await anyio.lowlevel.checkpoint()
        for stream in (False, True):
            reply = await client.post(URL, json=body("x", stream=stream))
            assert reply.status_code == 429
            assert int(reply.headers["retry-after"]) >= 1
            assert reply.json()["error"]["code"] == "queue_full"
        echo.gate.set()


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"logit_bias": {"1": 2}}, "logit_bias", "unsupported_parameter"),
        ({"frobnicate": 1}, "frobnicate", "unknown_parameter"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "invalid_value"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid_value"),
        ({"stop": [""]}, "stop[0]", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
            "invalid_value",
        ),
    ],
)
async def test_a_bad_parameter_is_a_400_that_names_it(
    client: httpx.AsyncClient, more: dict[str, object], param: str | None, code: str
) -> None:
    reply = await client.post(URL, json=body("x") | more)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")


async def test_a_body_that_is_not_json_is_a_400(client: httpx.AsyncClient) -> None:
    reply = await client.post(URL, content=b"{", headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "invalid_json"


async def test_neutral_and_advisory_parameters_are_let_through(client: httpx.AsyncClient) -> None:
    more = {
        "n": 1,
        "tools": [],
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "logprobs": False,
        "logit_bias": None,
        "stop": None,
        "user": "me",
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "safety_identifier": "x",
        "prompt_cache_key": "y",
        "store": False,
    }
    assert (await client.post(URL, json=body("x", **more))).status_code == 200


async def test_an_answer_can_be_sent_back_as_the_sdks_do(client: httpx.AsyncClient) -> None:
    answer = (await client.post(URL, json=body("x"))).json()["choices"][0]["message"]
    dumped = answer | {"tool_calls": None, "function_call": None, "audio": None, "annotations": []}
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "be brief"}, dumped, {"role": "user", "content": parts}]
    reply = await client.post(URL, json=body("x") | {"messages": messages})
    assert reply.json()["choices"][0]["message"]["content"] == "a b "
