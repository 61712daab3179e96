"""Models of a dataset against each other: trained on its days but the last, scored on the last, under several seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.datasets.reader import BlockReader
from ml.datasets.splits import SPLITS
from ml.lake import Lake
from ml.metrics import summary
from ml.models.predict import predict
from ml.recipes.recipe import Recipe, recipe_of
from ml.schema import FeatureSchema
from ml.training.passes import train_pass
from ml.training.state import new_state


@dataclass(frozen=True)
class Score:
    """One model under one seed, on the last day. samples_per_second: of training, on this machine at that hour."""

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
    """Every model of `spec` under seeds 0, 1, … Each day is seen once, in time order, as the daily assets do."""
    scores = []
    for seed in range(seeds):
        for model in spec.models:
            score = _score(spec, days, lake, model, recipe_of(spec, model, {"seed": seed, **(overrides or {})}))
            scores.append(score)
            if on_result is not None:
                on_result(score)
    return scores


def by_model(scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Of each model: mean of every figure over the seeds, and the standard deviation of its AUC as `auc_spread`."""
    found: dict[str, dict[str, float]] = {}
    for model in dict.fromkeys(score.model for score in scores):
        own = [score for score in scores if score.model == model]
        names = ("auc", "log_loss", "normalised_entropy", "calibration", "samples_per_second")
        found[model] = {name: statistics.fmean(getattr(score, name) for score in own) for name in names}
        found[model]["auc_spread"] = statistics.stdev(score.auc for score in own) if len(own) > 1 else 0.0
    return found


def write_comparison(folder: Path | UPath, scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """`scores.json` and `summary.json`. Gives the summary."""
    found = by_model(scores)
    (folder / "scores.json").write_text(json.dumps([asdict(score) for score in scores], indent=1))
    (folder / "summary.json").write_text(json.dumps(found, indent=1))
    return found


def _score(spec: DatasetSpec, days: Sequence[str], lake: Lake, model: str, recipe: Recipe) -> Score:
    state, speeds = new_state(recipe, FeatureSchema.of(spec)), []
    for day in days[:-1]:
        state.begin_pass()
        reader = BlockReader(lake, spec, [day], splits=recipe.splits, batch_size=recipe.batch_size, order="time")
        speeds.append(train_pass(state, reader, total_steps=len(reader)).samples_per_second)
    batches = list(BlockReader(lake, spec, [days[-1]], splits=SPLITS, batch_size=8192, order="time"))
    labels = np.concatenate([batch.labels.numpy() for batch in batches])
    figures = summary(labels, predict(state.model, batches, recipe.sampling_correction))
    found = (figures[name] for name in ("auc", "log_loss", "normalised_entropy", "calibration"))
    known = (math.nan if figure is None else figure for figure in found)
    return Score(model, recipe.seed, *known, samples_per_second=statistics.median(speeds))
