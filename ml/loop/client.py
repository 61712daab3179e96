"""A client of the recommendation service over one connection, which fails loudly and is opened again for the next call."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import Any

import requests
from requests.exceptions import ChunkedEncodingError

SECONDS = 10.0
"""Longest wait for an answer."""
_UNANSWERED = (FileNotFoundError, requests.ConnectionError, requests.Timeout, ChunkedEncodingError)


class Unavailable(Exception):
    """The service did not answer, failed, or limits requests. It may have stored what was sent."""


class ServiceClient:
    """Calls one service.

    Args:
        port: Its port on this machine.
        token: The file of its token. The service creates it, so it may not exist yet.
    """

    def __init__(self, port: int, token: Path) -> None:
        self._url, self._token = f"http://127.0.0.1:{port}", token
        self._session = requests.Session()
        self._session.trust_env = False  # the proxies of the environment are for other machines

    def get(self, path: str) -> Any:
        """Return the answer to a GET; see `post`."""
        return self._call("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the answer to a POST.

        Raises:
            Unavailable: There was no answer, or one with status 429 or 5xx, after which the caller may try again.
            ValueError: The service refuses the request.
        """
        return self._call("POST", path, body)

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            headers = {"Authorization": f"Bearer {self._token.read_text().strip()}"}
            answer = self._session.request(method, f"{self._url}{path}", json=body, headers=headers, timeout=SECONDS)
        except _UNANSWERED as error:
            raise Unavailable(f"{path}: {type(error).__name__}: {error}") from error
        if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS or answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise Unavailable(f"{path}: status {answer.status_code}: {answer.text[:200]!r}")
        if not answer.ok:
            raise ValueError(f"{path}: status {answer.status_code}: {answer.text[:500]!r}")
        return answer.json()
