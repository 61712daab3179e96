"""The body of an error response: `{"message": ..., "status": ...}`, for every error of every service."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

MOST_CHARACTERS = 4000
"""Most characters of a message, which can quote what the client has sent."""


def error_response(status: int, message: str = "", headers: dict[str, str] | None = None) -> JSONResponse:
    """Build the response of an error.

    Args:
        status: Status code.
        message: What is wrong and what would be right, cut after `MOST_CHARACTERS`; by default the status code's phrase.
        headers: More headers.

    Returns:
        The response.
    """
    message = message[:MOST_CHARACTERS] or HTTPStatus(status).phrase
    return JSONResponse({"message": message, "status": status}, status, headers)


def install_error_handlers(app: FastAPI) -> None:
    """Render all errors of an app in the one shape."""
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(Exception, _server_error)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return error_response(error.status_code, str(error.detail), dict(error.headers or {}))


async def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = (f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors())
    return error_response(400, "; ".join(faults))


async def _server_error(request: Request, error: Exception) -> JSONResponse:
    """Hide the exception from the client. The server logs it."""
    return error_response(500)
