"""Late labels: what each choice of `ml.online.late_labels` costs, by the mean delay of a click.

A model is trained on some days with final labels. On the days after them it is trained online, and clicks become known after
SIMULATED delays, which are drawn from an exponential distribution. Every slice is scored with final labels before it is trained
on. `oracle` knows the final labels at once, and bounds what the other choices can reach.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.datasets.batch import Batch
from ml.datasets.collate import batch_from_rows
from ml.datasets.rows import Rows
from ml.datasets.slices import bounds_by_count
from ml.days import MICROSECONDS_PER_MINUTE
from ml.evaluation.plots import points
from ml.evaluation.rows import chunks
from ml.hashing import derive_seed
from ml.lake import Lake
from ml.metrics import summary as metrics_summary
from ml.online.late_labels import CHOICES, NEVER, Events, Lesson, lessons
from ml.online.rates import online_rates
from ml.recipes.recipe import Recipe
from ml.schema import FeatureSchema
from ml.training.loop import steps
from ml.training.replay import replay
from ml.training.score import EVALUATION_BATCH, predictions_of
from ml.training.state import TrainState
from ml.training.state_dict import load_snapshot, save_snapshot

DELAYS = (1.0, 10.0, 60.0, 360.0)  # mean minutes
WAIT = 60.0  # minutes
SLICES = 50
STALE = "stale"
_METRICS = ("auc", "log_loss", "calibration")


@dataclass(frozen=True)
class Run:
    """One choice with one mean delay under one seed, over all rows of the online days.

    Attributes:
        choice: Name of the choice, or `stale` for the model after the batch days.
        delay: Mean delay of a click, in minutes.
        seed: Seed of the recipe and of the delays.
        auc: AUC of the rows, each predicted before it was trained on, against final labels.
        log_loss: Log loss, in nats.
        calibration: Predicted clicks divided by observed clicks.
    """

    choice: str
    delay: float
    seed: int
    auc: float
    log_loss: float
    calibration: float


def run_study(
    spec: DatasetSpec,
    lake: Lake,
    batch_days: Sequence[str],
    online_days: Sequence[str],
    recipe: Callable[[int], Recipe],
    delays: Sequence[float] = DELAYS,
    wait: float = WAIT,
    slices: int = SLICES,
    seeds: int = 3,
    on_result: Callable[[Run], None] | None = None,
) -> list[Run]:
    """Train online with every choice and mean delay under every seed.

    Args:
        spec: The dataset.
        lake: Where `mds_datasets` of the batch days and `cleaned_features` of the online days are stored.
        batch_days: Days of batch training, with final labels.
        online_days: The days after them.
        recipe: Returns the recipe of a seed.
        delays: Mean delays of a click, in minutes.
        wait: Minutes that the choice `wait` waits.
        slices: Slices of a day.
        seeds: Number of runs.
        on_result: Called with each run as soon as it is known.

    Returns:
        The runs.
    """
    runs = []
    for seed in range(seeds):
        for run in _runs(spec, lake, batch_days, online_days, recipe(seed), delays, wait, slices):
            runs.append(run)
            if on_result is not None:
                on_result(run)
    return runs


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Summarise the runs by choice and delay: means over seeds, and the difference to `oracle` of the same seed and delay.

    Positive differences are better. `spread` is their standard deviation over the seeds.
    """
    best = {(run.delay, run.seed): run for run in runs if run.choice == "oracle"}
    found = []
    for choice, delay in dict.fromkeys((run.choice, run.delay) for run in runs):
        own = [run for run in runs if (run.choice, run.delay) == (choice, delay)]
        entry: dict[str, Any] = {"choice": choice, "delay": delay}
        entry |= {metric: statistics.fmean(getattr(run, metric) for run in own) for metric in _METRICS}
        for metric, sign in (("auc", 1), ("log_loss", -1)):
            gaps = [sign * (getattr(run, metric) - getattr(best[delay, run.seed], metric)) for run in own]
            entry[f"{metric}_to_oracle"] = statistics.fmean(gaps)
            entry[f"{metric}_spread"] = statistics.stdev(gaps) if len(gaps) > 1 else 0.0
        found.append(entry)
    return found


def figure(found: Sequence[dict[str, Any]]) -> bytes:
    """Plot the AUC of each choice except `stale` against the mean delay, as a PNG."""
    groups: dict[str, list[tuple[float, float, str]]] = {}
    for entry in found:
        if entry["choice"] != STALE:
            groups.setdefault(entry["choice"], []).append((entry["delay"], entry["auc"], ""))
    return points("Late labels", "mean delay of a click, minutes", "AUC", groups)


def write_study(folder: Path | UPath, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Write `runs.json`, `summary.json` and `auc.png`. Returns the summary."""
    found = summary(runs)
    (folder / "runs.json").write_text(json.dumps([asdict(run) for run in runs], indent=1))
    (folder / "summary.json").write_text(json.dumps(found, indent=1))
    (folder / "auc.png").write_bytes(figure(found))
    return found


def simulated_clicks(rows: Rows, delay: float, seed: int) -> np.ndarray:
    """Draw the time at which each click becomes known, int64 [n]; `NEVER` for unclicked rows.

    Args:
        rows: The rows, with final labels.
        delay: Mean delay in minutes, of an exponential distribution.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(derive_seed(seed, "delays"))
    late = (rng.exponential(delay * MICROSECONDS_PER_MINUTE, len(rows))).astype(np.int64)
    return np.where(rows.label > 0.5, rows.event_time + late, NEVER)


def _runs(
    spec: DatasetSpec,
    lake: Lake,
    batch_days: Sequence[str],
    online_days: Sequence[str],
    recipe: Recipe,
    delays: Sequence[float],
    wait: float,
    slices: int,
) -> Iterator[Run]:
    state, schema = replay(spec, batch_days, lake, recipe, scored=()).state, FeatureSchema.of(spec)
    rows = Rows.concatenate([Rows.from_table(part, schema) for day in online_days for part in chunks(lake, spec, day)])
    bounds = np.array(bounds_by_count(len(rows), slices * len(online_days)))
    stale = _scores(state, [rows])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_snapshot(state, folder)
        for delay in delays:
            yield Run(STALE, delay, recipe.seed, *stale)
            events = Events(rows.event_time, simulated_clicks(rows, delay, recipe.seed), round(wait * MICROSECONDS_PER_MINUTE))
            for choice in CHOICES:
                own = recipe.model_copy(update={"fake_negative_weights": choice == "fake_negative"})
                predicted = _train(load_snapshot(folder, recipe=own), rows, bounds, lessons(choice, events, bounds))
                yield Run(choice, delay, recipe.seed, *_metrics(rows.label, predicted))


def _train(state: TrainState, rows: Rows, bounds: np.ndarray, taught: Iterator[Lesson]) -> np.ndarray:
    """Predict each slice and then train on its lesson. Returns the probabilities of all rows, float32 [N]."""
    predicted, schema = [], state.schema
    state.begin_pass()
    with online_rates(state, state.recipe.online):
        for (begin, end), lesson in zip(pairwise(bounds.tolist()), taught, strict=True):
            predicted.append(_predict(state, rows.between(begin, end)))
            batches = list(_batches(rows, lesson, state.recipe.batch_size, schema))
            for _ in steps(state, batches, total_steps=len(batches)):
                pass
    return np.concatenate(predicted)


def _batches(rows: Rows, lesson: Lesson, size: int, schema: FeatureSchema) -> Iterator[Batch]:
    """Yield the rows of a lesson in batches of about the same size."""
    count = -(-len(lesson.rows) // size)
    for index, labels in zip(np.array_split(lesson.rows, count or 1), np.array_split(lesson.labels, count or 1), strict=True):
        if len(index):
            part = rows.take(index)
            yield batch_from_rows(Rows(**{**vars(part), "label": labels}), schema)


def _predict(state: TrainState, rows: Rows) -> np.ndarray:
    parts = [rows.between(a, min(a + EVALUATION_BATCH, len(rows))) for a in range(0, len(rows), EVALUATION_BATCH)]
    return predictions_of(state, [batch_from_rows(part, state.schema) for part in parts])[1]


def _scores(state: TrainState, parts: Sequence[Rows]) -> tuple[float, float, float]:
    rows = Rows.concatenate(list(parts))
    return _metrics(rows.label, _predict(state, rows))


def _metrics(labels: np.ndarray, predicted: np.ndarray) -> tuple[float, float, float]:
    found = metrics_summary(labels, predicted)
    auc, log_loss, calibration = (float(found[metric] or 0.0) for metric in _METRICS)
    return auc, log_loss, calibration
