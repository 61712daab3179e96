"""Connections of trials to the tuning service: over HTTP if `SIGOPT_API_URL` is set, else in process.

A call that fails because the service is unreachable or busy is repeated. The calls of a worker can be repeated safely: a worker
has one open suggestion, and a suggestion has one result.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import backoff

from ml.http.guard import LOOPBACK
from ml.tuning.errors import ApiError

URL, TOKEN = "SIGOPT_API_URL", "SIGOPT_API_TOKEN"
PATIENCE = 300.0
"""Seconds for which a call is repeated."""
_LONGEST_WAIT = 10.0  # seconds between two attempts
_log = logging.getLogger("evergreen")


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

    def check_reach(self, scheduler: str) -> None:
        """Refuses a database on this machine for Dask workers on other machines.

        Args:
            scheduler: Address of the Dask scheduler, such as `tcp://10.0.0.5:8786`; empty for workers on this machine.

        Raises:
            ValueError: Workers of the scheduler would open a database of their own.
        """
        here = not scheduler or urlsplit(scheduler).hostname in LOOPBACK
        if not here and not self.url and ("://" not in self.database or self.database.startswith("sqlite")):
            raise ValueError(
                f"the workers of the Dask scheduler {scheduler} cannot open {self.database}, a SQLite file on this machine: "
                f"set EVERGREEN_TUNING_DB to a PostgreSQL URL, or start `make sigopt` and set {URL} and {TOKEN} for all workers"
            )

    def connect(self, worker: str | None = None, patience: float = PATIENCE) -> Any:
        """Connects the sigopt client.

        Args:
            worker: Name of the worker that suggestions belong to. A worker that is started again with its name gets its open
                suggestion back.
            patience: Seconds for which a call is repeated if the service is unreachable or busy; 0 to call once.

        Returns:
            `sigopt.Connection`, whose endpoints have no types.

        Raises:
            ValueError: `SIGOPT_API_URL` is set, and `SIGOPT_API_TOKEN` is not.
        """
        os.environ.setdefault("SIGOPT_PROJECT", "evergreen")  # its import fails in some folders without one
        from sigopt import Connection
        from sigopt.request_driver import RequestDriver

        from ml.tuning.driver import WORKER_HEADER, Driver

        if not self.url:
            if "://" not in self.database:
                Path(self.database).parent.mkdir(parents=True, exist_ok=True)
            driver = _repeating(Driver, patience)
            return Connection(driver=driver, database=self.database, worker=worker)  # type: ignore[arg-type]
        if not os.environ.get(TOKEN):
            raise ValueError(f"{TOKEN} is not set; the tuning service at {self.url} requires the token that it prints at start")
        headers = {WORKER_HEADER: worker} if worker else {}
        driver = _repeating(_complete(RequestDriver), patience)
        return Connection(driver=driver, client_token=os.environ[TOKEN], api_url=self.url, headers=headers)  # type: ignore[arg-type]


def _complete(driver: type) -> type:
    """Returns an HTTP driver that refuses incomplete answers, as of a service that was killed.

    The library under the sigopt client does not compare the body with its announced length, and the client returns a body that
    is not JSON as an object without fields.
    """
    from sigopt.exception import ConnectionException

    class Complete(driver):
        def _handle_response(self, response: Any) -> Any:
            if response.ok and response.status_code != 204:
                try:
                    response.json()
                except ValueError as error:
                    raise ConnectionException(f"The tuning service sent an incomplete answer: {error}") from error
            return super()._handle_response(response)

    return Complete


def _repeating(driver: type, patience: float) -> type:
    """Returns a driver of the sigopt client that repeats requests, with growing waits, for `patience` seconds."""
    from sigopt.exception import ApiException, ConnectionException

    repeat = backoff.on_exception(
        backoff.expo,
        (ApiException, ConnectionException, ApiError),
        giveup=lambda error: not patience or _is_final(error),
        max_time=patience or None,
        max_value=_LONGEST_WAIT,
        on_backoff=_report,
        logger=None,  # type: ignore  # the library accepts None
    )

    class Repeating(driver):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            repeat(super().__init__)(*arguments, **named)  # the driver in process opens the database

        def request(self, *request: Any) -> Any:
            return repeat(super().request)(*request)

    return Repeating


def _report(_attempt: Any) -> None:
    _log.warning("the tuning service does not answer; trying again: %s", sys.exception())


def _is_final(error: Exception) -> bool:
    """Whether the service answered, and would answer the same again."""
    status = error.status if isinstance(error, ApiError) else getattr(error, "status_code", None)
    return status is not None and status != 429 and status < 500
