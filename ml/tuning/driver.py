"""Connects the sigopt client to a service in the same process, without a server or a token."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from ml.tuning.call import Caller
from ml.tuning.database import Database
from ml.tuning.errors import ApiError
from ml.tuning.service import TuningService

WORKER_HEADER = "X-Evergreen-Worker"


class Driver:
    """A driver for `sigopt.Connection`.

    Args:
        service: The service; alternatively `database`.
        database: Path or URL of the database, see `Database`.
        client_token: Token to authenticate with. Without it, calls come from the first client.
        worker: Name of this worker, see `ml.tuning.leases`.
        headers: Headers of every request, as the HTTP driver takes them; only `X-Evergreen-Worker` has an effect.

    Example:
        >>> import os, tempfile
        >>> os.environ.setdefault("SIGOPT_PROJECT", "example") and None
        >>> import sigopt
        >>> connection = sigopt.Connection(driver=Driver, database=tempfile.mkdtemp() + "/tuning.db")
        >>> experiment = connection.experiments().create(
        ...     name="DLRM",
        ...     parameters=[{"name": "batch_size", "type": "int", "grid": [4096, 1024, 2048]}],
        ...     metrics=[{"name": "auc"}],
        ... )
        >>> experiment.parameters[0].grid
        [1024.0, 2048.0, 4096.0]
    """

    def __init__(
        self,
        service: TuningService | None = None,
        *,
        database: str | Path | None = None,
        client_token: str | None = None,
        worker: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if (service is None) == (database is None):
            raise ValueError("give either service or database")
        self.service = service or TuningService(Database(database or ""))
        self._headers = dict(headers or {})
        if worker is not None:
            self._headers[WORKER_HEADER] = worker
        self._token = client_token
        self._stack = ExitStack()
        self._uploads = ""

    def close(self) -> None:
        """Stop the server of uploads, if one was started."""
        self._uploads = ""
        self._stack.close()

    def set_client_token(self, client_token: str) -> None:
        """Authenticate later calls with another token."""
        self._token = client_token

    def request(
        self, method: str, path: Sequence[object], data: Mapping[str, Any] | None, headers: Mapping[str, str] | None
    ) -> dict[str, Any] | None:
        """Answer one request, as the client's HTTP driver does.

        Raises:
            sigopt.exception.ApiException: The service refused the request.
        """
        from sigopt.exception import ApiException
        from sigopt.objects import ApiObject

        merged = {name.lower(): value for name, value in {**(headers or {}), **self._headers}.items()}
        worker = merged.get(WORKER_HEADER.lower())
        body = ApiObject.as_json(data or {})
        if method.upper() in ("GET", "DELETE"):
            body = {key: _query(value) for key, value in body.items() if value is not None}
        try:
            caller = Caller(worker=worker) if self._token is None else self.service.authenticate(self._token, worker)
            if "files" in path:
                caller = replace(caller, url=self._uploads_url())
            answer = self.service.handle(method, [str(part) for part in path], body, caller)
        except ApiError as error:
            raise ApiException(error.body(), error.status) from error
        return None if merged.get("x-response-content") == "skip" else answer

    def _uploads_url(self) -> str:
        """Return the URL for contents of files, which the client always sends over HTTP. The first call starts a server."""
        if not self._uploads:
            from ml.http.server import serving
            from ml.tuning.uploads import uploads_app

            self._uploads = self._stack.enter_context(serving(uploads_app(self.service.database)))
        return self._uploads


def _query(value: Any) -> str:
    """Return a query parameter as the HTTP driver encodes it."""
    return json.dumps(value, separators=(",", ":")) if isinstance(value, dict | list) else str(value)
