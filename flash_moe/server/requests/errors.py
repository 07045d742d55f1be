"""Errors of requests, in the formats of the two APIs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from flash_moe.errors import (
    ClosedError,
    ContextLengthError,
    FlashMoEError,
    GrammarError,
    PromptError,
    QueueFullError,
)

Api: TypeAlias = Literal["openai", "anthropic"]

# HTTP status to error types: OpenAI's, Anthropic's.
_TYPES = {
    400: ("invalid_request_error", "invalid_request_error"),
    401: ("invalid_request_error", "authentication_error"),
    403: ("permission_error", "permission_error"),
    404: ("invalid_request_error", "not_found_error"),
    405: ("invalid_request_error", "invalid_request_error"),
    408: ("timeout_error", "timeout_error"),
    411: ("invalid_request_error", "invalid_request_error"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("rate_limit_error", "rate_limit_error"),
    500: ("server_error", "api_error"),
    501: ("invalid_request_error", "invalid_request_error"),
    503: ("server_error", "overloaded_error"),
    504: ("timeout_error", "timeout_error"),
}
_MAX_MESSAGE = 1000  # characters; messages may quote what the client sent


class ApiError(Exception):
    """Error response to a client.

    Attributes:
        status: HTTP status.
        param: Invalid field of the request.
        code: Machine-readable code, OpenAI's where one exists.
        retry_after: Seconds after which to retry, if that may help.
        details: Machine-readable details of Anthropic's API.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message[:_MAX_MESSAGE].encode("utf-8", "replace").decode()
        self.param = param
        self.code = code
        self.retry_after = retry_after
        self.details = details

    def body(self, api: Api) -> dict[str, Any]:
        """Return the error object of an API."""
        unknown = _TYPES[400] if 400 <= self.status < 500 else _TYPES[500]
        openai, anthropic = _TYPES.get(self.status, unknown)
        if api == "anthropic":
            prefix = f"{self.param}: " if self.param else ""
            error: dict[str, Any] = {"type": anthropic, "message": f"{prefix}{self.message}"}
            if self.details is not None:
                error["details"] = dict(self.details)
            return {"type": "error", "error": error}
        return {
            "error": {
                "message": self.message,
                "type": openai,
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        elif self.status >= 500 or self.status == 408:
            # The official clients retry after these, which would restart a long answer.
            headers["x-should-retry"] = "false"
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


def invalid(param: str | None, message: str, code: str | None = None) -> ApiError:
    """Return the error for an invalid or unsupported request."""
    return ApiError(400, message, param=param, code=code)


def too_large(n_bytes: int) -> ApiError:
    """Return the error for a body above the limit."""
    return ApiError(413, f"expected a body of at most {n_bytes} bytes", code="request_too_large")


def unavailable(message: str) -> ApiError:
    return ApiError(503, message, code="unavailable", retry_after=5)


def timed_out(seconds: float) -> ApiError:
    return ApiError(504, f"the request exceeded the limit of {seconds:g} seconds", code="timeout")


def as_api_error(error: Exception) -> ApiError:
    """Convert any error for the client. Only messages of our own errors are sent."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, PromptError | GrammarError):
        code = "context_length_exceeded" if isinstance(error, ContextLengthError) else None
        return invalid(None, f"{error.problem}. {error.hint}".strip(), code)
    if isinstance(error, QueueFullError):
        return ApiError(429, f"{error.problem}. {error.hint}", code="queue_full", retry_after=5)
    if isinstance(error, ClosedError):
        return unavailable("the server is stopping")
    if isinstance(error, FlashMoEError):
        return ApiError(500, str(error), code="internal_error")
    return ApiError(500, "internal error; see the server's log", code="internal_error")
