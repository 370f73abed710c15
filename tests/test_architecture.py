"""Promises about the code itself. What may import what is import-linter's business."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "mlx_mcp").rglob("*.py"))
LONGEST_FILE = 400
LONGEST_FUNCTION = 60
MLX = ("mlx", "mlx_lm", "mlx_vlm", "mlx_whisper", "mlx_embeddings", "mflux", "transformers", "torch")
"""And what comes with it, which takes seconds."""
PRINT_MLX = f"import sys; print(sorted({{name.split('.')[0] for name in sys.modules}} & set({MLX!r})))"


def python(program: str, *arguments: str) -> list[str]:
    """What a program prints that runs in the repository's root."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    return done.stdout.splitlines()


def test_the_standard_librarys_http_is_not_ours() -> None:
    (file,) = python("import http, http.client; print(http.__file__)")
    assert not Path(file).is_relative_to(ROOT / "mlx_mcp")


@pytest.mark.parametrize(
    "module", ["mlx_mcp", "mlx_mcp.settings", "mlx_mcp.gateway", "mlx_mcp.runtime", "mlx_mcp.app", "mlx_mcp.cli"]
)
def test_importing_it_imports_no_mlx(module: str) -> None:
    assert python(f"import {module}; {PRINT_MLX}") == ["[]"]


def test_the_package_alone_imports_no_web_framework() -> None:
    (loaded,) = python(
        "import mlx_mcp, sys; print([name for name in ('fastapi', 'mcp', 'typer') if name in sys.modules])"
    )
    assert loaded == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["serve", "--help"], ["models", "--help"]])
def test_a_command_that_loads_no_model_imports_no_mlx(arguments: list[str]) -> None:
    run = "from mlx_mcp.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
    *said, loaded = python(run + PRINT_MLX, *arguments)
    assert said
    assert loaded == "[]"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_file_and_no_function_is_too_long(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    assert source.count("\n") <= LONGEST_FILE
    assert not [f"{name}: {lines} lines" for name, lines in functions(source) if lines > LONGEST_FUNCTION]


def functions(source: str) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("folder", ["tests", "mlx_mcp"])
def test_every_folder_of_code_is_a_package(folder: str) -> None:
    """Else two tests of one name collide, or a folder is left out of the wheel."""
    folders = {file.parent for file in (ROOT / folder).rglob("*.py")}
    assert not [each for each in folders if not (each / "__init__.py").is_file()]


def test_every_test_folder_mirrors_one_of_the_package_or_of_the_repository() -> None:
    for folder in {file.parent for file in (ROOT / "tests").rglob("test_*.py")}:
        name = folder.relative_to(ROOT / "tests")
        assert (ROOT / "mlx_mcp" / name).is_dir() or (ROOT / name).is_dir()
