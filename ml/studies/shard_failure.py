"""The loss of one of S shards of the tables, whose rows fall back to the last snapshot: what it costs, and for how long.

A model is trained on some days in batch and then online. At the end of an online day, one shard is lost just before its next
snapshot is due, so it loses a whole snapshot interval. Training continues, and the day after it is scored by progressive
validation, on the same rows as a model that has lost nothing.

Monolith (Liu et al., 2022, arXiv 2209.07663) has arithmetic only. It takes snapshots daily, because of 1,000 shards, 0.01 % of
which fail in a day, one is lost every ten days, and with it a day of the feedback of 15 million / 1,000 users.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from upath import UPath

from ml.artifacts.lost_shard import lose_shard, rows_lost
from ml.artifacts.snapshot import CheckpointShard
from ml.catalog.spec import DatasetSpec
from ml.datasets.reader import BlockReader
from ml.datasets.splits import SPLITS
from ml.evaluation.plots import lines
from ml.hashing import derive_seed
from ml.lake import Lake
from ml.metrics import auc
from ml.online.loop import ONLINE, online_slices
from ml.online.rates import online_rates
from ml.online.serving import Floats, ServingCopy
from ml.recipes.recipe import Recipe
from ml.studies.paired import as_json, as_text, difference
from ml.training.replay import replay
from ml.training.state import TrainState
from ml.training.state_dict import restore, shard_of_state, state_from_metadata

SLICES = 48  # half an hour each
INTERVALS = (2, 12, 48)  # slices
SHARDS = (2, 10, 100)
FIRST = 2
"""Slices after the loss that are scored apart: the first hour of a day of `SLICES` slices."""
BINS = 24  # parts of a day in the figure
FAILURES_PER_DAY = 0.0001
"""Share of shards that fail in a day, in Monolith's arithmetic."""
PAPER = {"shards": 1000, "failures_per_day": FAILURES_PER_DAY, "users": 15_000_000, "snapshot_days": 1}


@dataclass(frozen=True)
class Run:
    """A day after the loss of a shard, under one seed.

    Attributes:
        shards: Number of shards, of which one was lost; 0 for the day without a loss.
        interval: Slices since the snapshot, all of whose updates the shard has lost.
        seed: Seed of the recipe, from which the lost shard is drawn.
        day: The scored day.
        labels: Labels of its rows in time order, float32 [N].
        predictions: Probabilities from the model that serves, float32 [N].
        first: Rows of the first `FIRST` slices.
        lost: Rows of tables that were set back.
        rows: Rows of tables before the loss.
    """

    shards: int
    interval: int
    seed: int
    day: str
    labels: Floats = field(repr=False)
    predictions: Floats = field(repr=False)
    first: int
    lost: int
    rows: int

    @property
    def auc(self) -> float:
        """AUC of the day."""
        return auc(self.labels, self.predictions) or 0.5


def run_study(
    spec: DatasetSpec,
    lake: Lake,
    batch_days: Sequence[str],
    online_day: str,
    scored_day: str,
    recipe: Callable[[int], Recipe],
    shards: Sequence[int] = SHARDS,
    intervals: Sequence[int] = INTERVALS,
    slices: int = SLICES,
    seeds: int = 3,
    on_result: Callable[[Run], None] | None = None,
) -> list[Run]:
    """Lose a shard with every number of shards and snapshot interval under every seed.

    Args:
        spec: The dataset.
        lake: Where `mds_datasets` of all days are stored.
        batch_days: Days that the model is trained on before.
        online_day: The day after them, at the end of which the shard is lost.
        scored_day: The day after the loss.
        recipe: Returns the recipe of a seed; its `online` section has the rates.
        shards: Numbers of shards.
        intervals: Slices between two snapshots, at most `slices`.
        slices: Slices of a day.
        seeds: Number of runs.
        on_result: Called with each run as soon as it is known.

    Returns:
        For each seed the day without a loss, and the day after each loss.

    Raises:
        ValueError: An interval is longer than a day, or no table of the model is sharded by id.
    """
    if max(intervals) > slices:
        raise ValueError(f"intervals: expected at most {slices} slices, found {max(intervals)}")
    runs = []
    for seed in range(seeds):
        state = replay(spec, batch_days, lake, recipe(seed), scored=()).state
        snapshots, current = _train_online(spec, lake, online_day, state, intervals, slices)
        for run in _runs(spec, lake, scored_day, snapshots, current, recipe(seed), shards, slices):
            runs.append(run)
            if on_result is not None:
                on_result(run)
    return runs


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Summarise the losses by number of shards and snapshot interval.

    Returns:
        For each case the mean share of rows that were set back, the mean difference to the day without a loss of the AUC of the
        first slices and of the day, with its 95 % interval over rows and seeds, and the expected change of the day's AUC with
        the paper's rate of failures.
    """
    whole = {run.seed: run for run in runs if not run.shards}
    found = []
    for shards, interval in dict.fromkeys((run.shards, run.interval) for run in runs if run.shards):
        own = [run for run in runs if (run.shards, run.interval) == (shards, interval)]
        day = _difference(own, whole)
        found.append(
            {
                "shards": shards,
                "interval": interval,
                "lost": statistics.fmean(run.lost / run.rows for run in own),
                "first": _difference(own, whole, first=True),
                "day": day,
                "expected": (day["value"] or 0.0) * shards * FAILURES_PER_DAY,
            }
        )
    return found


def by_time(runs: Sequence[Run], bins: int = BINS) -> dict[str, tuple[list[float], list[float]]]:
    """Compute the difference of the AUC in each part of the day after a loss, as mean and standard deviation over the seeds.

    Returns:
        Curves by number of shards, for the longest interval.
    """
    whole, longest = {run.seed: run for run in runs if not run.shards}, max(run.interval for run in runs)
    curves: dict[str, list[list[float]]] = {}
    for run in runs:
        if run.shards and run.interval == longest:
            before = _parts(whole[run.seed], bins)
            gaps = [one - other for one, other in zip(_parts(run, bins), before, strict=True)]
            curves.setdefault(f"1 of {run.shards} shards", []).append(gaps)
    return {
        name: (np.mean(of, axis=0).tolist(), np.std(of, axis=0, ddof=min(1, len(of) - 1)).tolist())
        for name, of in curves.items()
    }


def figure(runs: Sequence[Run]) -> bytes:
    """Plot the difference of the AUC through the day after a loss, for the longest interval, as a PNG."""
    return lines("AUC after the loss of a shard", f"part of the next day, of {BINS}", "difference of the AUC", by_time(runs))


def write_study(folder: Path | UPath, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Write `summary.json`, `by_time.json` and `auc.png`. Returns the summary."""
    found = summary(runs)
    aucs = [run.auc for run in runs if not run.shards]
    stored = {"losses": found, "auc": statistics.fmean(aucs), "paper": PAPER, "paper_result": paper_arithmetic()}
    (folder / "summary.json").write_text(json.dumps(stored, indent=1))
    (folder / "by_time.json").write_text(json.dumps(by_time(runs), indent=1))
    (folder / "auc.png").write_bytes(figure(runs))
    return found


def paper_arithmetic() -> dict[str, float]:
    """Compute the paper's figures: days between two losses, users whose feedback a loss costs, and their share in a day.

    Example:
        >>> paper_arithmetic()["users_per_loss"]
        15000.0
    """
    days = 1 / (PAPER["shards"] * PAPER["failures_per_day"])
    users = PAPER["users"] / PAPER["shards"] * PAPER["snapshot_days"]
    return {"days_between_losses": days, "users_per_loss": users, "share_of_users_per_day": users / PAPER["users"] / days}


def columns_of_table(slices: int = SLICES) -> list[str]:
    """Name the columns of `rows_of_table`. The hours of the first slices depend on the number of slices of a day.

    Example:
        >>> columns_of_table(12)[3]
        'AUC, first 4 hours'
    """
    first = f"AUC, first {24 * FIRST / slices:g} hours"
    return ["shards", "hours", "rows set back", first, "AUC, day", "expected with Monolith's failures"]


def rows_of_table(found: Sequence[Mapping[str, Any]], slices: int = SLICES) -> list[list[str]]:
    """Format the summary for a table: shards, hours, rows set back, differences of the AUC, and the expected one."""
    return [
        [
            str(of["shards"]),
            f"{24 * of['interval'] / slices:g}",
            f"{of['lost']:.2%}",
            as_text(of["first"], 5),
            as_text(of["day"], 5),
            f"{of['expected']:.1e}",
        ]
        for of in found
    ]


def _train_online(
    spec: DatasetSpec, lake: Lake, day: str, state: TrainState, intervals: Sequence[int], slices: int
) -> tuple[dict[int, CheckpointShard], CheckpointShard]:
    """Train on a day. Returns the snapshot that is each interval old at its end, and the state at its end."""
    due = {slices - interval: interval for interval in intervals}
    snapshots: dict[int, CheckpointShard] = {}
    state.begin_pass()
    with online_rates(state, state.recipe.online):
        serving, parts = (
            ServingCopy(state, state.recipe.online.sync),
            _reader(spec, lake, day, state.recipe).slices(count=slices),
        )

        def keep(number: int) -> None:
            if number in due:
                snapshots[due[number]] = shard_of_state(state, copy=True)

        for _ in online_slices(state, parts, serving, before_training=lambda part, stats: keep(part.number)):
            pass
    state.end_pass()
    return snapshots, shard_of_state(state, copy=True)


def _runs(
    spec: DatasetSpec,
    lake: Lake,
    day: str,
    snapshots: Mapping[int, CheckpointShard],
    current: CheckpointShard,
    recipe: Recipe,
    shards: Sequence[int],
    slices: int,
) -> Iterator[Run]:
    yield _score(spec, lake, day, current, recipe, slices, shards=0, interval=0, lost=(0, 1))
    for count in shards:
        index = derive_seed(recipe.seed, "lost shard", str(count)) % count
        for interval, older in snapshots.items():
            after = lose_shard(current, older, index, count)
            lost = rows_lost(current, after)
            yield _score(spec, lake, day, after, recipe, slices, shards=count, interval=interval, lost=lost)


def _score(
    spec: DatasetSpec,
    lake: Lake,
    day: str,
    shard: CheckpointShard,
    recipe: Recipe,
    slices: int,
    *,
    shards: int,
    interval: int,
    lost: tuple[int, int],
) -> Run:
    """Continue training on a day from a state, and predict each slice of it before."""
    state = state_from_metadata(shard.metadata, Path(day), recipe)
    restore(state, shard, Path(day))
    state.begin_pass()
    with online_rates(state, recipe.online):
        serving = ServingCopy(state, recipe.online.sync)
        found = list(online_slices(state, _reader(spec, lake, day, recipe).slices(count=slices), serving))
    labels, predictions = ([of.labels for of in found], [of.predictions[ONLINE] for of in found])
    first = sum(len(of.labels) for of in found[:FIRST])
    return Run(shards, interval, recipe.seed, day, np.concatenate(labels), np.concatenate(predictions), first, *lost)


def _difference(ones: Sequence[Run], whole: Mapping[int, Run], first: bool = False) -> dict[str, float | None]:
    """Estimate the AUC of runs less the AUC without a loss, of the first slices or of the day, as plain data."""
    pairs = [
        [{of.day: (of.labels[:rows], of.predictions[:rows])} for of in (one, whole[one.seed])]
        for one in ones
        for rows in [one.first if first else len(one.labels)]
    ]
    return as_json(difference([pair[0] for pair in pairs], [pair[1] for pair in pairs], "auc"))


def _parts(run: Run, bins: int) -> list[float]:
    parts = zip(np.array_split(run.labels, bins), np.array_split(run.predictions, bins), strict=True)
    return [auc(labels, predictions) or 0.5 for labels, predictions in parts]


def _reader(spec: DatasetSpec, lake: Lake, day: str, recipe: Recipe) -> BlockReader:
    return BlockReader(lake, spec, [day], splits=SPLITS, batch_size=recipe.batch_size, order="time")
