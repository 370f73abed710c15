"""The commands that serve over HTTP, or nothing at all."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from mlx_mcp import __version__


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mlx_mcp", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_version() -> None:
    assert run("--version").stdout == f"mlx-mcp {__version__}\n"


def test_help_names_every_command() -> None:
    text = run("--help").stdout
    assert all(command in text for command in ("serve", "stdio", "demo", "models"))


def test_models_tells_what_would_be_served(tiny_model_path: Path) -> None:
    rows = json.loads(run("models", str(tiny_model_path), "org/somewhere-else", "--json").stdout)
    assert [row["id"] for row in rows] == [tiny_model_path.name, "org/somewhere-else"]
    assert (rows[0]["family"], rows[0]["path"]) == ("llama", str(tiny_model_path))
    assert rows[1]["path"] is None
    assert tiny_model_path.name[:8] in run("models", str(tiny_model_path)).stdout


def test_models_tells_what_is_wrong_with_a_model(tmp_path: Path) -> None:
    (row,) = json.loads(run("models", str(tmp_path), "--json").stdout)
    assert "is empty" in row["problem"]


@pytest.mark.parametrize("arguments", [("./nowhere",), ("nowhere",), ("--model-type", "nope"), ("--port", "99999")])
def test_serve_refuses_what_it_cannot_serve_in_one_line(arguments: tuple[str, ...]) -> None:
    done = run("serve", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("mlx-mcp: ") and len(done.stderr.splitlines()) == 1


def test_serve_says_when_its_port_is_taken(tiny_model_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("serve", str(tiny_model_path), "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "Choose another port with --port." in done.stderr


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_serve_loads_its_model_answers_and_ends_with_exit_code_0(tiny_model_path: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-m", "mlx_mcp", "serve", str(tiny_model_path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        url, loaded, lines = "", False, []
        while not (url and loaded):
            line = process.stderr.readline()
            assert line, lines
            lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                url = found[0]
            loaded = loaded or "is loaded" in line
        with urllib.request.urlopen(f"{url}/health", timeout=10) as reply:
            assert json.load(reply)["models"][tiny_model_path.name]["state"] == "loaded"
        process.send_signal(how)
        rest = process.stderr.read()
        assert process.wait(timeout=20) == 0
    assert "Traceback" not in rest
