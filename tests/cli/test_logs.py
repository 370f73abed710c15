"""What mlx-mcp writes to stderr while it serves."""

import json
import subprocess
import sys
from pathlib import Path

from tests.cli.hosts import Host


def test_every_line_is_json_when_asked_for_and_a_jobs_bears_its_ids(tiny_model_path: Path) -> None:
    with Host(str(tiny_model_path), "--no-http", "--log-format", "json", "--log-level", "debug") as host:
        request_id = host.call("chat", prompt="hello", max_tokens=5)
        job_id = host.result(request_id)["structuredContent"]["job_id"]
        assert host.process.stdin and host.process.stderr
        host.process.stdin.close()
        lines = [json.loads(line) for line in host.process.stderr.read().splitlines()]
    (ended,) = [line for line in lines if line["event"] == "chat succeeded"]
    assert (ended["job_id"], ended["request_id"], ended["door"]) == (job_id, str(request_id), "mcp")


def test_a_level_that_is_none_is_one_line_with_those_that_are() -> None:
    command = [sys.executable, "-m", "mlx_mcp", "stdio", "--log-level", "chatty"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert all(level in done.stderr for level in ("debug", "info", "warning", "error"))
