"""An OpenAI-compatible server of a few lines, with the manners that real ones have."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

WORDS = ("one", " two", " three")
CACHED = 3


class FakeServer:
    """
    Answers a chat with three words. Its behaviour can be changed between requests.

    chunked: HTTP/1.1 with chunks, each frame cut in two; else HTTP/1.0 until the end of the connection.
    resets: So many connections are cut before they are answered.
    """

    def __init__(self) -> None:
        self.url = ""
        self.chunked = True
        self.resets = 0
        self.status = 200
        self.truncated = False
        self.bodies: list[dict[str, Any]] = []
        self.open = self.most_open = 0

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator["FakeServer"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            await self._answer(reader, writer)
        finally:
            self.open -= 1
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if head.startswith("get"):
            await self._send(writer, [json.dumps({"data": [{"id": "fake"}]})], "application/json")
            return
        length = int(head.partition("content-length:")[2].split()[0])
        body = json.loads(await reader.readexactly(length))
        if self.resets:
            self.resets -= 1
            return
        self.bodies.append(body)
        if self.status != 200:
            writer.write(f"HTTP/1.1 {self.status} No\r\ncontent-length: 0\r\n\r\n".encode())
            return
        frames = [_frame(word) for word in WORDS]
        if not self.truncated:
            usage = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": CACHED}}
            frames += [_frame("", "length"), json.dumps({"choices": [], "usage": usage}), "[DONE]"]
        await self._send(writer, [": a comment\n\n", *(f"data: {frame}\n\n" for frame in frames)], "text/event-stream")

    async def _send(self, writer: asyncio.StreamWriter, parts: list[str], kind: str) -> None:
        if not self.chunked:
            writer.write(f"HTTP/1.0 200 OK\r\ncontent-type: {kind}\r\n\r\n{''.join(parts)}".encode())
            return
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        for part in parts:
            half = len(part) // 2
            for piece in (part[:half], part[half:]):
                writer.write(f"{len(piece):x}\r\n{piece}\r\n".encode())
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")


def _frame(text: str, finish: str | None = None) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})
