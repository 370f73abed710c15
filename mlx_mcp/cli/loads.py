"""Models on their way into memory, as a person at a terminal sees it."""

import logging
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mlx_mcp.gateway import Model
from mlx_mcp.types import LoadEnded, Loading

logger = logging.getLogger(__name__)

Show = Callable[[Loading | LoadEnded], None]


@contextmanager
def show_loads(models: Iterable[Model]) -> Generator[None]:
    """Bars on a terminal, else a log line for each thing that is done."""
    with ExitStack() as stack:
        if sys.stderr.isatty():
            columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
            progress = stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
            for model in models:
                stack.enter_context(model.listening(_bar(progress, model)))
        else:
            for model in models:
                stack.enter_context(model.listening(_lines(model)))
        yield


def _bar(progress: Progress, model: Model) -> Show:
    task = progress.add_task(model.id, visible=False)

    def show(news: Loading | LoadEnded) -> None:
        match news:
            case Loading(what, done, total):
                progress.update(
                    task, description=f"{model.id}: {what}", completed=done, total=total or None, visible=True
                )
            case LoadEnded():
                progress.update(task, visible=False)

    return show


def _lines(model: Model) -> Show:
    said = ""

    def show(news: Loading | LoadEnded) -> None:
        nonlocal said
        if isinstance(news, Loading) and news.what != said:
            said = news.what
            logger.info("%s: %s", model.id, said)

    return show
