"""Tracebacks that say where and what kind, and quote nothing."""

import pytest

from mlx_mcp.errors import EngineFailed, InvalidRequest, ModelUnavailable
from mlx_mcp.telemetry.tracebacks import format_traceback

SECRET = "Rumpelstiltskin"


def told(exc: BaseException) -> str:
    try:
        raise exc
    except BaseException as caught:  # noqa: BLE001
        return format_traceback((type(caught), caught, caught.__traceback__))


def test_it_names_the_place_and_the_kind_of_each_exception_of_a_chain() -> None:
    error = EngineFailed()
    error.__cause__ = KeyError(SECRET)
    text = told(error)
    assert text.index("KeyError") < text.index("which led to") < text.index("test_tracebacks.py")
    assert text.index("test_tracebacks.py") < text.index("mlx_mcp.errors.EngineFailed: The engine failed")
    assert SECRET not in text


def test_it_tells_what_was_handled_unless_that_is_hidden() -> None:
    def fail(hide: bool) -> None:
        try:
            raise KeyError(SECRET)
        except KeyError as exc:
            if hide:
                raise ValueError(SECRET) from None
            raise ValueError(exc)  # noqa: B904

    for hide in (False, True):
        with pytest.raises(ValueError, match=SECRET) as failed:
            fail(hide)
        text = told(failed.value)
        assert ("KeyError" in text) is not hide
        assert SECRET not in text


def test_it_tells_every_part_of_a_group() -> None:
    text = told(ExceptionGroup(SECRET, [ValueError(SECRET), ExceptionGroup(SECRET, [KeyError(SECRET)])]))
    assert "ValueError" in text and "KeyError" in text and "part 2" in text
    assert SECRET not in text


def test_notes_and_arguments_are_not_told() -> None:
    error = UnicodeEncodeError("utf-8", SECRET, 0, 1, SECRET)
    error.add_note(SECRET)
    assert SECRET not in told(error)


@pytest.mark.parametrize(
    ("exc", "kept"),
    [
        (ModelUnavailable("tiny is nowhere to be found."), "tiny is nowhere to be found."),
        (RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory"), "Insufficient Memory"),
        (RuntimeError("[metal::malloc] Attempting to allocate 99 bytes"), "99 bytes"),
        (OSError(28, "No space left on device", "/a/file"), "No space left on device"),
        (MemoryError("no room"), "no room"),
        (ImportError("No module named 'x'"), "No module named 'x'"),
    ],
)
def test_a_text_that_cannot_quote_a_request_is_kept(exc: Exception, kept: str) -> None:
    assert kept in told(exc)


@pytest.mark.parametrize(
    "exc",
    [
        InvalidRequest(SECRET),
        RuntimeError(SECRET),
        RuntimeError(f"[INST] {SECRET}"),
        ValueError(f"[metal::malloc] {SECRET}"),
        OSError(SECRET),
        OSError(2, "No such file", SECRET),
        SystemExit(SECRET),
        StopIteration(SECRET),
    ],
)
def test_any_other_is_withheld(exc: BaseException) -> None:
    text = told(exc)
    assert type(exc).__name__ in text
    assert SECRET not in text


def test_a_chain_without_an_end_has_one() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert told(first).count("KeyError") < 20
