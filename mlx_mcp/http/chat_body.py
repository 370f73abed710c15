"""The body of a chat completion, in OpenAI's words, and what of it this server serves."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from mlx_mcp.types import ChatRequest, Message, Priority, Sampling


def neutral(*values: object) -> AfterValidator:
    """For a parameter that would change the answer and is not served: only these values are let through."""

    def check(value: object) -> object:
        if value is not None and value not in values:
            raise PydanticCustomError("unsupported_parameter", "not supported")
        return value

    return AfterValidator(check)


def _parts(content: object) -> object:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextPart(Strict):
    type: Literal["text"]
    text: str


Content = Annotated[list[TextPart], BeforeValidator(_parts)]


class ChatMessage(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: str | None = None
    # What the SDKs send back of an answer that had none of it.
    annotations: Annotated[Any, neutral([])] = None
    audio: Annotated[Any, neutral()] = None
    function_call: Annotated[Any, neutral()] = None
    refusal: Annotated[Any, neutral("")] = None
    tool_calls: Annotated[Any, neutral([])] = None

    def to_message(self) -> Message:
        role = "system" if self.role == "developer" else self.role  # models know only the older word
        return Message(role=role, content="".join(part.text for part in self.content), name=self.name)


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: Annotated[Any, neutral(False)] = None


def _as_tuple(stop: object) -> object:
    return [] if stop is None else [stop] if isinstance(stop, str) else stop


class ChatBody(Strict):
    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: int | None = None
    stop: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=4), BeforeValidator(_as_tuple)] = []
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    priority: Priority | None = None

    # They change the answer and are not served yet.
    audio: Annotated[Any, neutral()] = None
    function_call: Annotated[Any, neutral("none", "auto")] = None
    functions: Annotated[Any, neutral([])] = None
    logit_bias: Annotated[Any, neutral({})] = None
    logprobs: Annotated[Any, neutral(False)] = None
    modalities: Annotated[Any, neutral(["text"])] = None
    n: Annotated[Any, neutral(1)] = None
    parallel_tool_calls: Annotated[Any, neutral(True, False)] = None  # says nothing without tools
    prediction: Annotated[Any, neutral()] = None
    reasoning_effort: Annotated[Any, neutral("none")] = None
    response_format: Annotated[Any, neutral({"type": "text"})] = None
    tool_choice: Annotated[Any, neutral("none", "auto")] = None
    tools: Annotated[Any, neutral([])] = None
    top_logprobs: Annotated[Any, neutral(0)] = None
    verbosity: Annotated[Any, neutral("medium")] = None
    web_search_options: Annotated[Any, neutral()] = None

    # Advisory: they do not touch the answer, and are let through.
    metadata: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    user: Any = None

    @model_validator(mode="after")
    def _one_limit(self) -> "ChatBody":
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise PydanticCustomError(
                "two_limits", "max_tokens and max_completion_tokens say different things; give one of them"
            )
        return self

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def to_request(self) -> ChatRequest:
        return ChatRequest(
            model=self.model,
            messages=tuple(message.to_message() for message in self.messages),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            sampling=Sampling(
                temperature=self.temperature,
                top_p=self.top_p,
                top_k=self.top_k,
                min_p=self.min_p,
                repetition_penalty=self.repetition_penalty,
                presence_penalty=self.presence_penalty,
                frequency_penalty=self.frequency_penalty,
            ),
            seed=self.seed,
            stop=tuple(self.stop),
        )
