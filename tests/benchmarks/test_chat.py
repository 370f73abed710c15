"""The program, from its command line to its JSON."""

import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from benchmarks import chat
from benchmarks.processes import used
from benchmarks.servers import TargetFailed
from tests.benchmarks.fake_server import FakeServer

ROOT = Path(chat.__file__).parent.parent


@pytest.fixture
async def server() -> AsyncGenerator[FakeServer]:
    async with FakeServer().listening() as server:
        yield server


def test_help_imports_no_mlx() -> None:
    code = (
        "import sys\nfrom benchmarks import chat\n"
        f"for scenario in {list(chat.SCENARIOS)}:\n"
        " try: chat.main([scenario, '--help'])\n except SystemExit as end: assert not end.code\n"
        "assert not {'mlx', 'mlx_lm', 'transformers'} & {name.partition('.')[0] for name in sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--streams" in done.stdout


async def test_pairs_of_runs_end_in_a_table_and_a_file(
    server: FakeServer, tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, file = f"url:{server.url}", tmp_path / "out.json"
    arguments = ["load", "--target", target, "--against", target, "--pairs", "3", "--streams", "2", "--requests", "4"]
    plan = chat.plan_of([*arguments, "--model", str(tiny_model_path), "--json", str(file), "--prompt-tokens", "90"])
    await chat.measure(plan)
    written = json.loads(file.read_text())
    assert [(row["pair"], row["target"][-1]) for row in written["rows"]] == [
        (pair, letter) for pair, order in enumerate(("AB", "BA", "AB")) for letter in order
    ]
    assert {row["completed"] for row in written["rows"]} == {4}
    assert {row["answer_tokens"] for row in written["rows"]} == {12}
    first, second, ratio = written["summary"].values()
    assert first["requests"] == second["requests"] == 12
    assert ratio["tokens_per_s"]["min"] <= ratio["tokens_per_s"]["median"] <= ratio["tokens_per_s"]["max"]
    assert written["versions"]["mlx-lm"] and written["machine"]["cores"]
    assert written["command"].startswith("python -m benchmarks.chat load")
    assert "tokens_per_s" in capsys.readouterr().out


async def test_both_targets_of_a_pair_get_the_same_and_other_pairs_others(
    server: FakeServer, tiny_model_path: Path
) -> None:
    target = f"url:{server.url}"
    arguments = ["--target", target, "--against", target, "--streams", "1", "--requests", "2", "--pairs", "2"]
    await chat.measure(chat.plan_of(["load", *arguments, "--model", str(tiny_model_path)]))
    asked = [body["messages"][0]["content"] for body in server.bodies[2:]]  # the first two warm up
    assert asked[:2] == asked[2:4]
    assert asked[4:6] == asked[6:]
    assert len(set(asked)) == 4


async def test_connect_counts_what_was_reset(server: FakeServer, tiny_model_path: Path) -> None:
    arguments = ["connect", "--target", f"url:{server.url}", "--streams", "20", "--model", str(tiny_model_path)]
    plan = chat.plan_of(arguments)
    assert (plan.requests, plan.retries) == (20, 0)
    server.resets = 22  # all that warm up, and two
    (counted,) = (await chat.measure(plan)).values()
    assert counted["completed"] == 18
    assert counted["problems"] == {"reset": 2}


async def test_warm_prefix_asks_twice_with_one_beginning(server: FakeServer, tiny_model_path: Path) -> None:
    arguments = ["warm-prefix", "--target", f"url:{server.url}", "--pairs", "2", "--model", str(tiny_model_path)]
    summary = await chat.measure(chat.plan_of(arguments))
    assert summary["ratio"]["median"] > 0
    systems = [body["messages"][0]["content"] for body in server.bodies[-4:]]
    assert systems[0] == systems[1] != systems[2] == systems[3]
    assert len(systems[0]) == pytest.approx(500, abs=15)


async def test_what_cannot_be_measured_is_refused(server: FakeServer, tiny_model_path: Path) -> None:
    model = ["--model", str(tiny_model_path)]
    with pytest.raises(TargetFailed, match="There is no target"):
        await chat.measure(chat.plan_of(["load", "--target", "theirs", *model]))
    with pytest.raises(TargetFailed, match="Only of a process that is started here"):
        await chat.measure(chat.plan_of(["memory", "--target", f"url:{server.url}", *model]))


def test_a_process_is_asked_what_it_has_used() -> None:
    program = "import time; print('up', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()  # or else it may still be on the way from this process to its own
        now = used(child.pid)
        child.kill()
    if now is not None:  # neither /proc nor psutil
        assert now.cpu_s >= 0 and 1e6 < now.rss_bytes <= now.peak_rss_bytes
    assert used(None) is used(child.pid) is None
