"""
Every setting there is.

Flags, the environment (`MLX_MCP_*`), `mlx-mcp.toml` and the defaults fill this one model, in that order of precedence.
"""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import platformdirs
from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings.sources import NoDecode

from mlx_mcp.errors import SettingsError

FILE_NAME = "mlx-mcp.toml"
PREFIX = "MLX_MCP_"
STARTER = "starter:"
"""Before the name of a model that the package index carries (`mlx_mcp.engines.starters`)."""
CONFIG = "MLX_MCP_CONFIG"
"""Where the file is."""
FOR_TESTS = "MLX_MCP_TEST_"
"""Variables that only the tests read."""

PREDECESSORS_KINDS = {"lm": "text"}
"""The names that mlx-openai-server had for `--model-type`."""


def _current_name(kind: object) -> object:
    return PREDECESSORS_KINDS.get(kind, kind) if isinstance(kind, str) else kind


Kind = Annotated[Literal["text"], BeforeValidator(_current_name)]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "console", "json"]


class SamplingSettings(BaseModel):
    """What a model's requests get where they say nothing themselves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None


class ModelSettings(BaseModel):
    """One model that is served. A bare string is its source."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1, description="The name that clients ask for; made from the source if not given.")
    source: str = Field(
        min_length=1, description="A local directory, a hub id (org/name or org/name@revision), or starter:NAME."
    )
    kind: Kind | None = Field(default=None, description="Which engine serves it; found from its files if not given.")
    version: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = Field(
        default=None, description="Makes its name id@version; the bare id is then the first of that id."
    )
    aliases: tuple[str, ...] = Field(default=(), description="Other names for it.")
    pin: bool = Field(default=False, description="Load it at the start and never evict it.")
    ttl: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Seconds without a request after which it is unloaded; `idle_ttl` if not given."
    )
    sampling: SamplingSettings = Field(default=SamplingSettings(), description="Defaults of its requests.")
    trust_remote_code: bool = Field(default=False, description="Run code that its repository brings.")
    context_length: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="Tokens, prompt and answer together; the model's own limit if not given."
    )
    max_concurrency: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="Requests that are worked on at once; `max_concurrency` of the server if not given."
    )

    @property
    def name(self) -> str:
        """Unique among all models."""
        return f"{self.id}@{self.version}" if self.version else self.id

    @model_validator(mode="before")
    @classmethod
    def _from_source(cls, data: object) -> object:
        if isinstance(data, str):
            data = {"source": data}
        if isinstance(data, dict) and "id" not in data and isinstance(data.get("source"), str):  # pyright: ignore[reportUnknownMemberType]
            values = cast("dict[str, object]", data)
            return {"id": default_id(str(values["source"])), **values}
        return cast("object", data)


def default_id(source: str) -> str:
    """
    A directory's name, a starter's name, or a hub id without its revision.

    Never raises: what is no source is its own name, until whoever looks for the model says what is wrong with it.
    """
    if source.startswith(STARTER):
        return source.removeprefix(STARTER) or source
    try:
        path = Path(source).expanduser()
        if source and (path.is_absolute() or source.startswith(("./", "../")) or path.is_dir()):
            return path.resolve().name or source
    except (OSError, RuntimeError, ValueError):  # too long, no such user, a loop of links, a NUL
        return source
    return source.partition("@")[0] or source


class Settings(BaseSettings):
    """The settings of one server process."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    models: Annotated[tuple[ModelSettings, ...], NoDecode] = Field(
        default=(), description="Models to serve: sources, or tables with an id; none means the starter models."
    )
    model_type: Kind | None = Field(default=None, description="Overrides the kind found in the models' files.")
    context_length: int | None = Field(default=None, ge=2, description="Upper bound of every model's context, tokens.")
    max_concurrency: int = Field(default=32, ge=1, le=1024, description="Requests a model works on at once.")
    queue_size: int = Field(default=100, ge=1, description="Requests that may wait for a model; more are refused.")
    queue_timeout: float = Field(default=300, gt=0, description="Seconds a request may take, from its arrival.")
    default_max_tokens: int = Field(default=1024, ge=1, description="Length of an answer when a request names none.")
    memory_budget: ByteSize | None = Field(
        default=None, description="Memory for all models and their caches; 70 % of the machine's if not given."
    )
    idle_ttl: float | None = Field(
        default=None, gt=0, description="Seconds without a request after which a model is unloaded."
    )
    compute_gate: Literal["auto", "on", "off"] = Field(
        default="auto", description="One engine computes at a time; auto: on with Metal, off on a CPU."
    )
    prompt_cache_bytes: int = Field(default=1 << 30, ge=0, description="Memory for cached prompts, per model.")
    keep_alive: float = Field(default=10, gt=0, description="Seconds of silence before a stream gets a comment.")
    log_level: LogLevel = Field(default="info", description="The least that is logged: debug, info, warning or error.")
    log_format: LogFormat = Field(default="auto", description="Log lines: console, json, or by where stderr goes.")
    cache_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_cache_dir("mlx-mcp")),
        description="Where starter models are kept.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        sources = [init_settings, _Environment(settings_cls)]
        if file := config_file():
            sources.append(TomlConfigSettingsSource(settings_cls, toml_file=file))
        return tuple(sources)


class _Environment(EnvSettingsSource):
    """The environment, where a list of models is separated by commas: MLX_MCP_MODELS=a,b"""

    def prepare_field_value(self, field_name: str, field: Any, value: Any, value_is_complex: bool) -> Any:
        if field_name == "models" and isinstance(value, str):
            return [name.strip() for name in value.split(",") if name.strip()]
        return super().prepare_field_value(field_name, field, value, value_is_complex)


def config_file() -> Path | None:
    """`MLX_MCP_CONFIG` if set, else the first of ./mlx-mcp.toml and the one in the user's configuration directory."""
    if named := os.environ.get(CONFIG):
        path = Path(named).expanduser()
        if not path.is_file():
            raise SettingsError(f"{CONFIG} names {path}, and there is no such file.")
        return path
    places = [Path(FILE_NAME), Path(platformdirs.user_config_dir("mlx-mcp")) / FILE_NAME]
    return next((path for path in places if path.is_file()), None)


def load_settings(**flags: Any) -> Settings:
    """
    The settings of this process; flags that are None were not given.

    Raises:
        SettingsError: A key is unknown (the nearest known one is named) or a value is not valid.
    """
    _check_environment(os.environ)
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as exc:
        raise SettingsError("\n".join(_explain(error) for error in exc.errors())) from exc
    except ValueError as exc:  # a file that is not TOML
        raise SettingsError(f"{config_file()}: {exc}") from exc


def _check_environment(environment: Iterable[str]) -> None:
    known = {name.upper() for name in Settings.model_fields}
    for variable in environment:
        name = variable.removeprefix(PREFIX)
        if name == variable or name in known or variable == CONFIG or variable.startswith(FOR_TESTS):
            continue
        raise SettingsError(f"{variable} is no setting.{_nearest(name, known, PREFIX)}")


def _explain(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        tables = {3: ModelSettings, 4: SamplingSettings}  # as in models.0.sampling.temperature
        table = tables.get(len(error["loc"]), Settings)
        return f"{place} is no setting.{_nearest(str(error['loc'][-1]), table.model_fields)}"
    return f"{place}: {error['msg']} (not {error['input']!r})"


def _nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    names = [prefix + each for each in close or known]
    return f" Did you mean {names[0]}?" if close else f" Known are: {', '.join(names)}."
