"""One step of a worker of a tuning: it takes a suggestion, runs its trial, and reports the result.

A worker that was killed is started again with its name. It then gets its open suggestion back, and a result that its trial has
written is reported instead of computed again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ml.recipes.assignments import with_assignments
from ml.recipes.search import Search
from ml.trials.checkpoints import OnCheckpoint
from ml.trials.connection import Service
from ml.trials.experiment import Tried
from ml.trials.process import TrialFailed, in_process
from ml.trials.trial import Trial
from ml.trials.window import check_data

USED_UP = 409  # the service's status if no budget is left
SECONDS_BETWEEN_BEATS = 20.0
SECONDS_AFTER_A_LOST_BEAT = 5.0
_TEXT = 400  # characters of a log in the metadata of an observation, which SigOpt limits to 500
_log = logging.getLogger("evergreen")


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

        Raises:
            StalePartition: The data of a day is no longer what the tuning has started with.
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
        done = self._try(str(suggestion.id), assignments)
        values = [{"name": name, "value": value} for name, value in done.values.items()]
        metadata = {"evergreen_suggestion": str(suggestion.id), **done.metadata}
        body: dict[str, Any] = {"stopped": True} if done.stopped else {"failed": True} if done.failed else {"values": values}
        experiment.observations().create(suggestion=suggestion.id, metadata=metadata, **body)
        return replace(done, metadata=metadata)

    def _try(self, suggestion: str, assignments: dict[str, Any]) -> Tried:
        beat = self._beat(suggestion)
        check_data(self.trial.spec, self.trial.data, self.trial.lake)
        try:
            recipe = with_assignments(self.trial.recipe, self.search.parameters, assignments)
        except ValidationError as error:
            return _failed(assignments, f"not a valid recipe: {error.errors()[0]['msg']}")
        try:
            trial = replace(self.trial, recipe=recipe, early_stopping=self.search.early_stopping)
            folder, report = self.folder / self.experiment / suggestion, self._checkpoint(suggestion)
            done = in_process(trial, folder, beat=beat, on_checkpoint=report)
        except TrialFailed as error:
            check_data(self.trial.spec, self.trial.data, self.trial.lake)  # no trial on other data is recorded, failed or not
            return _failed(assignments, str(error))
        if done.stopped:
            return Tried(assignments, {}, failed=True, metadata={"log": done.stopped}, stopped=True)
        values, named = done.values(), [metric.name for metric in self.search.metrics]
        if undefined := [name for name in named if name not in values]:
            days = sorted({day for day, scores in done.by_day.items() if None in [scores.get(name) for name in undefined]})
            return _failed(assignments, f"{', '.join(undefined)} undefined: only one class in the rows of {', '.join(days)}")
        return Tried(assignments, {name: values[name] for name in named})

    def _beat(self, suggestion: str) -> Callable[[], None]:
        """Return a function that renews the lease of a suggestion when that is due.

        An error is logged, because the trial does not need the service. The next attempt follows soon. If the lease ends, the
        result is still accepted.
        """
        from sigopt.exception import SigOptException

        connection = self.service.connect(self.name, patience=0)
        due = time.monotonic() + SECONDS_BETWEEN_BEATS

        def beat() -> None:
            nonlocal due
            if time.monotonic() < due:
                return
            wait = SECONDS_BETWEEN_BEATS
            try:
                connection.experiments(self.experiment).suggestions(suggestion).update()  # renews the lease
            except SigOptException as error:
                wait = SECONDS_AFTER_A_LOST_BEAT
                _log.warning(
                    "experiment %s: the lease of suggestion %s was not renewed: %s", self.experiment, suggestion, error
                )
            due = time.monotonic() + wait

        return beat

    def _checkpoint(self, suggestion: str) -> OnCheckpoint:
        """Return a function that reports a checkpoint, and returns the rules that ask the trial to stop.

        An error is logged, because the trial does not need the service.
        """
        from sigopt.exception import SigOptException

        connection = self.service.connect(self.name, patience=0)
        path = ["experiments", self.experiment, "suggestions", suggestion, "checkpoints"]
        named = {metric.name for metric in self.search.metrics}

        def report(number: int, metrics: Mapping[str, float]) -> str:
            values = [{"name": name, "value": value} for name, value in metrics.items() if name in named]
            try:
                stored = connection.impl.request("POST", path, {"step": number, "values": values}, None) or {}
            except SigOptException as error:
                _log.warning("experiment %s: a checkpoint of suggestion %s was not stored: %s", *path[1:4:2], error)
                return ""
            rules = [rule for rule, stops in stored.get("stopping_reasons", {}).items() if stops]
            return f"stopped early by {' and '.join(rules)}" if rules else ""

        return report


def _failed(assignments: dict[str, Any], why: str) -> Tried:
    return Tried(assignments, {}, failed=True, metadata={"log": why[-_TEXT:]})
