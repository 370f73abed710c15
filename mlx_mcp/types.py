"""What travels between the surfaces and the engines: requests down, events up. Plain, frozen data."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from mlx_mcp.errors import MlxMcpError


class Capability(StrEnum):
    """What a model can be asked for."""

    CHAT = "chat"


class Door(StrEnum):
    """Where a request came in."""

    HTTP = "http"
    MCP = "mcp"
    CLI = "cli"


class Priority(StrEnum):
    """Who goes first, where requests wait for one model."""

    INTERACTIVE = "interactive"
    NORMAL = "normal"
    BACKGROUND = "background"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who asks, and how urgently."""

    door: Door
    request_id: str | None = None
    """The caller's own name for the request; ours is the job's id."""
    client: str | None = None
    priority: Priority = Priority.NORMAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn. None leaves it to the model's own defaults (see `mlx_mcp.engines.text.sampling`)."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    role: str
    content: str
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    needs: ClassVar = Capability.CHAT

    model: str
    messages: tuple[Message, ...]
    max_tokens: int | None = None
    """An upper bound; None leaves it to the settings, and the context's end bounds both."""
    sampling: Sampling = Sampling()
    seed: int | None = None
    stop: tuple[str, ...] = ()


Request = ChatRequest


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Those of the prompt that were found in the prompt cache."""


@dataclass(frozen=True, slots=True)
class Queued:
    """The job waits for a slot behind `ahead` others."""

    ahead: int


@dataclass(frozen=True, slots=True)
class Loading:
    """The model is being brought into memory: what happens right now, and how far it is, if that is known."""

    what: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class LoadEnded:
    """The model is in memory, or could not be brought there."""

    seconds: float
    ok: bool = True


@dataclass(frozen=True, slots=True)
class Started:
    """The engine has taken the job in."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Work done before the first piece of the answer: prompt tokens read so far, and in all."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """The last event of a job that succeeds."""

    finish_reason: str
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Failed:
    """The last event of a job that does not."""

    error: MlxMcpError


Event = Queued | Loading | LoadEnded | Started | Progress | Text | Done | Failed
FINAL = (Done, Failed)


@dataclass(slots=True)
class Result:
    """All the events of one job, folded."""

    pieces: list[str] = field(default_factory=list[str])
    done: Done | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def add(self, event: Event) -> None:
        match event:
            case Text(text):
                self.pieces.append(text)
            case Done():
                self.done = event
            case _:
                pass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a model's own files say about it. Unknown things are None, as before its files are there."""

    kind: str | None = None
    """Which engine serves it."""
    family: str | None = None
    """The architecture: `model_type` in its config."""
    context_length: int | None = None
    """Tokens, prompt and answer together."""
    quantization: str | None = None
    size_bytes: int | None = None
    """On disk."""
    capabilities: frozenset[Capability] = frozenset()
