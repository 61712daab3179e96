"""One step of a worker of a tuning: it takes a suggestion, runs its trial, and reports the result.

A worker that was killed is started again with its name. It then gets its open suggestion back, and a result that its trial has
written is reported instead of computed again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ml.recipes.search import Search, with_assignments
from ml.trials.connection import Service
from ml.trials.experiment import Tried
from ml.trials.process import TrialFailed, in_process
from ml.trials.trial import Trial

USED_UP = 409  # the service's status if no budget is left
SECONDS_BETWEEN_BEATS = 20.0
_TEXT = 400  # characters of a log in the metadata of an observation, which SigOpt limits to 500


@dataclass(frozen=True)
class Worker:
    """A worker of a tuning.

    Attributes:
        name: Name that its suggestions belong to.
        service: The tuning service.
        experiment: Id of the experiment.
        search: What is tuned.
        trial: The trial of the recipe before assignments.
        folder: Folder of this machine in which trials have their folders.
    """

    name: str
    service: Service
    experiment: str
    search: Search
    trial: Trial
    folder: Path

    def run(self) -> Tried | None:
        """Run the next trial.

        Returns:
            What was tried, or None if no budget is left.
        """
        from sigopt.exception import ApiException

        connection = self.service.connect(self.name)
        experiment = connection.experiments(self.experiment)
        try:
            suggestion = experiment.suggestions().create()
        except ApiException as error:
            if error.status_code == USED_UP:
                return None
            raise
        assignments = dict(suggestion.assignments)
        done = self._try(connection, str(suggestion.id), assignments)
        values = [{"name": name, "value": value} for name, value in done.values.items()]
        metadata = {"evergreen_suggestion": str(suggestion.id), **done.metadata}
        body: dict[str, Any] = {"failed": True} if done.failed else {"values": values}
        experiment.observations().create(suggestion=suggestion.id, metadata=metadata, **body)
        return replace(done, metadata=metadata)

    def _try(self, connection: Any, suggestion: str, assignments: dict[str, Any]) -> Tried:
        reported = time.monotonic()

        def beat() -> None:
            nonlocal reported
            if time.monotonic() - reported >= SECONDS_BETWEEN_BEATS:
                reported = time.monotonic()
                connection.experiments(self.experiment).suggestions(suggestion).update()  # renews the lease

        try:
            recipe = with_assignments(self.trial.recipe, self.search.parameters, assignments)
        except ValidationError as error:
            return _failed(assignments, f"not a valid recipe: {error.errors()[0]['msg']}")
        try:
            done = in_process(replace(self.trial, recipe=recipe), self.folder / self.experiment / suggestion, beat=beat)
        except TrialFailed as error:
            return _failed(assignments, str(error))
        values, named = done.values(), [metric.name for metric in self.search.metrics]
        if undefined := [name for name in named if name not in values]:
            return _failed(assignments, f"{', '.join(undefined)} undefined: a scored day has no rows, or only one class")
        return Tried(assignments, {name: values[name] for name in named})


def _failed(assignments: dict[str, Any], why: str) -> Tried:
    return Tried(assignments, {}, failed=True, metadata={"log": why[-_TEXT:]})
