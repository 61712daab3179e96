"""What a handler receives: one call of the API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ml.tuning.definition import Assignments, Study
from ml.tuning.leases import Leases


@dataclass(frozen=True)
class Caller:
    """Who calls.

    Attributes:
        client: Id of the client that owns what the call reads and creates.
        token: The token of the request, if it had one.
        worker: Name of the worker that calls, if it named itself. Suggestions belong to workers, see `ml.tuning.leases`.
        development: Whether the token is a development token, which creates experiments for tests.
        experiment: The only experiment that the token gives access to; None for all.
        url: URL under which the caller reaches the service, for links in responses.
    """

    client: int = 1
    token: str | None = None
    worker: str | None = None
    development: bool = False
    experiment: int | None = None
    url: str = ""


class NeedsSuggestion(Exception):
    """Raised by `Call.propose` to have a suggestion computed outside the transaction, after which the call is repeated."""

    def __init__(self, study: Study, without_expired: Study, experiment: int) -> None:
        super().__init__("the suggestion has to be computed outside the transaction")
        self.study, self.without_expired, self.experiment = study, without_expired, experiment


@dataclass
class Call:
    """One call of the API, in one transaction.

    Attributes:
        connection: Connection with an open transaction.
        caller: Who calls.
        arguments: Values of the path's placeholders.
        data: The JSON body; of GET and DELETE, the query parameters as strings.
        now: Unix time in seconds.
        leases: How long a suggestion belongs to its worker.
        proposal: A suggestion that was computed for this call, with the study it was computed for.
    """

    connection: sa.Connection
    caller: Caller
    arguments: Mapping[str, str]
    data: Mapping[str, Any]
    now: float
    leases: Leases = field(default_factory=Leases)
    proposal: tuple[Study, Assignments] | None = None

    def propose(self, study: Study, without_expired: Study, experiment: int) -> Assignments:
        """Return the engine's suggestion for a study.

        An engine can compute for seconds, during which others must be able to write. So the first attempt raises, which ends
        the transaction, and `TuningService` repeats the call with the result. It is accepted unless the experiment was changed,
        or the same assignments have been suggested or observed in the meantime.

        Args:
            study: What is known, where `open` includes suggestions whose lease has ended.
            without_expired: The same without them, for when all other points are tried.
            experiment: Id of the experiment.

        Raises:
            NeedsSuggestion: There is no suggestion for this study yet.
        """
        if self.proposal is not None:
            asked, assignments = self.proposal
            unchanged = (asked.space, asked.metrics, asked.kind) == (study.space, study.metrics, study.kind)
            tried = [*without_expired.open, *(observation.assignments for observation in study.observations)]
            if asked == study or (unchanged and assignments not in tried):
                return assignments
        raise NeedsSuggestion(study, without_expired, experiment)
