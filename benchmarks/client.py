"""
A light client for streamed chat completions: plain sockets, one connection a request.

It shares the machine with what it measures, so it does nothing that it need not do.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, cast
from urllib.parse import urlsplit

from benchmarks.load import Answer, Load
from benchmarks.prompts import Conversation

RETRY_S = 0.05
BLOCK = 1 << 16
OK = 200
CONNECTION_PROBLEMS = {"refused", "reset"}
TEXT_KEYS = ("content", "reasoning_content", "reasoning")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible server."""

    base_url: str
    """Without /v1."""
    model: str
    takes_seed: bool = False
    """Sent only where asked for: mlx_lm.server doesn't batch a request that has one."""

    async def ask(
        self, conversation: Conversation, load: Load, on_text: Callable[[float], None] | None = None
    ) -> Answer:
        """
        Never raises for what the network or the server does: that is counted.

        Args:
            on_text: Called with the time of each piece of text as it comes.
        """
        body = json.dumps(self._body(conversation, load)).encode()
        problems: list[str] = []
        sent = perf_counter()
        while True:
            stream = _Stream(on_text)
            try:
                async with asyncio.timeout(load.timeout_s):
                    await self._read(body, stream)
                problem = stream.problem or (None if stream.finish else "cut short")
            except (OSError, EOFError, ValueError, IndexError) as exc:
                problem = _name(exc)
            if problem:
                problems.append(problem)
            if problem not in CONNECTION_PROBLEMS or stream.arrivals or len(problems) > load.retries:
                return stream.answer(sent, problems, whole=problem is None)
            await asyncio.sleep(RETRY_S)

    def _body(self, conversation: Conversation, load: Load) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(conversation),
            "max_tokens": load.answer_tokens,
            "temperature": load.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if load.temperature:  # a model's own defaults would make the servers do different work
            body |= {"top_p": 1.0, "top_k": 0}
            if self.takes_seed:
                body["seed"] = load.seed
        return body

    async def _read(self, body: bytes, stream: "_Stream") -> None:
        async with self._exchange("POST", "/v1/chat/completions", body) as (status, blocks):
            if status != OK:
                stream.problem = f"HTTP {status}"
                return
            rest = b""
            async for block in blocks:
                now = perf_counter()
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    if line.startswith(b"data:"):
                        stream.feed(line[5:].strip(), now)

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """One request that isn't streamed: status and JSON, None if it is none. Raises: OSError, EOFError."""
        data = b"" if body is None else json.dumps(body).encode()
        async with self._exchange(method, path, data) as (status, blocks):
            content = b"".join([block async for block in blocks])
        try:
            return status, json.loads(content)
        except ValueError:
            return status, None

    @asynccontextmanager
    async def _exchange(self, method: str, path: str, body: bytes) -> AsyncGenerator[tuple[int, AsyncGenerator[bytes]]]:
        url = urlsplit(self.base_url)
        secure = url.scheme == "https"
        reader, writer = await asyncio.open_connection(
            url.hostname, url.port or (443 if secure else 80), ssl=secure or None
        )
        try:
            head = (
                f"{method} {url.path.rstrip('/')}{path} HTTP/1.1\r\nhost: {url.netloc}\r\nconnection: close\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
            status, headers = await _head(reader)
            async with aclosing(_blocks(reader, headers)) as blocks:
                yield status, blocks
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    status = await reader.readline()
    if not status:
        raise ConnectionResetError
    headers: dict[str, str] = {}
    while line := (await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip().lower()
    return int(status.split()[1]), headers


async def _blocks(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncGenerator[bytes]:
    if "chunked" not in headers.get("transfer-encoding", ""):
        left = int(headers.get("content-length", -1))
        while left and (block := await reader.read(BLOCK)):
            left -= len(block) if left > 0 else 0
            yield block
        return
    while line := await reader.readline():
        size = int(line.split(b";")[0], 16)
        if not size:
            return
        yield (await reader.readexactly(size + 2))[:-2]
    raise ConnectionResetError


@dataclass(slots=True)
class _Stream:
    """One try's events."""

    on_text: Callable[[float], None] | None
    arrivals: list[float] = field(default_factory=list[float])
    usage: dict[str, Any] = field(default_factory=dict[str, Any])
    finish: str | None = None
    problem: str | None = None

    def feed(self, data: bytes, now: float) -> None:
        if data == b"[DONE]":
            return
        frame: dict[str, Any] = json.loads(data)
        if error := frame.get("error"):
            self.problem = f"error {_code(error)}"
        for choice in frame.get("choices") or ():
            delta: dict[str, Any] = choice.get("delta") or {}
            if any(delta.get(key) for key in TEXT_KEYS):
                self.arrivals.append(now)
                if self.on_text:
                    self.on_text(now)
            self.finish = choice.get("finish_reason") or self.finish
        self.usage = frame.get("usage") or self.usage

    def answer(self, sent: float, problems: list[str], *, whole: bool) -> Answer:
        details: dict[str, int] = self.usage.get("prompt_tokens_details") or {}
        return Answer(
            sent=sent,
            ended=perf_counter(),
            arrivals=tuple(self.arrivals),
            prompt_tokens=self.usage.get("prompt_tokens") or 0,
            cached_tokens=details.get("cached_tokens") or 0,
            answer_tokens=self.usage.get("completion_tokens") or len(self.arrivals),
            finish=self.finish if whole else None,
            problems=tuple(problems),
        )


def _code(error: Any) -> str:
    return str(cast("dict[str, Any]", error).get("code")) if isinstance(error, dict) else str(error)


def _name(error: Exception) -> str:
    match error:
        case ConnectionRefusedError():
            return "refused"
        case ConnectionError() | EOFError():
            return "reset"
        case TimeoutError():
            return "timeout"
        case ValueError() | IndexError():
            return "no HTTP or JSON"
        case _:
            return type(error).__name__
