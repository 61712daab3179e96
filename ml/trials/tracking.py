"""MLflow runs of a tuning: one parent run, with a child run for each trial.

A child run is found by its suggestion, so trials can be logged again: those that a killed tuning did not log are added.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.entities import Metric, Param, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from ml.tracking.run import Tracker, legal_keys
from ml.trials.experiment import Tried
from ml.trials.tune import Tuning

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT, SUGGESTION = "evergreen.tuning", "evergreen.suggestion"
_log = logging.getLogger("evergreen")


class TrialTracker:
    """Logs the trials of one tuning. A tuning that is continued continues its parent run.

    Args:
        home: Local folder of the MLflow store, unless `MLFLOW_TRACKING_URI` is set.
        tuning: The tuning.
        tags: Tags of the parent run.
    """

    def __init__(self, home: Path, tuning: Tuning, tags: Mapping[str, str]) -> None:
        self._tracker, self._tuning, self._tags = Tracker(home, tags), tuning, dict(tags)
        self._parent: str | None = None
        self._client: MlflowClient | None = None

    def log(self, experiment: str, trial: Tried) -> None:
        """Log a trial that ended, unless it is logged. An error of MLflow is logged and does not end the tuning."""
        try:
            self._log_trial(experiment, trial)
        except MlflowException as error:
            _log.warning("MLflow: a trial of experiment %s was not logged: %s", experiment, error)

    def _log_trial(self, experiment: str, trial: Tried) -> None:
        client = self._client = self._client or self._tracker.client()
        folder = self._tracker.experiment(client, self._tuning.spec)
        parent = self._parent = self._parent or self._parent_run(client, folder, experiment)
        suggestion = str(trial.metadata.get("evergreen_suggestion", ""))
        tags = {MLFLOW_PARENT_RUN_ID: parent, SUGGESTION: suggestion}
        keys = legal_keys(trial.assignments)
        params = {keys[name]: str(value) for name, value in trial.assignments.items()}
        query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        run = None
        for found in client.search_runs([folder], query):
            if not RunStatus.is_terminated(RunStatus.from_string(found.info.status)):
                run = found.info.run_id  # of a tuning that was killed
            elif found.data.params == params:  # others are of a service that was set up again
                return
        run = run or client.create_run(folder, tags=tags, run_name=f"trial {suggestion}").info.run_id
        now = client.get_run(run).info.start_time
        metrics = [Metric(name, value, now, 0) for name, value in trial.values.items()]
        client.log_batch(run, metrics=metrics, params=[Param(name, value) for name, value in params.items()])
        if trial.failed:
            client.set_tag(run, "evergreen.log", str(trial.metadata.get("log", "")))
        client.set_terminated(run, "KILLED" if trial.stopped else "FAILED" if trial.failed else "FINISHED")

    def _parent_run(self, client: MlflowClient, folder: str, experiment: str) -> str:
        found = client.search_runs([folder], f"tags.`{EXPERIMENT}` = '{experiment}'", max_results=1)
        if found:
            return found[0].info.run_id
        day, model = self._tuning.day, self._tuning.model
        tags: dict[str, Any] = {**self._tags, EXPERIMENT: experiment, "evergreen.dataset": self._tuning.spec.name}
        run = client.create_run(folder, tags=tags, run_name=f"tuning of {model} for {day}").info.run_id
        client.set_terminated(run, "FINISHED")
        return run
