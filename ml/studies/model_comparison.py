"""Comparison of a dataset's models, trained on all days except the last and scored on the last, under several seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.recipes.recipe import Recipe, recipe_of
from ml.training.replay import replay

_METRICS = ("auc", "log_loss", "normalised_entropy", "calibration")


@dataclass(frozen=True)
class Score:
    """Scores of one model under one seed on the last day. Undefined metrics are NaN.

    Attributes:
        model: Name of the model.
        seed: Seed of the recipe.
        auc: AUC.
        log_loss: Mean log loss, in nats.
        normalised_entropy: Log loss divided by the entropy of the label rate.
        calibration: Predicted clicks divided by observed clicks.
        samples_per_second: Training throughput on this machine, as the median over the days.
    """

    model: str
    seed: int
    auc: float
    log_loss: float
    normalised_entropy: float
    calibration: float
    samples_per_second: float


def compare(
    spec: DatasetSpec,
    days: Sequence[str],
    lake: Lake,
    seeds: int = 3,
    overrides: Mapping[str, Any] | None = None,
    on_result: Callable[[Score], None] | None = None,
) -> list[Score]:
    """Train and score every model of a dataset under several seeds.

    Args:
        spec: The dataset.
        days: At least two days, whose `mds_datasets` are in the lake. All except the last are trained on once, in time order.
        lake: Where the data is stored.
        seeds: Number of runs of each model, with the recipe seeds 0, 1, and so on.
        overrides: Recipe keys that differ from the models' own recipes.
        on_result: Called with each score as soon as it is known.

    Returns:
        A score for each seed and model.
    """
    scores = []
    for seed in range(seeds):
        for model in spec.models:
            score = _score(spec, days, lake, model, recipe_of(spec, model, {"seed": seed, **(overrides or {})}))
            scores.append(score)
            if on_result is not None:
                on_result(score)
    return scores


def by_model(scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Compute the mean of each metric over the seeds by model, and the standard deviation of the AUC as `auc_spread`."""
    found: dict[str, dict[str, float]] = {}
    for model in dict.fromkeys(score.model for score in scores):
        own = [score for score in scores if score.model == model]
        names = (*_METRICS, "samples_per_second")
        found[model] = {name: statistics.fmean(getattr(score, name) for score in own) for name in names}
        found[model]["auc_spread"] = statistics.stdev(score.auc for score in own) if len(own) > 1 else 0.0
    return found


def write_comparison(folder: Path | UPath, scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Write `scores.json` and `summary.json`. Returns the summary."""
    found = by_model(scores)
    (folder / "scores.json").write_text(json.dumps([asdict(score) for score in scores], indent=1))
    (folder / "summary.json").write_text(json.dumps(found, indent=1))
    return found


def _score(spec: DatasetSpec, days: Sequence[str], lake: Lake, model: str, recipe: Recipe) -> Score:
    *trained, last = replay(spec, days, lake, recipe, scored=days[-1:], train_last=False).days
    assert last.scores is not None
    metrics = (last.scores[name] for name in _METRICS)
    speeds = [day.report.samples_per_second for day in trained if day.report]
    return Score(
        model,
        recipe.seed,
        *(math.nan if metric is None else metric for metric in metrics),
        samples_per_second=statistics.median(speeds),
    )
