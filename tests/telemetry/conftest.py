"""Logging as the process has it, and as it was before, again."""

import logging
from collections.abc import Generator

import pytest
import structlog

from mlx_mcp.telemetry.logs import configure_logging
from tests.telemetry.making import Lines


@pytest.fixture
def logging_restored() -> Generator[None]:
    root, ours = logging.getLogger(), logging.getLogger("mlx_mcp")
    before = list(root.handlers), root.level, ours.level
    yield
    root.handlers[:], root.level = before[0], before[1]
    root.setLevel(before[1])
    ours.setLevel(before[2])
    structlog.reset_defaults()


@pytest.fixture
def lines(logging_restored: None, capsys: pytest.CaptureFixture[str]) -> Lines:
    configure_logging("debug", json=True)
    return Lines(capsys)
