"""The options that `serve` and `stdio` share. None means: not given, so that environment and file have their say."""

from pathlib import Path
from typing import Annotated

import typer

Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL",
        help="A directory, or a hub id such as mlx-community/NAME. None: the starter models.",
        show_default=False,
    ),
]
Host = Annotated[str | None, typer.Option(help="Address to listen on. \\[default: 127.0.0.1]", show_default=False)]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 picks one. \\[default: 8000]", show_default=False)]
ModelType = Annotated[
    str | None, typer.Option(help="Kind of the models, if what their files say is wrong: text.", show_default=False)
]
ContextLength = Annotated[
    int | None, typer.Option(help="Upper bound of every model's context, in tokens.", show_default=False)
]
MaxConcurrency = Annotated[
    int | None, typer.Option(help="Requests a model works on at once. \\[default: 32]", show_default=False)
]
QueueSize = Annotated[
    int | None, typer.Option(help="Requests that may wait for a model. \\[default: 100]", show_default=False)
]
QueueTimeout = Annotated[
    float | None, typer.Option(help="Seconds a request may take in all. \\[default: 300]", show_default=False)
]
DefaultMaxTokens = Annotated[
    int | None, typer.Option(help="Length of an answer when none is asked for. \\[default: 1024]", show_default=False)
]
LogLevel = Annotated[
    str | None,
    typer.Option(help="The least that is logged: debug, info, warning, error. \\[default: info]", show_default=False),
]
LogFormat = Annotated[
    str | None,
    typer.Option(help="console, json, or auto: console on a terminal. \\[default: auto]", show_default=False),
]
CacheDir = Annotated[Path | None, typer.Option(help="Where starter models are kept.", show_default=False)]
