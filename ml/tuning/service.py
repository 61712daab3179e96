"""Answers calls of the API: finds the handler and runs it in one transaction."""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from ml.tuning import routes, values
from ml.tuning.call import Call, Caller, NeedsSuggestion
from ml.tuning.database import Database
from ml.tuning.definition import Assignments, Study
from ml.tuning.errors import ApiError, missing
from ml.tuning.leases import Leases
from ml.tuning.records import tokens
from ml.tuning.router import Router

Engine = Callable[[Study], Assignments]
"""Returns a suggestion for a study."""

MAX_ATTEMPTS = 5  # how often a suggestion is computed again because the experiment has changed in the meantime


class TuningService:
    """SigOpt's API over a database.

    Calls can come from several threads, and several services can use one database at the same time.

    Args:
        database: Where everything is stored.
        leases: How long a suggestion belongs to its worker.
        engine: Computes suggestions.
        clock: Returns the time in Unix seconds.
        most_waiting: How many calls can wait for a suggestion that is computed. Further ones are refused with status 429, so
            that a server has threads left for other calls.

    Example:
        >>> import tempfile
        >>> service = TuningService(Database(tempfile.mkdtemp() + "/tuning.db"))
        >>> body = {
        ...     "name": "DLRM",
        ...     "parameters": [{"name": "lr", "type": "double", "bounds": {"min": 0.001, "max": 1.0}, "transformation": "log"}],
        ...     "metrics": [{"name": "auc"}],
        ... }
        >>> service.handle("POST", ["experiments"], body)["id"]
        '1'
        >>> service.handle("GET", ["experiments", "1"])["metrics"][0]["objective"]
        'maximize'
    """

    def __init__(
        self,
        database: Database,
        *,
        leases: Leases | None = None,
        engine: Engine | None = None,
        clock: Callable[[], float] = time.time,
        most_waiting: int = sys.maxsize,
    ) -> None:
        self.database, self.leases, self._engine, self._clock = database, leases or Leases(), engine or _suggest, clock
        self.router = Router(routes.ROUTES)
        self._locks = defaultdict[int, threading.Lock](threading.Lock)  # one suggestion at a time is computed per experiment
        self._most_waiting, self._places = most_waiting, threading.BoundedSemaphore(most_waiting)

    def authenticate(self, token: str | None, worker: str | None = None) -> Caller:
        """Return who sends a token.

        Args:
            token: The token, or `TOKEN@WORKER` to name the worker also.
            worker: Name of the worker, from a header.

        Raises:
            ApiError: 401 if the token is missing, unknown or expired.
        """
        with self.database.transaction(write=False) as connection:
            return tokens.authenticate(connection, token, worker, self._clock())

    def handle(
        self, method: str, path: Sequence[str], data: Mapping[str, Any] | None = None, caller: Caller | None = None
    ) -> dict[str, Any] | None:
        """Answer one call.

        Args:
            method: `GET`, `POST`, `PUT`, `MERGE` or `DELETE`.
            path: Parts of the path behind `/v1/`.
            data: The JSON body; of GET and DELETE, the query parameters.
            caller: Who calls; by default the first client.

        Returns:
            The JSON of the response; None if it has no content.

        Raises:
            ApiError: The call is refused.
        """
        path = [str(values.check(part, "path")) for part in path]
        route, arguments = self.router.find(method.upper(), path)
        checked = values.check(data or {})
        who = caller or Caller()
        if who.worker is not None:
            values.as_text(who.worker, "worker", limit=tokens.MAX_WORKER)
        if arguments.get("client", str(who.client)) != str(who.client):
            raise missing("client", arguments["client"])

        def attempt(proposal: tuple[Study, Assignments] | None = None) -> dict[str, Any] | None:
            with self.database.transaction(write=route.writes) as connection:
                return route.handler(self.call(connection, who, arguments, checked, proposal))

        try:
            return attempt()
        except NeedsSuggestion as needed:
            experiment = needed.experiment
        with self._place(), self._locks[experiment]:
            return self._with_suggestion(attempt)

    def call(
        self,
        connection: sa.Connection,
        caller: Caller,
        arguments: Mapping[str, str],
        data: Mapping[str, Any] | None = None,
        proposal: tuple[Study, Assignments] | None = None,
    ) -> Call:
        """Return a call at the present time, see `Call`."""
        return Call(connection, caller, arguments, data or {}, self._clock(), self.leases, proposal)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Take one of the places of calls that wait for suggestions, or refuse the call."""
        if not self._places.acquire(blocking=False):
            raise ApiError(429, f"{self._most_waiting} calls wait for suggestions, as many as can; try again")
        try:
            yield
        finally:
            self._places.release()

    def _with_suggestion(
        self, attempt: Callable[[tuple[Study, Assignments] | None], dict[str, Any] | None]
    ) -> dict[str, Any] | None:
        """Repeat a call until a computed suggestion is still good when it is stored."""
        proposal: tuple[Study, Assignments] | None = None
        for _ in range(MAX_ATTEMPTS):
            try:
                return attempt(proposal)
            except NeedsSuggestion as needed:
                proposal = needed.study, self._suggestion(needed)
        try:
            return attempt(proposal)
        except NeedsSuggestion:
            raise ApiError(429, "Other workers changed the experiment while the suggestion was computed; try again") from None

    def _suggestion(self, needed: NeedsSuggestion) -> Assignments:
        """Compute a suggestion. If the space has no other point left, it can repeat the suggestion of a worker that died."""
        from ml.tuning.engine import Exhausted, NoFeasiblePoint

        try:
            try:
                return self._engine(needed.study)
            except Exhausted:
                return self._engine(needed.without_expired)
        except Exhausted:
            raise ApiError(409, f"Every point of experiment {needed.experiment} has a result or is being tried") from None
        except NoFeasiblePoint:
            raise ApiError(400, f"No point of experiment {needed.experiment} satisfies its linear constraints") from None


def _suggest(study: Study) -> Assignments:
    from ml.tuning.engine import suggest  # imports Optuna

    return suggest(study)
