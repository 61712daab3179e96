"""Turns errors of the tuning service into responses over HTTP."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

from ml.http.errors import error_response
from ml.tuning.errors import ApiError

HEADERS: Mapping[int, dict[str, str]] = {
    401: {"WWW-Authenticate": 'Basic realm="evergreen"'},
    429: {"Retry-After": "1"},
    503: {"Retry-After": "10"},
}
"""Headers by status. A browser asks for the token, and a client knows after how many seconds it can try again."""


def refusal(error: ApiError) -> JSONResponse:
    """Return the response to a call that was refused."""
    return error_response(error.status, error.message, HEADERS.get(error.status))
