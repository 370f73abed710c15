"""What a new user does, with the real starter model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

INSPECTOR = os.environ.get("MLX_MCP_TEST_INSPECTOR")
"""The command of the MCP Inspector, an independent client: "NODE LAUNCHER"; `.ci/run` installs it."""


def test_the_demo_shows_both_doors() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlx_mcp", "demo"], capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The capital of France is Paris.") == 2
    assert "OpenAI SDK" in done.stdout and "MCP" in done.stdout
    assert done.stdout.count("job_") == 2


@pytest.mark.skipif(not INSPECTOR, reason="MLX_MCP_TEST_INSPECTOR does not say where the MCP Inspector is")
@pytest.mark.parametrize("era", ["legacy", "modern"])
class TestInspector:
    def run(self, era: str, *arguments: str) -> dict[str, Any]:
        command = Path(shutil.which("mlx-mcp") or Path(sys.executable).with_name("mlx-mcp"))
        done = subprocess.run(
            [
                *(INSPECTOR or "").split(),
                *("--cli", str(command), "stdio", "--no-http"),
                *("--protocol-era", era, *arguments, "--format", "json", "-q"),
            ],
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        result: dict[str, Any] = json.loads(done.stdout)["result"]
        return result

    def test_it_lists_the_tools_strictly(self, era: str) -> None:
        result = self.run(era, "--method", "tools/list", "--strict")
        assert [tool["name"] for tool in result["tools"]] == ["chat", "list_models", "queue_status"]
        assert len(json.dumps(result)) < 6_000

    def test_it_calls_each_tool(self, era: str) -> None:
        question = json.dumps({"prompt": "What is the capital of France?", "max_tokens": 32})
        chat = self.run(era, "--method", "tools/call", "--tool-name", "chat", "--tool-args-json", question)
        assert "Paris" in json.dumps(chat["structuredContent"])
        for tool in ("list_models", "queue_status"):
            result = self.run(era, "--method", "tools/call", "--tool-name", tool)
            assert result["isError"] is False and "smollm2-135m-instruct" in json.dumps(result)
