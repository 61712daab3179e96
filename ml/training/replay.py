"""Replaying days in memory: train on each in order, and score each by the model of the days before it.

This is progressive validation by day (Global Temporal Split, in MLPerf's words). Studies and trials use it; daily training,
which writes each model to the lake and can be interrupted, is `ml.training.day`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ml.catalog.spec import DatasetSpec
from ml.datasets.reader import BlockReader
from ml.datasets.splits import SPLITS
from ml.lake import Lake
from ml.recipes.recipe import Recipe
from ml.schema import FeatureSchema
from ml.training.passes import train_pass
from ml.training.report import TrainReport
from ml.training.score import score
from ml.training.state import TrainState, new_state

EVALUATION_BATCH = 8192


@dataclass(frozen=True)
class ReplayedDay:
    """One day of a replay.

    Attributes:
        day: `YYYY-MM-DD`.
        scores: `ml.metrics.summary` of the day, by the model of the days before it; None if it was not scored.
        report: the pass over the day; None if it was not trained on.
    """

    day: str
    scores: dict[str, float | int | None] | None
    report: TrainReport | None


@dataclass(frozen=True)
class Replay:
    """What a replay gives.

    Attributes:
        state: the state after the last day trained on. Its recipe holds the seed.
        days: one entry for each day, in order.
    """

    state: TrainState
    days: list[ReplayedDay]


def replay(
    spec: DatasetSpec,
    days: Sequence[str],
    lake: Lake,
    recipe: Recipe,
    *,
    scored: Collection[str] | None = None,
    scored_splits: Sequence[str] = SPLITS,
    train_last: bool = True,
    on_result: Callable[[ReplayedDay], None] | None = None,
) -> Replay:
    """Train a new model on days in their order, and score each day before it is trained on.

    The result follows from the arguments and the data alone: weights and all that steps draw derive from `recipe.seed`.

    Args:
        spec: the dataset.
        days: consecutive days, in ascending order; their `mds_datasets` are in the lake.
        lake: where the data is stored. Nothing is written.
        recipe: how the model is trained; `recipe.splits` of each day are trained on.
        scored: days to score; by default all except the first, which no model precedes.
        scored_splits: splits of a day that are scored.
        train_last: whether to train on the last day too.
        on_result: called with each day once it is done; it may raise to stop, as a trial that is pruned does.

    Returns:
        The final state, and what each day gave.

    Raises:
        MissingPartition: a day's data is not in the lake.
        DivergedError: the loss is not finite.
        ValueError: the first day is to be scored.
    """
    scored = days[1:] if scored is None else scored
    if days and days[0] in scored:
        raise ValueError(f"{days[0]} cannot be scored: it is the first day of the replay, and no model precedes it")
    state, done = new_state(recipe, FeatureSchema.of(spec)), []
    for number, day in enumerate(days, 1):
        scores = report = None
        if day in scored:
            scores = score(
                state, BlockReader(lake, spec, [day], splits=scored_splits, batch_size=EVALUATION_BATCH, order="time")
            )
        if train_last or number < len(days):
            reader = BlockReader(lake, spec, [day], splits=recipe.splits, batch_size=recipe.batch_size, order="time")
            state.begin_pass()
            report = train_pass(state, reader, total_steps=len(reader))
        done.append(ReplayedDay(day, scores, report))
        if on_result is not None:
            on_result(done[-1])
    return Replay(state, done)
