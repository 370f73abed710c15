"""POST /v1/chat/completions"""

import time
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from mlx_mcp.gateway import Gateway, Job
from mlx_mcp.http.chat_body import ChatBody
from mlx_mcp.http.disconnect import until_gone
from mlx_mcp.http.origin import origin_of
from mlx_mcp.http.sse import JobStream
from mlx_mcp.types import ChatRequest, Done, Event, Result, Text, Usage


def register(router: APIRouter, gateway: Gateway, *, keep_alive_s: float) -> None:
    @router.post("/v1/chat/completions", response_model=None)
    async def chat_completions(body: ChatBody, http: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """A model's answer to a conversation, whole or as server-sent events."""
        request, origin = body.to_request(), origin_of(http, body.priority)
        if body.stream:
            return JobStream(
                partial(gateway.submit, request, origin),
                partial(Chunks, include_usage=body.include_usage),
                keep_alive_s=keep_alive_s,
            )
        job, result = await until_gone(http.receive, lambda: gateway.run(request, origin))
        return JSONResponse(completion(request, job, result), headers={"x-job-id": job.id})


def completion(request: ChatRequest, job: Job, result: Result) -> dict[str, Any]:
    message = {"role": "assistant", "content": result.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": job.finish_reason}
    return envelope(job, "chat.completion") | {"choices": [choice], "usage": usage(job.usage or Usage())}


class Chunks:
    """The same as a stream of chunks."""

    def __init__(self, job: Job, *, include_usage: bool) -> None:
        self._head = envelope(job, "chat.completion.chunk")
        self._include_usage = include_usage
        self._begun = False

    def __call__(self, event: Event) -> list[dict[str, Any]]:
        match event:
            case Text(text):
                return [*self._beginning(), self._chunk({"content": text})]
            case Done(finish_reason, tokens):
                frames = [*self._beginning(), self._chunk({}, finish_reason)]
                if self._include_usage:
                    frames.append(self._head | {"choices": [], "usage": usage(tokens)})
                return frames
            case _:
                return []

    def _beginning(self) -> list[dict[str, Any]]:
        if self._begun:
            return []
        self._begun = True
        return [self._chunk({"role": "assistant", "content": "", "refusal": None})]

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        frame = self._head | {"choices": [choice]}
        return frame | {"usage": None} if self._include_usage else frame


def envelope(job: Job, kind: str) -> dict[str, Any]:
    suffix = job.id.removeprefix("job_")
    return {"id": f"chatcmpl-{suffix}", "object": kind, "created": int(time.time()), "model": job.model}


def usage(tokens: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": tokens.prompt_tokens,
        "completion_tokens": tokens.completion_tokens,
        "total_tokens": tokens.prompt_tokens + tokens.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": tokens.cached_tokens},
    }
