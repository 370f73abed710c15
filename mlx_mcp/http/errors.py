"""Which HTTP status and body each error becomes. No route handles an error itself."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mlx_mcp.errors import (
    EngineFailed,
    InvalidRequest,
    JobCancelled,
    JobExpired,
    MlxMcpError,
    ModelBusy,
    ModelTooLarge,
    ModelUnavailable,
    QueueFull,
    ShuttingDown,
    UnknownJob,
    UnknownModel,
)

CLIENT_CLOSED_REQUEST = 499
"""Not in any RFC; nginx's word for it, and the client that gets it is gone."""

STATUS: dict[type[MlxMcpError], int] = {
    InvalidRequest: 400,
    UnknownModel: 404,
    UnknownJob: 404,
    QueueFull: 429,
    JobCancelled: CLIENT_CLOSED_REQUEST,
    JobExpired: 504,
    ModelTooLarge: 400,
    ModelBusy: 409,
    ModelUnavailable: 503,
    ShuttingDown: 503,
    EngineFailed: 500,
    MlxMcpError: 500,
}
TYPES = {400: "invalid_request_error", 404: "invalid_request_error", 429: "rate_limit_error"}
"""OpenAI's `type` for a status; all others are `server_error`."""


def error_body(status: int, message: str, *, code: str | None, param: str | None = None) -> dict[str, Any]:
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")  # noqa: PLR2004
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def status_of(error: MlxMcpError) -> int:
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def body_of(error: MlxMcpError) -> dict[str, Any]:
    param = error.param if isinstance(error, InvalidRequest) else None
    if isinstance(error, UnknownModel):
        param = "model"
    return error_body(status_of(error), str(error), code=error.code, param=param)


def install_error_handlers(app: FastAPI) -> None:
    async def known(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, MlxMcpError)  # noqa: S101
        headers: dict[str, str] = {}
        if isinstance(error, QueueFull):
            headers["retry-after"] = str(math.ceil(error.retry_after_s))
        return JSONResponse(body_of(error), status_of(error), headers)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        message, param, code = explain(error.errors())
        return JSONResponse(error_body(400, message, code=code, param=param), 400)

    async def refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101
        body = error_body(error.status_code, error.detail, code=None)
        return JSONResponse(body, error.status_code, error.headers)

    async def unforeseen(_: Request, error: Exception) -> JSONResponse:
        known_error = MlxMcpError()
        return JSONResponse(body_of(known_error), 500)

    app.add_exception_handler(MlxMcpError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(Exception, unforeseen)


def explain(errors: Sequence[Mapping[str, Any]]) -> tuple[str, str | None, str]:
    """Message, parameter and code for the first of pydantic's errors, in the words of OpenAI's API."""
    error = errors[0]
    place = [part for part in error["loc"] if part != "body"]
    param = _dotted(place)
    match error["type"]:
        case "extra_forbidden":
            message, code = f"Unrecognized request argument supplied: {param}", "unknown_parameter"
        case "missing":
            message, code = f"Missing required parameter: {param!r}.", "missing_required_parameter"
        case "json_invalid":
            message, param, code = f"The body is not JSON: {error['ctx']['error']}.", None, "invalid_json"
        case "model_attributes_type" if not param:
            message = "The body must be a JSON object, with the header content-type: application/json."
            code = "invalid_json"
        case "unsupported_parameter":
            message, code = f"This server does not support {param!r} yet.", "unsupported_parameter"
        case "two_limits":
            message, param, code = f"{error['msg']}.", "max_tokens", "invalid_value"
        case _:
            message = f"Invalid {param!r}: {error['msg']}." if param else f"{error['msg']}."
            code = "invalid_value"
    return message, param, code


def _dotted(place: Sequence[str | int]) -> str | None:
    """messages, 0, content -> messages[0].content"""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or None
