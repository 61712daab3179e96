"""Connections of trials to the tuning service: over HTTP if `SIGOPT_API_URL` is set, else in process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

URL, TOKEN = "SIGOPT_API_URL", "SIGOPT_API_TOKEN"


@dataclass(frozen=True)
class Service:
    """A tuning service.

    Attributes:
        database: Path or URL of the service's database, for calls in process.
        url: URL of a service over HTTP; empty for calls in process. Its token is in `SIGOPT_API_TOKEN`.
    """

    database: str
    url: str = ""

    @classmethod
    def of(cls, database: str) -> Service:
        """Returns the service that `SIGOPT_API_URL` names, or the one in process."""
        return cls(database, os.environ.get(URL) or "")

    def connect(self, worker: str | None = None) -> Any:
        """Connects the sigopt client.

        Args:
            worker: Name of the worker that suggestions belong to. A worker that is started again with its name gets its open
                suggestion back.

        Returns:
            `sigopt.Connection`, whose endpoints have no types.

        Raises:
            ValueError: `SIGOPT_API_URL` is set, and `SIGOPT_API_TOKEN` is not.
        """
        os.environ.setdefault("SIGOPT_PROJECT", "evergreen")  # its import fails in some folders without one
        from sigopt import Connection

        from ml.tuning.driver import WORKER_HEADER, Driver

        if not self.url:
            if "://" not in self.database:
                Path(self.database).parent.mkdir(parents=True, exist_ok=True)
            return Connection(driver=Driver, database=self.database, worker=worker)  # type: ignore[arg-type]
        if not os.environ.get(TOKEN):
            raise ValueError(f"{TOKEN} is not set; the tuning service at {self.url} requires the token that it prints at start")
        headers = {WORKER_HEADER: worker} if worker else {}
        return Connection(client_token=os.environ[TOKEN], api_url=self.url, headers=headers)
