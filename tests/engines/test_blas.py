"""Each case in a process of its own: what is loaded stays loaded."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="macOS has Accelerate")

PRINT_WARNINGS = "import logging, sys; logging.basicConfig(stream=sys.stdout, format='%(levelname)s %(message)s')"


def run(*lines: str) -> list[str]:
    program = "\n".join((PRINT_WARNINGS, "from mlx_mcp.engines.blas import load_fast_blas", *lines))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout.splitlines()


def test_openblas_stands_before_the_blas_of_mlx() -> None:
    assert run(
        "load_fast_blas()",
        "import ctypes; config = ctypes.CDLL(None).openblas_get_config; config.restype = ctypes.c_char_p",
        "print(config().decode().split()[0])",
        "import mlx.core as mx; print((mx.full((64, 64), 2.0) @ mx.full((64, 64), 3.0)).max().item())",
    ) == ["OpenBLAS", "384.0"]


def test_the_second_call_does_nothing_even_after_mlx_was_imported() -> None:
    assert run("load_fast_blas(); import mlx.core; load_fast_blas(); load_fast_blas.__wrapped__()") == []


def test_a_missing_library_is_one_warning_that_says_what_to_do() -> None:
    lines = run(
        "from mlx_mcp.engines import blas; blas.DISTRIBUTION = 'no-such-blas'; load_fast_blas(); load_fast_blas()"
    )
    assert len(lines) == 1
    assert lines[0].startswith("WARNING No fast BLAS (no-such-blas is not installed)")
    assert "75 times slower" in lines[0]
    assert "pip install" in lines[0]


def test_a_call_that_comes_too_late_is_one_warning() -> None:
    lines = run("import mlx.core; load_fast_blas(); load_fast_blas()")
    assert len(lines) == 1
    assert lines[0].startswith("WARNING mlx.core was imported before")
