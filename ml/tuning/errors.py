"""Errors that the tuning service answers a request with."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A request that the service refuses, or cannot answer at present.

    Args:
        status: HTTP status: 400 to 499, or 503 if the database is unavailable.
        message: What is wrong; for invalid data it starts with the path of the key.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message

    def body(self) -> dict[str, Any]:
        """Return the JSON of the response."""
        return {"message": self.message, "status": self.status}


def invalid(path: str, problem: str) -> ApiError:
    """Return the error for a value that cannot be accepted.

    Args:
        path: Path of the key, such as `parameters[2].bounds.max`; empty for the whole body.
        problem: What is wrong, such as `must be a number`.
    """
    return ApiError(400, f"{path}: {problem}" if path else f"The request {problem}")


def missing(kind: str, identity: object) -> ApiError:
    """Return the error for an object that does not exist, or that belongs to another client."""
    return ApiError(404, f"There is no {kind} {identity}")
