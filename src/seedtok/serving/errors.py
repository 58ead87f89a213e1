"""Errors in OpenAI's format: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from seedtok.core.errors import ImageError, InputError, SeedTokError
from seedtok.core.records import encodable

logger = logging.getLogger(__name__)
LONGEST = 400  # characters of a message: some quote what the client sent
KINDS = {401: "authentication_error", 429: "rate_limit_error"}
CODES = {404: "not_found", 405: "method_not_allowed", 408: "timeout", 413: "too_large"}


class ErrorDetail(BaseModel):
    """What went wrong with a request."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorDetail


class ApiError(Exception):
    """An answer that is an error: its HTTP status, and what the client is told."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param


class ClientGone(Exception):
    """The client closed the connection before its answer was ready."""


def body_of(error: ApiError) -> dict[str, Any]:
    """The JSON body of an error."""
    message = encodable(" ".join(error.message.split()))
    message = message if len(message) <= LONGEST else f"{message[:LONGEST]}..."
    kind = "server_error" if error.status >= 500 else KINDS.get(error.status, "invalid_request_error")
    code = error.code or CODES.get(error.status)
    return {"error": {"message": message, "type": kind, "param": error.param, "code": code}}


def as_api_error(error: Exception) -> ApiError:
    """What a client is told of an error: all of its own, and of ours only that there was one."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InputError | ImageError):
        return ApiError(400, str(error), "invalid_value")
    logger.error("failed", exc_info=error)
    reason = "the model could not be run" if isinstance(error, SeedTokError) else "an internal error"
    return ApiError(500, f"{reason}; the server's log has the details", "internal_error")


def _answer(error: ApiError, headers: dict[str, str] | None = None) -> JSONResponse:
    more = {"Retry-After": "1"} if error.status in (429, 503) else {}
    return JSONResponse(body_of(error), error.status, {**(headers or {}), **more})


async def _on_error(_: Request, error: Exception) -> JSONResponse:
    return _answer(as_api_error(error))


async def _on_gone(_: Request, __: Exception) -> JSONResponse:
    return JSONResponse(None, 499)  # nobody reads it; the log has the status


async def _on_http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _answer(ApiError(error.status_code, str(error.detail)), dict(error.headers or {}))


async def _on_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = [str(part) for part in first["loc"][1:]]
    if first["type"] == "json_invalid":
        return _answer(ApiError(400, "the body is not valid JSON", "invalid_json"))
    if not place and first["type"] == "value_error":  # of several fields together
        return _answer(ApiError(400, str(first["ctx"]["error"]), "invalid_value"))
    if not place:
        return _answer(ApiError(400, "the body is not a JSON object; send one as application/json", "invalid_json"))
    param = encodable(".".join(place))[:LONGEST]
    return _answer(ApiError(400, f"{param}: {first['msg']}", "invalid_value", param))


def handle_errors(app: FastAPI) -> None:
    """Has an application answer all errors in OpenAI's format."""
    app.add_exception_handler(ApiError, _on_error)
    app.add_exception_handler(SeedTokError, _on_error)
    app.add_exception_handler(ClientGone, _on_gone)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_error)
