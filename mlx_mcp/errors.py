"""
Every error that a caller may be told about.

An error's docstring is its message, unless the place that raises it knows more. `code` is stable: clients match on it.
Surfaces translate these; nothing below a surface does.
"""

from typing import ClassVar


class MlxMcpError(Exception):
    """Something went wrong in this server; its log has the details."""

    code: ClassVar[str] = "server_error"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or " ".join((type(self).__doc__ or "").split()))


class InvalidRequest(MlxMcpError):
    """The request cannot be served as it stands."""

    code = "invalid_value"

    def __init__(self, message: str | None = None, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class UnsupportedParameter(InvalidRequest):
    """This server does not support that parameter."""

    code = "unsupported_parameter"


class ContextOverflow(InvalidRequest):
    """The prompt does not fit into the model's context."""

    code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, context_length: int) -> None:
        super().__init__(
            f"The prompt has {prompt_tokens} tokens and the model's context holds {context_length}, "
            "of which at least one is for the answer. Shorten the prompt.",
            param="messages",
        )


class NotCapable(InvalidRequest):
    """That model cannot do what was asked of it."""

    code = "model_not_capable"


class PromptTooLarge(InvalidRequest):
    """The request needs more memory than there is for it."""

    code = "insufficient_memory"

    def __init__(self, need: int, allowed: int) -> None:
        super().__init__(
            f"The prompt and its answer need {need / 1e6:,.0f} MB of memory, and {allowed / 1e6:,.0f} MB are there for "
            "them. Shorten the prompt, or lower max_tokens.",
            param="messages",
        )


class UnknownModel(MlxMcpError):
    """No model is served under that name."""

    code = "model_not_found"


class UnknownJob(MlxMcpError):
    """There is no job with that id, or it has been forgotten."""

    code = "job_not_found"


class QueueFull(MlxMcpError):
    """The queue is full; try again later."""

    code = "queue_full"

    def __init__(self, queued: int, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"The queue is full: {queued} requests wait. Try again in {retry_after_s:.0f} s.")


class JobExpired(MlxMcpError):
    """The job ran past its deadline."""

    code = "deadline_exceeded"


class JobCancelled(MlxMcpError):
    """The job was cancelled."""

    code = "cancelled"


class ModelUnavailable(MlxMcpError):
    """The model could not be loaded."""

    code = "model_unavailable"


class ModelTooLarge(ModelUnavailable):
    """The model can never fit into the memory budget."""

    code = "model_too_large"

    def __init__(self, name: str, need: int, budget: int, pinned: int) -> None:
        others = f", of which pinned models hold {pinned / 1e6:,.0f} MB" if pinned else ""
        super().__init__(
            f"{name} needs {need / 1e6:,.0f} MB of memory, and the budget is {budget / 1e6:,.0f} MB{others}. "
            "Choose a smaller or more quantized one, or raise memory_budget."
        )


class ModelBusy(MlxMcpError):
    """The model is at work."""

    code = "model_busy"

    def __init__(self, name: str, requests: int) -> None:
        super().__init__(f"{name} works on {requests} request{'s' if requests > 1 else ''}; unload it when it is idle.")


class EngineFailed(MlxMcpError):
    """The engine failed while it worked on this request, and was restarted. The request can be sent again."""

    code = "engine_failed"


class ShuttingDown(MlxMcpError):
    """The server is shutting down."""

    code = "shutting_down"


class SettingsError(MlxMcpError):
    """The settings are not valid."""

    code = "invalid_settings"
