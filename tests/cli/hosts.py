"""A minimal MCP host: the wire by hand, so that what is on it can be seen byte by byte."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from typing import Any, Self

INITIALIZE = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "tests", "version": "1"},
}


class Host:
    """`mlx-mcp stdio` as a child, in a block that kills it at the end if it is still there."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlx_mcp", "stdio", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=os.environ | environment,
        )
        self._id = 0

    def __enter__(self) -> Self:
        self.request("initialize", INITIALIZE)
        self.read()
        self.send({"method": "notifications/initialized"})
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                with suppress(BrokenPipeError):
                    stream.close()

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")

    def request(self, method: str, params: dict[str, Any] | None = None) -> int:
        self._id += 1
        self.send({"id": self._id, "method": method, "params": params or {}})
        return self._id

    def call(self, tool: str, **arguments: object) -> int:
        meta = {"progressToken": self._id + 1}
        return self.request("tools/call", {"name": tool, "arguments": arguments, "_meta": meta})

    def read(self) -> dict[str, Any]:
        """The next message. Raises: ValueError, if what stands there is none."""
        assert self.process.stdout
        message = json.loads(self.process.stdout.readline())
        assert message["jsonrpc"] == "2.0"
        return message

    def result(self, request_id: int) -> dict[str, Any]:
        while (message := self.read()).get("id") != request_id:
            pass
        return message["result"]

    def progress(self, word: str) -> None:
        """Read on until a progress message says the word."""
        while word not in self.read().get("params", {}).get("message", ""):
            pass
