"""A client of the recommendation service over one connection, which fails loudly and is opened again for the next call."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

SECONDS = 10.0
"""Longest wait for an answer."""


class Unavailable(Exception):
    """The service has not answered, or refuses requests because it is overloaded. What was sent may have been stored."""


class ServiceClient:
    """Calls one service.

    Args:
        port: Its port on this machine.
        token: The file of its token. The service creates it, so it may not exist yet.
    """

    def __init__(self, port: int, token: Path) -> None:
        self._port, self._token = port, token
        self._connection: http.client.HTTPConnection | None = None

    def get(self, path: str) -> Any:
        """Return the answer to a GET; see `post`."""
        return self._call("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the answer to a POST.

        Raises:
            Unavailable: There was no answer, or one of status 503.
            ValueError: The service refuses the request.
        """
        return self._call("POST", path, json.dumps(body).encode())

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _call(self, method: str, path: str, body: bytes | None) -> Any:
        try:
            headers = {"Authorization": f"Bearer {self._token.read_text().strip()}", "Content-Type": "application/json"}
            if self._connection is None:
                self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=SECONDS)
            self._connection.request(method, path, body, headers)
            answer = self._connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unavailable(f"{path}: {type(error).__name__}: {error}") from error
        if answer.status == http.client.SERVICE_UNAVAILABLE:
            raise Unavailable(f"{path}: {text[:200]!r}")
        if answer.status >= http.client.BAD_REQUEST:
            raise ValueError(f"{path}: status {answer.status}: {text[:500]!r}")
        return json.loads(text)
