"""mlx-mcp stdio, as a host sees it: a child process with a wire."""

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.cli.hosts import Host

END_OF_FILE = "EOF"
ENDINGS = (END_OF_FILE, signal.SIGTERM, signal.SIGINT)
Ending = str | signal.Signals


def end(host: Host, how: Ending) -> tuple[int, str, str]:
    """Exit code, the rest of stdout, and stderr."""
    if isinstance(how, signal.Signals):
        host.process.send_signal(how)
    else:
        assert host.process.stdin
        host.process.stdin.close()
    assert host.process.stdout and host.process.stderr
    rest, errors = host.process.stdout.read(), host.process.stderr.read()
    return host.process.wait(timeout=20), rest, errors


@pytest.mark.parametrize("how", ENDINGS)
def test_an_idle_server_ends_with_exit_code_0(how: Ending, tiny_model_path: Path) -> None:
    with Host(str(tiny_model_path), "--no-http") as host:
        code, rest, errors = end(host, how)
    assert (code, rest) == (0, "")
    assert "Traceback" not in errors


@pytest.mark.parametrize("how", ENDINGS)
def test_a_server_at_work_ends_with_exit_code_0_and_its_job_is_recorded(how: Ending, tiny_model_path: Path) -> None:
    with Host(str(tiny_model_path), "--no-http") as host:
        host.call("chat", prompt="hello", max_tokens=100_000)
        host.progress("generating")
        code, rest, errors = end(host, how)
    assert code == 0
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in rest.splitlines())
    assert "Traceback" not in errors
    assert "cancelled" in errors or "interrupted" in errors


def test_a_chat_over_the_wire_and_a_cancel_by_message(tiny_model_path: Path) -> None:
    with Host(str(tiny_model_path), "--no-http") as host:
        reply = host.result(host.call("chat", prompt="hello", max_tokens=5))["structuredContent"]
        assert reply["completion_tokens"] == 5
        cancelled = host.call("chat", prompt="hello", max_tokens=100_000)
        host.progress("generating")
        host.send({"method": "notifications/cancelled", "params": {"requestId": cancelled}})
        while (status := host.result(host.call("queue_status"))["structuredContent"])["running"]:
            pass
        assert status["queued"] == 0
        assert host.result(host.call("queue_status", job_id=reply["job_id"]))["structuredContent"]["job"]["status"]


def test_initialize_is_answered_before_any_model_is_fetched_or_loaded(tmp_path: Path) -> None:
    with Host("--no-http", MLX_MCP_CACHE_DIR=str(tmp_path)) as host:
        (model,) = host.result(host.call("list_models"))["structuredContent"]["models"]
        assert (model["id"], model["state"]) == ("smollm2-135m-instruct", "unloaded")
    assert list(tmp_path.iterdir()) == []


def test_nothing_but_the_wire_is_on_stdout_whatever_prints(tmp_path: Path, tiny_model_path: Path) -> None:
    noise = tmp_path / "sitecustomize.py"
    noise.write_text(
        "import atexit, os\n"
        "import mlx_mcp.cli.wire as wire\n"
        "claim = wire.Wire.claim.__func__\n"
        "def noisy(cls):\n"
        "    claimed = claim(cls)\n"
        "    print('a library prints')\n"
        "    os.write(1, b'C code prints\\n')\n"
        "    os.system('echo a child prints')\n"
        "    atexit.register(print, 'and once more at the exit')\n"
        "    return claimed\n"
        "wire.Wire.claim = classmethod(noisy)\n"
    )
    with Host(str(tiny_model_path), "--no-http", PYTHONPATH=str(tmp_path)) as host:
        assert host.result(host.request("tools/list"))["tools"]
        code, rest, errors = end(host, END_OF_FILE)
    assert (code, rest) == (0, "")
    for noise_line in ("a library prints", "C code prints", "a child prints", "and once more at the exit"):
        assert noise_line in errors


def test_http_is_served_beside_it_by_the_same_process(tiny_model_path: Path) -> None:
    port = free_port()
    with Host(str(tiny_model_path), "--port", str(port)) as host:
        host.result(host.call("chat", prompt="hello", max_tokens=2))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=10) as reply:
            models = json.load(reply)["data"]
        assert [(model["id"], model["loaded"]) for model in models] == [(tiny_model_path.name, True)]
        code, _, _ = end(host, END_OF_FILE)
    assert code == 0


def test_a_busy_port_is_a_warning(tiny_model_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Host(str(tiny_model_path), "--port", str(port)) as host:
            assert host.result(host.request("tools/list"))["tools"]
            code, _, errors = end(host, END_OF_FILE)
    assert code == 0
    assert f"cannot listen on 127.0.0.1 port {port}" in errors


def test_a_setting_that_is_wrong_is_one_line_on_stderr() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlx_mcp", "stdio", "--model-type", "nope"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("mlx-mcp: model_type: ") and len(done.stderr.splitlines()) == 1


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
