"""Replay of days in memory: each day is scored with the model of the days before it, and then trained on.

This is progressive validation by day (MLPerf's Global Temporal Split), for studies. Daily training, which writes each model to
the lake and can be interrupted, is `ml.training.day`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

from ml.catalog.spec import DatasetSpec
from ml.datasets.reader import BlockReader
from ml.datasets.splits import SPLITS
from ml.lake import Lake
from ml.recipes.recipe import Recipe
from ml.training.early_stop import EarlyStopping
from ml.training.first_state import first_state
from ml.training.passes import train_pass
from ml.training.report import Step, TrainReport
from ml.training.score import EVALUATION_BATCH, Floats, predictions_of, scores_of
from ml.training.state import TrainState


@dataclass(frozen=True)
class ReplayedDay:
    """One day of a replay.

    Attributes:
        day: `YYYY-MM-DD`.
        scores: `ml.metrics.summary` of the day, with the model of the days before it; None if the day was not scored.
        report: Report of the pass over the day; None if the day was not trained on.
        predictions: Labels and probabilities of the day's rows in time order, float32 [N] each, if they were asked for.
    """

    day: str
    scores: dict[str, float | int | None] | None
    report: TrainReport | None
    predictions: tuple[Floats, Floats] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Replay:
    """Result of a replay.

    Attributes:
        state: The state after the last day that was trained on. Its recipe has the seed.
        days: One entry for each day, in order.
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
    keep_predictions: bool = False,
    on_result: Callable[[ReplayedDay], None] | None = None,
    on_pass: Callable[[TrainState, int], Callable[[Step], None]] | None = None,
) -> Replay:
    """Train a new model on days in order, and score each day before it is trained on.

    The result depends only on the arguments and the data: initial weights and random draws derive from `recipe.seed`.

    Args:
        spec: The dataset.
        days: Consecutive days, in ascending order; their `mds_datasets` are in the lake.
        lake: Where the data is stored. Nothing is written.
        recipe: How the model is trained; it also names the splits of each day to train on, and may end days early.
        scored: Days to score; by default all except the first, before which there is no model.
        scored_splits: Splits of a day that are scored.
        train_last: Whether to train on the last day too.
        keep_predictions: Whether to return the predictions of scored days, to compare them with those of another model.
        on_result: Called with the result of each day. It may raise to stop the replay.
        on_pass: Called with the state and the number of steps before each day is trained on. What it returns is called after
            each step, and may raise to stop the replay, for example to stop a trial early.

    Returns:
        The final state, and scores and report of each day.

    Raises:
        MissingPartition: A day's data is not in the lake.
        DivergedError: The loss is not finite.
        ValueError: `scored` contains the first day.
    """
    scored = days[1:] if scored is None else scored
    if days and days[0] in scored:
        raise ValueError(f"{days[0]} cannot be scored: it is the first day of the replay, so there is no model before it")
    state, done = first_state(lake, spec, days[0] if days else spec.first_day, recipe), []
    for number, day in enumerate(days, 1):
        scores = report = predictions = None
        read = partial(BlockReader, lake, spec, [day], order="time")
        if day in scored:
            reader = read(splits=scored_splits, batch_size=EVALUATION_BATCH)
            predictions = predictions_of(state, reader)
            scores = scores_of(state, *predictions)
        if train_last or number < len(days):
            reader = read(splits=recipe.splits, batch_size=recipe.batch_size)
            state.begin_pass()
            after_step = None if on_pass is None else on_pass(state, len(reader))
            early_stopping = EarlyStopping.of(recipe, read, len(reader))
            report = train_pass(state, reader, total_steps=len(reader), after_step=after_step, early_stopping=early_stopping)
        done.append(ReplayedDay(day, scores, report, predictions if keep_predictions else None))
        if on_result is not None:
            on_result(done[-1])
    return Replay(state, done)
