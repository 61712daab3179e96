"""One trial: a new model that is trained on days in order, and scored on each of the last days before it is trained on it.

A trial writes nothing to the lake, and trains on each of its days once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from upath import UPath

from ml.artifacts.weights import bytes_of
from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.recipes.recipe import Recipe
from ml.training.replay import Replay, ReplayedDay, replay
from ml.trials.checkpoints import Checkpoints, OnCheckpoint, StoppedEarly
from ml.trials.window import check_data, check_window

SCORES = ("auc", "log_loss")


@dataclass(frozen=True)
class Trial:
    """What a trial trains on.

    Attributes:
        spec: The dataset.
        recipe: How the model is trained.
        days: The days, in order: consecutive ones, apart from days without rows.
        scored: The days that are scored, the last ones.
        lake: The lake.
        data: Digests of the data by day, which must still be the same; days that are absent are not checked.
        early_stopping: Whether it is evaluated at checkpoints, at which it can be stopped.
    """

    spec: DatasetSpec
    recipe: Recipe
    days: tuple[str, ...]
    scored: tuple[str, ...]
    lake: Lake
    data: Mapping[str, str] = field(default_factory=dict)
    early_stopping: bool = False

    def to_json(self) -> dict[str, Any]:
        """Returns plain data, from which `from_json` builds an equal trial."""
        return {
            "spec": self.spec.model_dump(mode="json"),
            "recipe": self.recipe.model_dump(mode="json"),
            "days": list(self.days),
            "scored": list(self.scored),
            "lake": {"root": str(self.lake.root), "options": dict(self.lake.root.storage_options)},
            "data": dict(self.data),
            "early_stopping": self.early_stopping,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trial:
        """Builds a trial from the data of `to_json`."""
        spec, recipe = DatasetSpec.model_validate(data["spec"]), Recipe.model_validate(data["recipe"])
        lake = Lake.at(UPath(data["lake"]["root"], **data["lake"]["options"]))
        return cls(spec, recipe, tuple(data["days"]), tuple(data["scored"]), lake, data["data"], data["early_stopping"])


@dataclass(frozen=True)
class TrialResult:
    """Metrics of a trial.

    Attributes:
        auc: Mean AUC of the scored days; None if it is undefined on one of them.
        log_loss: Mean log loss of the scored days; None as for `auc`.
        training_time: CPU-seconds of the training loops of all days.
        model_bytes: Size of the model after the last day, without what only training needs.
        rows: Number of rows trained on.
        by_day: `ml.metrics.summary` by scored day.
        stopped: Why it was stopped early, before the days were scored; empty if it was not.
    """

    auc: float | None
    log_loss: float | None
    training_time: float
    model_bytes: int
    rows: int
    by_day: Mapping[str, Mapping[str, Any]]
    stopped: str = ""

    def values(self) -> dict[str, float]:
        """Returns the metrics that are defined, by name."""
        values = {name: getattr(self, name) for name in (*SCORES, "training_time", "model_bytes")}
        return {name: float(value) for name, value in values.items() if value is not None}


def run_trial(
    trial: Trial,
    on_day: Callable[[ReplayedDay], None] | None = None,
    on_checkpoint: OnCheckpoint | None = None,
) -> TrialResult:
    """Run a trial in this process.

    Args:
        trial: The trial.
        on_day: Called with the result of each day. It may raise to end the trial.
        on_checkpoint: Called with the metrics of each checkpoint, if `trial.early_stopping` is set. If it returns a reason, the
            trial is stopped.

    Returns:
        Its metrics.

    Raises:
        MissingPartition: A day's data is not in the lake.
        DivergedError: The loss is not finite.
        StalePartition: A day's data is not what `trial.data` says, before or after the training.
        ValueError: The days are not consecutive and ascending, or the days that are scored are not the last ones.
    """
    check_window(trial.spec, trial.days, trial.scored, trial.lake)
    check_data(trial.spec, trial.data, trial.lake)
    checkpoints = None
    if trial.early_stopping and on_checkpoint is not None:
        checkpoints = Checkpoints(trial.spec, trial.lake, trial.scored[-1], len(trial.days) - 1, on_checkpoint)
    try:
        done = replay(
            trial.spec,
            trial.days,
            trial.lake,
            trial.recipe,
            scored=trial.scored,
            train_last=False,
            on_result=on_day,
            on_pass=None if checkpoints is None else checkpoints.begin,
        )
    except StoppedEarly as stop:
        assert checkpoints is not None
        result = TrialResult(None, None, checkpoints.training_time, checkpoints.model_bytes, checkpoints.rows, {}, str(stop))
    else:
        result = result_of(done, overhead=0.0 if checkpoints is None else checkpoints.overhead)
    check_data(trial.spec, trial.data, trial.lake)
    return result


def result_of(done: Replay, overhead: float = 0.0) -> TrialResult:
    """Returns the metrics of a replay; `overhead` CPU-seconds of its training loops were spent on evaluations."""
    by_day = {day.day: day.scores for day in done.days if day.scores is not None}
    reports = [day.report for day in done.days if day.report is not None]
    means = {name: _mean([scores[name] for scores in by_day.values()]) for name in SCORES}
    return TrialResult(
        auc=means["auc"],
        log_loss=means["log_loss"],
        training_time=sum(report.cpu_seconds for report in reports) - overhead,
        model_bytes=bytes_of(done.state.model),
        rows=sum(report.rows for report in reports),
        by_day=by_day,
    )


def _mean(values: list[Any]) -> float | None:
    return None if not values or None in values else float(np.mean(values))
