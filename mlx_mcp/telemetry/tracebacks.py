"""
Tracebacks that cannot quote a request.

An exception's text may repeat what was asked or answered: a tokenizer names the character that it does not know, a chat
template repeats the message that it refuses, pydantic shows the value. So the text is left out, except of exceptions
whose text is made of other things. Code that has no request at hand, such as a load, writes the text into its line.
"""

import os
import re
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import cast

from mlx_mcp.errors import InvalidRequest, MlxMcpError

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

DEVICE = re.compile(r"\[(METAL|metal::\w+|malloc\w*)\]")
"""How MLX begins what it says about the device and its memory."""
WITHHELD = "(its text is withheld)"
CAUSE = "which led to:"
CONTEXT = "while it was handled:"
MOST_LINKS = 10


def format_traceback(exc_info: ExcInfo) -> str:
    """Frames, types and harmless texts; never the values of variables."""
    return "\n".join(_chain(exc_info[1], MOST_LINKS))


def _chain(exc: BaseException, links: int) -> Iterator[str]:
    earlier = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    if earlier and links:
        yield from _chain(earlier, links - 1)
        yield CAUSE if exc.__cause__ else CONTEXT
    if exc.__traceback__:
        yield "".join(traceback.format_tb(exc.__traceback__)).rstrip()
    yield f"{_name(exc)}: {_text(exc)}"
    for number, part in enumerate(_parts(exc) if links else (), 1):
        yield f"part {number} of it:"
        yield from _chain(part, links - 1)


def _parts(exc: BaseException) -> tuple[BaseException, ...]:
    if isinstance(exc, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", exc).exceptions
    return ()


def _name(exc: BaseException) -> str:
    kind = type(exc)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text(exc: BaseException) -> str:
    match exc:
        case InvalidRequest():
            return f"{exc.code} {WITHHELD}"
        case MlxMcpError() | MemoryError() | ImportError():
            return str(exc)
        case OSError():  # the name of a file can come from a request
            return os.strerror(exc.errno) if exc.errno else WITHHELD
        case RuntimeError() if DEVICE.match(str(exc)):
            return str(exc)
        case _:
            return WITHHELD
